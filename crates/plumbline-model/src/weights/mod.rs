//! Checkpoints: where tensors come from, and the check that a model uses all of them and lacks none.

mod adapter;
mod contents;
mod gguf;
mod loader;
mod mmap;
mod random;
mod safetensors_file;

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

pub(crate) use loader::{Linear, Norm, WeightLoader, WeightSizes};
pub(crate) use random::RandomWeights;
use safetensors_file::SafetensorsFile;

use crate::spec::DecoderSpec;

/// Why weights were refused.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{path} is not usable: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The folder has no weights in a known format.
    #[error("{path} has neither model.safetensors nor model.safetensors.index.json")]
    NoWeights {
        /// The folder.
        path: PathBuf,
    },
    /// The checkpoint does not fit the configuration. Every problem is listed.
    #[error("the checkpoint does not fit its configuration: {}", problems.join("; "))]
    Mismatch {
        /// One entry per tensor.
        problems: Vec<String>,
    },
    /// An adapter cannot be merged. Every problem is listed.
    #[error("the adapter {path} does not fit the model: {}", problems.join("; "))]
    Adapter {
        /// The adapter's folder.
        path: PathBuf,
        /// One entry per key or tensor.
        problems: Vec<String>,
    },
    /// The tensor library failed.
    #[error("cannot load tensor {name}: {reason}")]
    Tensor {
        /// The tensor.
        name: String,
        /// The library's reason.
        reason: String,
    },
}

/// What is known of a stored tensor before it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TensorInfo {
    pub(crate) shape: Vec<usize>,
}

/// Where tensors come from. Names are Hugging Face's.
pub(crate) trait TensorSource: Send {
    /// All tensor names.
    fn names(&self) -> Vec<String>;
    /// What is stored under a name. `expected` is the shape that the caller hopes for; only random weights follow it.
    fn info(&self, name: &str, expected: &[usize]) -> Option<TensorInfo>;
    /// Loads one tensor, whose shape is `shape`, converted to `dtype`.
    fn load(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor, WeightsError>;
    /// What this source would have changed in tensors that nobody loaded.
    fn unapplied(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Opens the safetensors of a Hugging Face folder: one file, or the shards that an index names.
pub(crate) fn open_directory(directory: &Path) -> Result<Box<dyn TensorSource>, WeightsError> {
    let single = directory.join("model.safetensors");
    let index = directory.join("model.safetensors.index.json");
    if index.is_file() {
        Ok(Box::new(SafetensorsFile::open_shards(directory, &index)?))
    } else if single.is_file() {
        Ok(Box::new(SafetensorsFile::open(&[single])?))
    } else {
        Err(WeightsError::NoWeights { path: directory.into() })
    }
}

/// Opens a GGUF file; answers its tensors and the Hugging Face configuration that its metadata amounts to.
pub(crate) fn open_gguf(path: &Path) -> Result<(Box<dyn TensorSource>, Vec<u8>), WeightsError> {
    let (file, config) = gguf::GgufFile::open(path)?;
    Ok((Box::new(file), config))
}

/// Merges the LoRA adapter of a PEFT folder into the tensors of `base`, which is a checkpoint of `spec`.
pub(crate) fn merge_adapter(
    base: Box<dyn TensorSource>,
    adapter: &Path,
    spec: &DecoderSpec,
) -> Result<Box<dyn TensorSource>, WeightsError> {
    Ok(Box::new(adapter::MergedAdapter::open(base, adapter, spec)?))
}

/// Reads safetensors that are part of the binary.
pub(crate) fn open_embedded(bytes: &'static [u8]) -> Result<Box<dyn TensorSource>, WeightsError> {
    Ok(Box::new(SafetensorsFile::from_static("embedded model.safetensors", bytes)?))
}
