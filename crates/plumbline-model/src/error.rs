//! Errors of loading, and what a failed forward means.

use std::path::PathBuf;

use plumbline_core::ModelError;

use crate::selfcheck::Comparison;
use crate::spec::ConfigError;
use crate::weights::WeightsError;

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The configuration was refused.
    #[error("{model}: {source}")]
    Config {
        /// The model.
        model: String,
        /// Why.
        source: ConfigError,
    },
    /// The weights were refused.
    #[error("{model}: {source}")]
    Weights {
        /// The model.
        model: String,
        /// Why.
        source: WeightsError,
    },
    /// The model is neither a path nor a hub id.
    #[error(
        "there is no folder or file {}, and it is not written like a Hugging Face hub id (NAME or ORGANISATION/NAME) either",
        path.display()
    )]
    NothingThere {
        /// What was asked for.
        path: PathBuf,
    },
    /// A revision of something that has none.
    #[error("revision {revision} was asked for, but {} is a folder or file: only models of the hub have revisions", path.display())]
    RevisionOfPath {
        /// The folder or file.
        path: PathBuf,
        /// The revision.
        revision: String,
    },
    /// A model of the hub, in a build that cannot load one.
    #[error(
        "there is no folder or file {id}, and as a Hugging Face hub id it cannot be loaded: built without the feature `hub`"
    )]
    WithoutHub {
        /// The model.
        id: String,
    },
    /// A model of the hub could not be had.
    #[cfg(feature = "hub")]
    #[error(transparent)]
    Hub(#[from] crate::hub::HubError),
    /// The device cannot be used.
    #[error("device {device} cannot be used: {reason}")]
    Device {
        /// The device that was asked for.
        device: String,
        /// Why not.
        reason: String,
    },
    /// The cross-check with another implementation broke off.
    #[error("{model}: the self-check failed: {reason}")]
    SelfCheck {
        /// The model.
        model: String,
        /// Why.
        reason: String,
    },
    /// Another implementation computes other numbers from the same weights.
    #[error("{model}: the reference and a second opinion disagree: {comparison}")]
    Disagreement {
        /// The model.
        model: String,
        /// By how much, and where.
        comparison: Box<Comparison>,
    },
    /// The configuration is contradictory.
    #[error("{model}: {reason}")]
    Inconsistent {
        /// The model.
        model: String,
        /// How.
        reason: String,
    },
}

/// What a tensor library error means for the caller. Backtraces stay out of the text.
pub(crate) fn classify(error: &candle_core::Error) -> ModelError {
    let text = message(error);
    let out_of_memory = ["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED", "out of memory"];
    if out_of_memory.iter().any(|marker| text.contains(marker)) {
        ModelError::OutOfMemory(text)
    } else {
        ModelError::Device(text)
    }
}

/// The innermost message: candle's `Display` appends a backtrace where one was taken.
pub(crate) fn message(error: &candle_core::Error) -> String {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } | candle_core::Error::WithPath { inner, .. } => message(inner),
        candle_core::Error::Context { inner, context } => format!("{context}: {}", message_of(inner.as_ref())),
        other => other.to_string(),
    }
}

fn message_of(error: &(dyn std::error::Error + 'static)) -> String {
    error.downcast_ref::<candle_core::Error>().map_or_else(|| error.to_string(), message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_of_memory_is_recognised_behind_a_backtrace() {
        let cuda = candle_core::Error::Cuda("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")".into());
        assert!(matches!(classify(&cuda.bt()), ModelError::OutOfMemory(_)));
        let other = candle_core::Error::Msg("shape mismatch".into()).bt();
        assert_eq!(classify(&other), ModelError::Device("shape mismatch".into()));
    }
}
