//! What is in the way of reading an exchange.

/// One reason why an exchange cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{pointer}: {detail}")]
pub struct ExchangeError {
    /// Stable, machine-readable kind.
    pub code: ExchangeErrorCode,
    /// JSON pointer (RFC 6901) relative to the exchange, `/response/choices/0/token_ids`. It exists, or its parent does
    /// and the field is the one that is missing.
    pub pointer: String,
    /// The reason, and where there is one the request flag that helps.
    pub detail: String,
}

/// Kinds of [`ExchangeError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExchangeErrorCode {
    /// The exact token ids are not there.
    MissingTokenIds,
    /// The logprobs are not there.
    MissingLogprobs,
    /// The shape of the body is that of no engine, or of several.
    UnknownEngine,
    /// The shape of the body, or its route, is that of another engine than the one named.
    EngineMismatch,
    /// Two places of the exchange contradict each other.
    Contradictory,
    /// The response is the engine's error message.
    EngineFailed,
    /// Logprobs of this kind cannot be reproduced with what was asked of the engine.
    IrreproducibleMode,
    /// Something that the reference cannot score (images, a shifted context, probabilities after sampling).
    Unsupported,
    /// A field is missing.
    MissingField,
    /// A field has the wrong type.
    InvalidType,
    /// A field has a value that makes no sense.
    InvalidValue,
    /// An integer that can be no token id of any model.
    TokenOutOfVocabulary,
    /// A streamed response that cannot be put together.
    MalformedStream,
}

impl ExchangeErrorCode {
    /// Every kind.
    pub const ALL: [Self; 13] = [
        Self::MissingTokenIds,
        Self::MissingLogprobs,
        Self::UnknownEngine,
        Self::EngineMismatch,
        Self::Contradictory,
        Self::EngineFailed,
        Self::IrreproducibleMode,
        Self::Unsupported,
        Self::MissingField,
        Self::InvalidType,
        Self::InvalidValue,
        Self::TokenOutOfVocabulary,
        Self::MalformedStream,
    ];

    /// The code used in problem documents.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MissingTokenIds => "missing_token_ids",
            Self::MissingLogprobs => "missing_logprobs",
            Self::UnknownEngine => "unknown_engine",
            Self::EngineMismatch => "engine_mismatch",
            Self::Contradictory => "contradictory_exchange",
            Self::EngineFailed => "engine_failed",
            Self::IrreproducibleMode => "irreproducible_logprobs_mode",
            Self::Unsupported => "unsupported_exchange",
            Self::MissingField => "missing_field",
            Self::InvalidType => "invalid_type",
            Self::InvalidValue => "invalid_value",
            Self::TokenOutOfVocabulary => "token_out_of_vocabulary",
            Self::MalformedStream => "malformed_stream",
        }
    }
}

/// What reading gives, or the one reason why it does not.
pub(super) type Found<T> = Result<T, ExchangeError>;

/// Reasons, as they are found: reading goes on where it can, so that all are reported at once.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<ExchangeError>);

impl Problems {
    /// The value, or `None` and the reason is kept.
    pub(super) fn keep<T>(&mut self, found: Found<T>) -> Option<T> {
        match found {
            Ok(value) => Some(value),
            Err(error) => {
                self.0.push(error);
                None
            }
        }
    }

    /// Everything found so far, if that is anything.
    pub(super) fn check(&mut self) -> Result<(), Vec<ExchangeError>> {
        if self.0.is_empty() { Ok(()) } else { Err(std::mem::take(&mut self.0)) }
    }
}
