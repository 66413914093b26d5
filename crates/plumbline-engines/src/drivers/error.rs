//! Why an engine gave no answer.

use std::time::Duration;

/// What went wrong with an engine's server. No variant holds a key.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DriverError {
    /// The address is not one that can be asked.
    #[error("{url:?} is no address of an engine: {reason}")]
    Address {
        /// As given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// TLS cannot be set up.
    #[error("{url} cannot be asked over TLS: {reason}")]
    Tls {
        /// The address.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The server's certificate is not one that is trusted.
    #[error("{url} is not trusted: {reason}; its authority can be given as a file")]
    Distrusted {
        /// The address asked.
        url: String,
        /// What is wrong with the certificate.
        reason: String,
    },
    /// Nothing answers, after all attempts.
    #[error("{url} cannot be reached: {reason} ({attempts} attempts)")]
    Unreachable {
        /// The address asked.
        url: String,
        /// The last attempt's reason.
        reason: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// The engine answered with an error, after all attempts where another attempt could help.
    #[error("{path} answered {status}: {message} ({attempts} attempts)")]
    Refused {
        /// Path of the request.
        path: String,
        /// HTTP status.
        status: u16,
        /// What the server said, shortened.
        message: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// The engine asks to be left alone for longer than allowed.
    #[error("{path} answered {status} and wants to be asked again after {wait:?}, longer than the limit of {limit:?}")]
    WaitTooLong {
        /// Path of the request.
        path: String,
        /// HTTP status.
        status: u16,
        /// What `Retry-After` says.
        wait: Duration,
        /// The longest wait allowed.
        limit: Duration,
    },
    /// The body is not what the route answers with.
    #[error("{path} answered with something else than expected: {reason}")]
    Answer {
        /// Path of the request.
        path: String,
        /// What was expected and what was there.
        reason: String,
    },
    /// The engine does not say which model it serves, or serves several.
    #[error("the model to ask for is not clear: {0}")]
    Model(String),
    /// The answer has no token ids, and text is never tokenised again.
    #[error("{0}")]
    MissingTokenIds(String),
    /// The engine has no route for what was asked.
    #[error("{0}")]
    NotSupported(&'static str),
}

impl DriverError {
    /// The status of a refusal.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } | Self::WaitTooLong { status, .. } => Some(*status),
            _ => None,
        }
    }
}
