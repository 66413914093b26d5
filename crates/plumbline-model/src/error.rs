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
    if is_out_of_memory(error, &text) { ModelError::OutOfMemory(text) } else { ModelError::Device(text) }
}

/// What the drivers say in builds that do not know their error types.
const OUT_OF_MEMORY_TEXTS: [&str; 3] = ["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED", "out of memory"];

fn is_out_of_memory(error: &candle_core::Error, text: &str) -> bool {
    #[cfg(feature = "cuda")]
    if let Some(known) = cuda_out_of_memory(error) {
        return known;
    }
    #[cfg(not(feature = "cuda"))]
    let _ = error;
    OUT_OF_MEMORY_TEXTS.iter().any(|marker| text.contains(marker))
}

/// Whether a CUDA error is one of memory; `None` if the error is none of CUDA's.
#[cfg(feature = "cuda")]
fn cuda_out_of_memory(error: &candle_core::Error) -> Option<bool> {
    use candle_core::cuda_backend::CudaError;
    use candle_core::cuda_backend::cudarc::cublas::sys::cublasStatus_t;
    use candle_core::cuda_backend::cudarc::driver::sys::CUresult;

    let candle_core::Error::Cuda(cause) = innermost(error) else { return None };
    cause.downcast_ref().map(|error| match error {
        CudaError::Cuda(error) | CudaError::Load { cuda: error, .. } => error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY,
        CudaError::Cublas(error) => error.0 == cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED,
        _ => false,
    })
}

/// The error without what was added on its way.
#[cfg(feature = "cuda")]
fn innermost(error: &candle_core::Error) -> &candle_core::Error {
    match error {
        candle_core::Error::WithBacktrace { inner, .. }
        | candle_core::Error::WithPath { inner, .. }
        | candle_core::Error::Context { inner, .. } => innermost(inner),
        other => other,
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

    /// Runs only where the tests of a CUDA build run.
    #[cfg(feature = "cuda")]
    #[test]
    fn cuda_errors_are_told_apart_by_type() {
        use candle_core::cuda_backend::CudaError;
        use candle_core::cuda_backend::cudarc::cublas::{result::CublasError, sys::cublasStatus_t};
        use candle_core::cuda_backend::cudarc::driver::{DriverError, sys::CUresult};

        let driver = |code| CudaError::Cuda(DriverError(code));
        let cublas = |code| CudaError::Cublas(CublasError(code));
        let load =
            CudaError::Load { cuda: DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY), module_name: "affine".into() };
        for (error, memory) in [
            (driver(CUresult::CUDA_ERROR_OUT_OF_MEMORY), true),
            (driver(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS), false),
            (cublas(cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED), true),
            (cublas(cublasStatus_t::CUBLAS_STATUS_EXECUTION_FAILED), false),
            (load, true),
            (CudaError::InternalError("out of memory in name only"), false),
        ] {
            let error = candle_core::Error::from(error).context("a layer");
            assert_eq!(matches!(classify(&error), ModelError::OutOfMemory(_)), memory, "{error}");
        }
    }
}
