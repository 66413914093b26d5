//! LoRA adapters in PEFT's format, merged into the weights as they are loaded: `W + scale * B A`.

mod config;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use super::safetensors_file::SafetensorsFile;
use super::{TensorInfo, TensorSource, WeightsError};
use crate::spec::DecoderSpec;
use config::AdapterConfig;

/// What every tensor name of an adapter begins with: PEFT's wrapper around the model.
const WRAPPER: &str = "base_model.model.";

/// A checkpoint with an adapter merged into it.
pub(super) struct MergedAdapter {
    base: Box<dyn TensorSource>,
    adapter: SafetensorsFile,
    /// By the name of the tensor of `base` that changes.
    changes: BTreeMap<String, Change>,
    applied: RefCell<BTreeSet<String>>,
}

/// What an adapter does to one tensor. Names are those of its own tensors.
#[derive(Debug, Default)]
struct Change {
    /// Takes the tensor's place before anything is added.
    replacement: Option<String>,
    low_rank: Option<LowRank>,
}

/// Adds `scale * up down`, transposed where the weight is stored `[in, out]` (as embeddings are).
#[derive(Debug)]
struct LowRank {
    down: String,
    up: String,
    scale: f64,
    transposed: bool,
}

/// The part of a change that one tensor of an adapter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Down,
    Up,
    Replacement,
}

impl MergedAdapter {
    /// Opens a PEFT folder and checks that all of it fits the model.
    pub(super) fn open(base: Box<dyn TensorSource>, folder: &Path, spec: &DecoderSpec) -> Result<Self, WeightsError> {
        let refused = |problems| WeightsError::Adapter { path: folder.into(), problems };
        let config_path = folder.join("adapter_config.json");
        let json = std::fs::read(&config_path)
            .map_err(|source| WeightsError::Read { path: PathBuf::from(&config_path), source })?;
        let config = AdapterConfig::parse(&json).map_err(refused)?;
        let adapter = SafetensorsFile::open(&[folder.join("adapter_model.safetensors")])?;

        let plan = Plan { base: base.as_ref(), adapter: &adapter, config: &config, spec };
        let changes = plan.changes().map_err(refused)?;
        Ok(Self { base, adapter, changes, applied: RefCell::default() })
    }

    fn merge(&self, change: &Change, name: &str, shape: &[usize], dtype: DType) -> Result<Tensor, WeightsError> {
        // The sum is rounded to the target once: adding in bf16 would drop most of a small update.
        let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let from_adapter = |name: &str| {
            let shape = self.adapter.info(name, &[]).map(|info| info.shape).unwrap_or_default();
            self.adapter.load(name, &shape, wide, &Device::Cpu)
        };
        let weight = match &change.replacement {
            Some(replacement) => from_adapter(replacement)?,
            None => self.base.load(name, shape, wide, &Device::Cpu)?,
        };
        let Some(LowRank { down, up, scale, transposed }) = &change.low_rank else {
            return Ok(weight);
        };
        let (down, up) = (from_adapter(down)?, from_adapter(up)?);
        up.matmul(&down)
            .and_then(|product| if *transposed { product.t()?.contiguous() } else { Ok(product) })
            .and_then(|product| weight + (product * *scale)?)
            .map_err(|source| WeightsError::Tensor { name: name.into(), reason: source.to_string() })
    }
}

impl TensorSource for MergedAdapter {
    fn names(&self) -> Vec<String> {
        self.base.names()
    }

    fn info(&self, name: &str, expected: &[usize]) -> Option<TensorInfo> {
        match self.changes.get(name).and_then(|change| change.replacement.as_ref()) {
            Some(replacement) => self.adapter.info(replacement, expected),
            None => self.base.info(name, expected),
        }
    }

    fn load(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor, WeightsError> {
        let Some(change) = self.changes.get(name) else {
            return self.base.load(name, shape, dtype, device);
        };
        self.applied.borrow_mut().insert(name.to_owned());
        self.merge(change, name, shape, dtype)?
            .to_dtype(dtype)
            .and_then(|tensor| tensor.to_device(device))
            .map_err(|source| WeightsError::Tensor { name: name.into(), reason: source.to_string() })
    }

    fn unapplied(&self) -> Vec<String> {
        let applied = self.applied.borrow();
        self.changes.keys().filter(|name| !applied.contains(*name)).map(|name| format!("adapter of {name}")).collect()
    }
}

/// Everything that decides what an adapter changes.
struct Plan<'a> {
    base: &'a dyn TensorSource,
    adapter: &'a SafetensorsFile,
    config: &'a AdapterConfig,
    spec: &'a DecoderSpec,
}

/// The tensors of an adapter for one tensor of the model.
#[derive(Default)]
struct Found {
    module: String,
    embedding: bool,
    roles: BTreeMap<Role, String>,
}

