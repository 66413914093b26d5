//! Scores of a model that differs from the resident one in one thing. The resident model stays as it is: a variant shares its
//! weights, or reads its own.

use std::time::Instant;

use candle_core::{DType, Device};
use plumbline_core::{FloatType, ModelError, PackedBatch, Variant};

use crate::decoder::Decoder;
use crate::load::{ModelSource, Opened};
use crate::ops::{Ops, Rounding};
use crate::reference::{Scored, from_hidden};
use crate::spec::DecoderSpec;
use crate::weights::WeightLoader;

/// What a variant changes.
pub(crate) enum Change {
    /// Results are rounded.
    Rounding(Rounding),
    /// The same weights under another description.
    Spec(Box<DecoderSpec>),
    /// Weights are read without the adapter.
    BaseWeights,
}

impl Change {
    /// What a variant of a model changes; `None` if the model has no such variant.
    pub(crate) fn of(
        variant: &Variant,
        spec: &DecoderSpec,
        (dtype, head): (DType, DType),
        adapter: bool,
    ) -> Option<Self> {
        if let Some(rounding) = Rounding::of(variant) {
            // f16 has bits that bf16 has not, and too little range for the rest; a bf16 head cannot give f32 logits.
            let possible = dtype != DType::F16 && head != DType::F16 && (rounding.logits || head != DType::BF16);
            return possible.then_some(Self::Rounding(rounding));
        }
        if *variant == Variant::WithoutAdapter {
            return adapter.then_some(Self::BaseWeights);
        }
        spec.altered(variant).map(|spec| Self::Spec(Box::new(spec)))
    }
}

/// Where the weights of a model with an adapter came from, to read them again without it.
#[derive(Debug)]
pub(crate) struct BaseWeights {
    /// A folder or file, never a name that may come to stand for something else.
    pub(crate) source: ModelSource,
    pub(crate) dtype: FloatType,
    pub(crate) head_dtype: FloatType,
}

impl BaseWeights {
    /// Scores of a batch with the weights without the adapter. They are read for this one call: the embedding and the head
    /// are held while it lasts, the layers one at a time.
    pub(crate) fn score<O: Ops>(
        &self,
        spec: &DecoderSpec,
        device: &Device,
        batch: &PackedBatch,
        ops: &O,
    ) -> Result<Scored, BaseError> {
        let again = |reason: String| BaseError::Weights(format!("the base weights cannot be read again: {reason}"));
        let started = Instant::now();
        let Opened { weights, .. } = self.source.open(&self.source.name()).map_err(|error| again(error.to_string()))?;
        let (dtype, head_dtype) = (crate::compute::dtype(self.dtype), crate::compute::dtype(self.head_dtype));
        let loader = WeightLoader::new(weights.as_ref(), &spec.base_prefix, dtype, device);
        let mut decoder = Decoder::load_ends(spec.clone(), &loader, dtype, head_dtype, device)
            .map_err(|error| again(error.to_string()))?;
        let hidden = decoder.streamed_hidden_states(batch, ops, &loader).map_err(BaseError::Forward);
        // A checkpoint that does not fit is the cause of whatever went wrong in the forward.
        loader.finish(|tensor| spec.ignores(tensor)).map_err(|error| again(error.to_string()))?;
        from_hidden(&decoder, &hidden?, batch, ops, started).map_err(BaseError::Forward)
    }
}

/// Why there are no scores of the base model.
pub(crate) enum BaseError {
    /// Its weights are not what they were.
    Weights(String),
    /// The forward failed.
    Forward(candle_core::Error),
}

/// The error of a variant that a model has not.
pub(crate) fn unsupported(variant: &Variant) -> ModelError {
    ModelError::Unsupported(format!("this model has no variant {variant:?}"))
}
