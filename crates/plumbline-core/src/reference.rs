//! The boundary between whoever batches and whatever computes.

use std::time::Duration;

use serde::Serialize;

use crate::{PackedBatch, ScoringSequence, TokenId, TokenScores};

/// A resident model that scores packed batches, on one device. Synchronous and object-safe: one thread owns it.
pub trait ReferenceModel: Send {
    /// What is resident.
    fn info(&self) -> &ReferenceInfo;

    /// Whether sequences with the same first tokens may share those rows in a batch ([`PackedBatch::pack_shared`]). A model
    /// whose positions depend on the length of the whole sequence cannot.
    fn shares_prefixes(&self) -> bool {
        false
    }

    /// Makes later calls of [`ReferenceModel::score`] need less memory at the price of speed, after one that ran out of it;
    /// `false` if there is nothing left to save.
    fn save_memory(&mut self) -> bool {
        false
    }

    /// Takes back one step of [`ReferenceModel::save_memory`], if there is one.
    fn spend_memory(&mut self) {}

    /// Whether [`ReferenceModel::score_variant`] can compute this variant.
    fn supports(&self, _variant: &Variant) -> bool {
        false
    }

    /// Scores a batch as [`ReferenceModel::score`] does, with a model that differs in one thing: what an engine would say
    /// that has this fault, or this number format. Slower than scoring; for floors and diagnoses.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] for a variant that this model does not have.
    fn score_variant(&mut self, _batch: &PackedBatch, variant: &Variant) -> Result<BatchScores, ModelError> {
        Err(ModelError::Unsupported(format!("scores of the variant {variant:?}")))
    }

    /// Computes the logits of some scored tokens of one sequence: for each of `places` (indices into
    /// [`ScoringSequence::scored`], ascending), calls `visit` with the place and the logits of the row that predicts that
    /// token, `[vocab_size]`, as the softmax at temperature 1 takes them (after the model's own multiplier and soft-cap).
    /// Rows are computed in pieces of bounded memory.
    ///
    /// # Errors
    /// [`ModelError`], and [`ModelError::Unsupported`] from a model that does not give its logits.
    fn logits(
        &mut self,
        _sequence: &ScoringSequence,
        _places: &[usize],
        _visit: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), ModelError> {
        Err(ModelError::Unsupported("logits".into()))
    }

    /// Scores every target of the batch; one [`TokenScores`] per packed sequence, in order.
    ///
    /// A sequence's numbers do not depend on what else is in the batch (bit for bit on CPU in f32).
    ///
    /// # Errors
    /// [`ModelError`]; the model stays usable after one.
    fn score(&mut self, batch: &PackedBatch) -> Result<BatchScores, ModelError>;
}

/// A model that differs from the resident one in one thing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Variant {
    /// What a faithful bf16 engine computes: weights and every intermediate result rounded to bf16, sums in f32. The
    /// lm_head's logits are rounded too if `head`, else the head multiplies in f32.
    Bf16 {
        /// Whether the lm_head is in bf16 as well.
        head: bool,
    },
    /// Only the logits rounded to bf16: an f32 body with a low-precision lm_head.
    Bf16Head,
    /// Rotary embeddings with this base instead of the configured one, without scaling.
    RopeTheta(f64),
    /// Positions divided by this factor (linear RoPE scaling) on top of what is configured.
    RopeFactor(f64),
    /// The configured scaling of the rotary embeddings (YaRN, Llama 3, dynamic, linear) left out.
    RopeUnscaled,
    /// Sliding windows of this many tokens in the layers that have one; `None` = full attention there. In a model without
    /// windows, a window in every layer.
    SlidingWindow(Option<usize>),
    /// Another soft-cap `c` of the logits (`c * tanh(z / c)`); `None` = none.
    LogitSoftcap(Option<f64>),
    /// The base model without the adapter that was merged into it.
    WithoutAdapter,
}

/// The answer to one batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BatchScores {
    /// One per sequence of the batch, in its order.
    pub sequences: Vec<TokenScores>,
    /// Where the time went.
    pub timing: ScoreTiming,
}

/// Wall time of the two parts of scoring a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScoreTiming {
    /// Embedding and decoder layers.
    pub forward: Duration,
    /// lm_head and the statistics of its rows.
    pub head: Duration,
}

/// Identity of the resident model, as `/v1/reference` and reports show it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReferenceInfo {
    /// Name or path it was loaded from.
    pub model: String,
    /// `model_type` of its configuration (`qwen3`, `llama`, ...).
    pub family: String,
    /// Version of the weights, an opaque string.
    pub policy_version: String,
    /// dtype of the decoder body (`f32`, ...).
    pub dtype: String,
    /// dtype in which the lm_head multiplies.
    pub head_dtype: String,
    /// Where it runs (`cpu`, `cuda:0`; `cuda:0,1` if each of several devices holds a copy).
    pub device: String,
    /// Number of weights.
    pub parameters: u64,
    /// Memory that the weights take, in bytes; of all copies together if several devices hold one.
    pub weight_bytes: u64,
    /// Ids that end a sequence, from the model's configuration.
    pub eos_token_ids: Vec<TokenId>,
    /// What it can score.
    pub limits: ModelLimits,
}

/// Hard limits of a model: beyond them there is no right answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ModelLimits {
    /// Number of rows of the embedding: every id must be below.
    pub vocab_size: usize,
    /// Longest sequence, prompt and completion together.
    pub max_positions: usize,
}

/// Why a batch could not be scored. `Clone`, because one failed batch answers many callers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// The device ran out of memory; a smaller batch may fit.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// The batch contradicts the model's limits. Validation should have caught it.
    #[error("invalid batch: {0}")]
    InvalidInput(String),
    /// The device or the tensor library failed.
    #[error("device error: {0}")]
    Device(String),
    /// The model cannot do what was asked of it.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// The model produced numbers that are not finite.
    #[error("numerical error: {0}")]
    Numerics(String),
}