impl Plan<'_> {
    /// The changes by tensor, or every problem.
    fn changes(&self) -> Result<BTreeMap<String, Change>, Vec<String>> {
        let mut problems = Vec::new();
        let base_names: BTreeSet<String> = self.base.names().into_iter().collect();
        let mut found: BTreeMap<String, Found> = BTreeMap::new();
        for tensor in self.adapter.names() {
            let Some(target) = tensor.strip_prefix(WRAPPER).map(Target::parse) else {
                problems.push(format!("{tensor} does not begin with {WRAPPER}"));
                continue;
            };
            let Some(name) = self.resolve(&target.tensor, &base_names) else {
                problems.push(format!("{tensor}: the model has no {}", target.tensor));
                continue;
            };
            let entry = found.entry(name).or_default();
            entry.module = target.module;
            entry.embedding |= target.embedding;
            if let Some(other) = entry.roles.insert(target.role, tensor.clone()) {
                problems.push(format!("{tensor} and {other} are the same part of the model's {}", target.tensor));
            }
        }
        for module in &self.config.modules_to_save {
            let saved = |found: &&Found| {
                found.roles.contains_key(&Role::Replacement)
                    && (found.module == *module || found.module.ends_with(&format!(".{module}")))
            };
            if !found.values().any(|entry| saved(&entry)) {
                problems.push(format!("`modules_to_save` names {module}, of which the adapter has no tensor"));
            }
        }
        let mut changes = BTreeMap::new();
        for (name, found) in found {
            match self.change(&name, found) {
                Ok(change) => {
                    changes.insert(name, change);
                }
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() { Ok(changes) } else { Err(problems) }
    }

    /// The checkpoint's name of a tensor: checkpoints and adapters of the bare decoder leave the base prefix out.
    fn resolve(&self, tensor: &str, base_names: &BTreeSet<String>) -> Option<String> {
        let prefix = &self.spec.base_prefix;
        let candidates = [Some(tensor.to_owned()), tensor.strip_prefix(prefix.as_str()).map(str::to_owned)];
        let longer = Some(format!("{prefix}{tensor}"));
        candidates.into_iter().chain([longer]).flatten().find(|candidate| base_names.contains(candidate))
    }

    fn change(&self, name: &str, found: Found) -> Result<Change, String> {
        let is_embedding =
            name == self.spec.embedding || format!("{}{name}", self.spec.base_prefix) == self.spec.embedding;
        if is_embedding && self.spec.head.weight.is_none() {
            return Err(format!("{name} is the lm_head too, and PEFT would change only one of the two"));
        }
        let Found { module, embedding, mut roles } = found;
        let mut take = |role| roles.remove(&role);
        let (replacement, down, up) = (take(Role::Replacement), take(Role::Down), take(Role::Up));
        let base_shape = self.base.info(name, &[]).map(|info| info.shape).unwrap_or_default();
        let shape = |tensor: &str| self.adapter.info(tensor, &[]).map(|info| info.shape).unwrap_or_default();
        if let Some(tensor) = replacement.as_ref().filter(|tensor| shape(tensor) != base_shape) {
            return Err(format!("{tensor} is {:?}, the model's {name} is {base_shape:?}", shape(tensor)));
        }
        let low_rank = match (down, up) {
            (None, None) => None,
            (Some(down), None) => return Err(format!("{down} has no lora_B beside it")),
            (None, Some(up)) => return Err(format!("{up} has no lora_A beside it")),
            (Some(down), Some(up)) => {
                let transposed = embedding || self.config.fan_in_fan_out;
                let [output, input] = match (base_shape.as_slice(), transposed) {
                    ([output, input], false) | ([input, output], true) => [*output, *input],
                    _ => return Err(format!("{name} is {base_shape:?}, which no LoRA can change")),
                };
                let rank = self.config.rank(&module)?;
                for (tensor, expected) in [(&down, [rank, input]), (&up, [output, rank])] {
                    if shape(tensor) != expected {
                        return Err(format!("{tensor} is {:?}, expected {expected:?}", shape(tensor)));
                    }
                }
                Some(LowRank { down, up, scale: self.config.scale(&module)?, transposed })
            }
        };
        Ok(Change { replacement, low_rank })
    }
}

/// Where a tensor of an adapter goes.
struct Target {
    module: String,
    /// The model's tensor that it changes.
    tensor: String,
    role: Role,
    embedding: bool,
}

impl Target {
    /// Reads a name without the wrapper. Anything that is no half of a LoRA is a whole tensor: of a module in
    /// `modules_to_save`, or of an embedding that PEFT saved along.
    fn parse(name: &str) -> Self {
        let halves = [
            (".lora_A.weight", Role::Down, false),
            (".lora_B.weight", Role::Up, false),
            (".lora_embedding_A", Role::Down, true),
            (".lora_embedding_B", Role::Up, true),
        ];
        for (suffix, role, embedding) in halves {
            if let Some(module) = name.strip_suffix(suffix) {
                return Self { module: module.into(), tensor: format!("{module}.weight"), role, embedding };
            }
        }
        let tensor = name.replace(".base_layer.", ".");
        let module = tensor.rsplit_once('.').map_or("", |(module, _)| module).to_owned();
        Self { module, tensor, role: Role::Replacement, embedding: false }
    }
}
