//! Why text or a prompt cannot be had.

use std::path::PathBuf;

/// What went wrong with a tokenizer or a chat template.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A tokenizer file does not say what it must, or asks for what cannot be done exactly.
    #[error("{file}: {reason}")]
    File {
        /// The file's name.
        file: String,
        /// Why it was refused.
        reason: String,
    },
    /// The tokenizer could not encode or decode.
    #[error("the tokenizer failed: {0}")]
    Tokenizer(String),
    /// A token id that the tokenizer does not know.
    #[error("token id {0} is not in the tokenizer's vocabulary")]
    UnknownToken(u32),
    /// The model has no chat template.
    #[error("the model has no chat template")]
    NoTemplate,
    /// A named template was asked for and there is none of that name.
    #[error("there is no chat template named {name:?}; there are: {}", known.join(", "))]
    UnknownTemplate {
        /// The name asked for.
        name: String,
        /// The names that exist.
        known: Vec<String>,
    },
    /// The conversation is not one that a template can take.
    #[error("the conversation cannot be rendered: {0}")]
    Chat(String),
    /// The template could not be compiled, refused the conversation, or does what cannot be done exactly.
    #[error("chat template {name:?}, line {line}: {reason}")]
    Template {
        /// The template's name.
        name: String,
        /// Line of the template, from 1; 0 where it is not known.
        line: usize,
        /// Why.
        reason: String,
    },
}

impl TextError {
    /// A refused template, from the engine's error.
    pub(super) fn template(name: &str, error: &minijinja::Error) -> Self {
        let mut reason = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
        let mut source = std::error::Error::source(error);
        let mut line = error.line();
        while let Some(inner) = source {
            if let Some(inner) = inner.downcast_ref::<minijinja::Error>() {
                reason = inner.detail().map_or_else(|| inner.kind().to_string(), str::to_owned);
                line = inner.line().or(line);
            } else {
                reason = inner.to_string();
            }
            source = inner.source();
        }
        Self::Template { name: name.to_owned(), line: line.unwrap_or(0), reason }
    }
}
