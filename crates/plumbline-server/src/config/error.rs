//! What is wrong with a configuration: every bad key at once, by name, value, reason and source.

use std::fmt;
use std::path::PathBuf;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file that was asked for cannot be read.
    #[error("cannot read configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("configuration file {} is not valid TOML: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// Flags or defaults that cannot be represented as keys: a defect of the caller.
    #[error("configuration cannot be assembled: {0}")]
    Assembly(#[from] Box<figment::Error>),
    /// Keys that are unknown or have unusable values.
    #[error("invalid configuration:{}", list(.0))]
    Keys(Vec<KeyProblem>),
}

/// One bad key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyProblem {
    /// The key's name.
    pub key: String,
    /// Its value, as text.
    pub value: String,
    /// What is wrong with it.
    pub reason: String,
    /// Where the value comes from.
    pub source: String,
}

impl fmt::Display for KeyProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {} ({}): {}", self.key, self.value, self.source, self.reason)
    }
}

fn list(problems: &[KeyProblem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}
