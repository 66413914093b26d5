//! From a folder or embedded files to a resident reference.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use plumbline_core::{ComputeDevice, FloatType, Kernels};

use crate::compute;
use crate::decoder::Decoder;
use crate::error::{LoadError, message};
use crate::profile::Profile;
use crate::reference::CandleReference;
use crate::spec::DecoderSpec;
use crate::text::{TextError, Tokenizer};
use crate::weights::{self, RandomWeights, TensorSource, WeightLoader};

/// Where a model comes from.
#[derive(Clone, Debug)]
pub enum ModelSource {
    /// A Hugging Face folder: `config.json` and safetensors, one file or sharded.
    Directory(PathBuf),
    /// A GGUF file: weights and configuration in one.
    Gguf(PathBuf),
    /// A model of the Hugging Face hub.
    #[cfg(feature = "hub")]
    Hub(crate::hub::HubModel),
    /// A model that is part of the binary.
    Embedded(EmbeddedModel),
    /// Random weights for a folder's `config.json`: for measuring throughput, the scores mean nothing.
    RandomInit(PathBuf),
}

/// The files of a model that is part of the binary.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddedModel {
    /// Its name in answers.
    pub name: &'static str,
    /// `config.json`.
    pub config: &'static [u8],
    /// `generation_config.json`, if there is one.
    pub generation_config: Option<&'static [u8]>,
    /// `model.safetensors`.
    pub weights: &'static [u8],
    /// Files of the tokenizer and the chat template by their names, as [`Tokenizer::from_embedded`] takes them.
    pub tokenizer: &'static [(&'static str, &'static [u8])],
}

/// How to load.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Name of the model in answers and metrics; `None` = [`ModelSource::name`].
    pub name: Option<String>,
    /// Version of the weights, an opaque string.
    pub policy_version: String,
    /// A PEFT folder whose LoRA adapter is merged into the weights.
    pub adapter: Option<PathBuf>,
    /// Number format of the decoder body.
    pub dtype: FloatType,
    /// Number format in which the lm_head multiplies.
    pub head_dtype: FloatType,
    /// Where the model lives and computes.
    pub device: ComputeDevice,
    /// Which implementation of the operations runs.
    pub kernels: Kernels,
    /// Memory for logits, in bytes: they are computed for so many rows (and, by the CPU kernels, columns) at a time. At
    /// least one row of the vocabulary is held (by the CPU kernels, eight rows of 2048 columns).
    pub head_chunk_bytes: usize,
    /// Memory for what lies between the two projections of an MLP, in bytes: as many rows at a time, at least eight. Too
    /// little makes products slow: the weights are read once for every so many rows. On a GPU without flash attention, the
    /// scores of a block of attention take up to twice as much.
    pub mlp_chunk_bytes: usize,
    /// Where the CPU kernels count their time; `None` = nowhere.
    pub profile: Option<Arc<Profile>>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            name: None,
            policy_version: String::new(),
            adapter: None,
            dtype: FloatType::default(),
            head_dtype: FloatType::default(),
            device: ComputeDevice::default(),
            kernels: Kernels::default(),
            head_chunk_bytes: 64 << 20,
            mlp_chunk_bytes: 64 << 20,
            profile: None,
        }
    }
}

impl ModelSource {
    /// A GGUF file where `path` is a file, else a Hugging Face folder.
    #[must_use]
    pub fn from_path(path: PathBuf) -> Self {
        if path.is_file() { Self::Gguf(path) } else { Self::Directory(path) }
    }

