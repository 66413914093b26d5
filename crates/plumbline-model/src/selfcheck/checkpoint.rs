//! Our tensors for candle-transformers' models, whatever file they come from.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Error, Result, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use crate::spec::DecoderSpec;
use crate::weights::TensorSource;

const HEAD: &str = "lm_head.weight";

/// A checkpoint that keeps account of what was taken out of it.
#[derive(Clone)]
pub(super) struct Checkpoint(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// What the checkpoint leaves out of the names.
    omitted_prefix: Option<String>,
    /// The tensor that stands in for the head.
    tied_to: Option<String>,
}

struct State {
    source: Box<dyn TensorSource>,
    taken: BTreeSet<String>,
}

impl Checkpoint {
    pub(super) fn new(source: Box<dyn TensorSource>, spec: &DecoderSpec) -> Self {
        let bare = !source.names().iter().any(|name| name.starts_with(&spec.base_prefix));
        Self(Arc::new(Shared {
            omitted_prefix: bare.then(|| spec.base_prefix.clone()),
            tied_to: spec.head.weight.is_none().then(|| spec.embedding.clone()),
            state: Mutex::new(State { source, taken: BTreeSet::new() }),
        }))
    }

    /// Tensors for a model in f32. Models that always have a head of their own get the embedding where the two are tied.
    pub(super) fn var_builder(&self, device: &Device) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), DType::F32, device.clone())
    }

    /// Tensors that our decoder uses and nobody took.
    pub(super) fn left_over(&self, spec: &DecoderSpec) -> Vec<String> {
        self.with(|state| {
            let names = state.source.names().into_iter();
            names.filter(|name| !state.taken.contains(name) && !spec.ignores(name)).collect()
        })
    }

    fn with<T>(&self, use_state: impl FnOnce(&mut State) -> T) -> T {
        // The state is whole after every step: a panic elsewhere leaves nothing half done.
        use_state(&mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn stored_name<'a>(&'a self, name: &'a str) -> &'a str {
        let name = match &self.0.tied_to {
            Some(embedding) if name == HEAD => embedding,
            _ => name,
        };
        self.0.omitted_prefix.as_deref().and_then(|prefix| name.strip_prefix(prefix)).unwrap_or(name)
    }

    fn take(&self, name: &str, expected: Option<&Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
        let stored = self.stored_name(name);
        self.with(|state| {
            let Some(info) = state.source.info(stored, &[]) else {
                return Err(Error::Msg(format!("it looks for a tensor `{name}`, which is not there")));
            };
            if let Some(expected) = expected.filter(|expected| expected.dims() != info.shape) {
                let expected = expected.dims();
                return Err(Error::Msg(format!("it takes `{name}` to be {expected:?} and not {:?}", info.shape)));
            }
            let tensor = state.source.load(stored, &info.shape, dtype, device);
            state.taken.insert(stored.to_owned());
            tensor.map_err(|error| Error::Msg(error.to_string()))
        })
    }
}

impl SimpleBackend for Checkpoint {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        self.take(name, Some(&shape), dtype, device)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        self.take(name, None, dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.with(|state| state.source.info(self.stored_name(name), &[]).is_some())
    }
}