    /// The model's name in answers: the last part of its path, or its hub id.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Directory(path) | Self::Gguf(path) | Self::RandomInit(path) => {
                let named = path.canonicalize().unwrap_or_else(|_| path.clone());
                named
                    .file_name()
                    .map_or_else(|| named.display().to_string(), |name| name.to_string_lossy().into_owned())
            }
            #[cfg(feature = "hub")]
            Self::Hub(model) => model.id.clone(),
            Self::Embedded(model) => model.name.into(),
        }
    }

    /// Loads the model, under `options.name` if that is given. A model of the hub is downloaded if the cache lacks it.
    ///
    /// # Errors
    /// [`LoadError`] says which file, configuration key or tensor is in the way.
    pub fn load(&self, options: &LoadOptions) -> Result<CandleReference, LoadError> {
        let name = options.name.clone().unwrap_or_else(|| self.name());
        let (dtype, head_dtype) = (compute::dtype(options.dtype), compute::dtype(options.head_dtype));
        let device = compute::open(options.device)
            .map_err(|reason| LoadError::Device { device: options.device.to_string(), reason })?;
        let resolved = self.resolved()?;
        let Opened { config, generation_config, weights: mut source } = resolved.open(&name)?;
        let spec = described(&name, &config, generation_config)?;
        let refused_weights = |source| LoadError::Weights { model: name.clone(), source };
        if let Some(adapter) = &options.adapter {
            source = weights::merge_adapter(source, adapter, &spec).map_err(refused_weights)?;
        }
        let loader = WeightLoader::new(source.as_ref(), &spec.base_prefix, dtype, &device);
        let decoder = Decoder::load(spec.clone(), &loader, dtype, head_dtype, &device).map_err(refused_weights)?;
        let mut sizes = loader.finish(|tensor| spec.ignores(tensor)).map_err(refused_weights)?;
        // Uploads are asynchronous, in an order that only this thread sees, and another thread may score.
        device
            .synchronize()
            .map_err(|error| LoadError::Device { device: options.device.to_string(), reason: message(&error) })?;
        if spec.head.weight.is_none() && head_dtype != dtype {
            // The head is a copy of the embedding then.
            sizes.bytes += (spec.vocab_size * spec.hidden_size * head_dtype.size_in_bytes()) as u64;
        }
        Ok(CandleReference::new(decoder, name.clone(), options, resolved, &device, sizes))
    }

    /// The files that this stands for at present. A model of the hub becomes the folder of its snapshot in the cache, and is
    /// downloaded first where need be.
    fn resolved(&self) -> Result<Self, LoadError> {
        Ok(match self {
            #[cfg(feature = "hub")]
            Self::Hub(model) => Self::Directory(model.snapshot()?.folder),
            files => files.clone(),
        })
    }

    /// What the model is, from its configuration alone.
    ///
    /// # Errors
    /// [`LoadError`] as of [`ModelSource::load`], but for the weights.
    pub fn spec(&self) -> Result<DecoderSpec, LoadError> {
        let name = self.name();
        let Opened { config, generation_config, .. } = self.open(&name)?;
        described(&name, &config, generation_config)
    }

    /// The model's tokenizer; `None` where it has no tokenizer files (a GGUF file's own is not read).
    ///
    /// # Errors
    /// Files that cannot be read or ask for what is not supported, and a hub model that cannot be had.
    pub fn tokenizer(&self) -> Result<Option<Tokenizer>, TokenizerError> {
        Ok(match self {
            Self::Directory(folder) | Self::RandomInit(folder) => Tokenizer::from_folder(folder)?,
            #[cfg(feature = "hub")]
            Self::Hub(model) => Tokenizer::from_folder(&model.snapshot().map_err(LoadError::from)?.folder)?,
            Self::Gguf(_) => None,
            Self::Embedded(model) => Tokenizer::from_embedded(model.tokenizer)?,
        })
    }

    /// Opens the files without reading any weight; has them downloaded first where need be.
    pub(crate) fn open(&self, name: &str) -> Result<Opened, LoadError> {
        let refused = |source| LoadError::Weights { model: name.into(), source };
        Ok(match self {
            Self::Directory(directory) => Opened {
                config: read(&directory.join("config.json"))?,
                generation_config: read_optional(&directory.join("generation_config.json"))?,
                weights: weights::open_directory(directory).map_err(refused)?,
            },
            #[cfg(feature = "hub")]
            Self::Hub(_) => return self.resolved()?.open(name),
            Self::Gguf(path) => {
                let (weights, config) = weights::open_gguf(path).map_err(refused)?;
                Opened { config, generation_config: None, weights }
            }
            Self::Embedded(model) => Opened {
                config: model.config.to_vec(),
                generation_config: model.generation_config.map(<[u8]>::to_vec),
                weights: weights::open_embedded(model.weights).map_err(refused)?,
            },
            Self::RandomInit(directory) => Opened {
                config: read(&directory.join("config.json"))?,
                generation_config: read_optional(&directory.join("generation_config.json"))?,
                weights: Box::new(RandomWeights::new()),
            },
        })
    }
}

/// Why a model's tokenizer is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The model itself is not.
    #[error(transparent)]
    Model(#[from] LoadError),
    /// Its files are unusable.
    #[error(transparent)]
    Text(#[from] TextError),
}

fn described(name: &str, config: &[u8], generation_config: Option<Vec<u8>>) -> Result<DecoderSpec, LoadError> {
    let refused = |source| LoadError::Config { model: name.into(), source };
    let mut spec = DecoderSpec::from_config_json(config).map_err(refused)?;
    if let Some(json) = generation_config {
        spec.add_generation_config(&json).map_err(refused)?;
    }
    if let Some(id) = spec.eos_token_ids.iter().find(|id| **id as usize >= spec.vocab_size) {
        let reason = format!("eos_token_id {id} is not below vocab_size {}", spec.vocab_size);
        return Err(LoadError::Inconsistent { model: name.into(), reason });
    }
    Ok(spec)
}

/// The files of a model.
pub(crate) struct Opened {
    pub(crate) config: Vec<u8>,
    pub(crate) generation_config: Option<Vec<u8>>,
    pub(crate) weights: Box<dyn TensorSource>,
}

impl DecoderSpec {
    /// Whether a stored tensor carries nothing of its own: buffers that older checkpoints stored, the copy of a tied head,
    /// and what the family has no use for.
    pub(crate) fn ignores(&self, tensor: &str) -> bool {
        tensor.ends_with("rotary_emb.inv_freq")
            || (self.head.weight.is_none() && tensor == "lm_head.weight")
            || self.ignorable_tensors.iter().any(|part| match part.strip_suffix('.') {
                Some(_) => tensor.starts_with(part.as_str()),
                None => tensor.ends_with(part.as_str()),
            })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    std::fs::read(path).map_err(|source| LoadError::Read { path: path.into(), source })
}

fn read_optional(path: &Path) -> Result<Option<Vec<u8>>, LoadError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(LoadError::Read { path: path.into(), source }),
    }
}
