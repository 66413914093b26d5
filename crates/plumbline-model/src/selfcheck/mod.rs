//! The second opinion: candle-transformers' own implementation of a model's family on the same weights, against ours.
//!
//! The two share candle's tensors and the reading of checkpoint files, and nothing else: configuration, decoder and head
//! are written by different people. A family that we score slightly wrong shows as a gross disagreement. Where
//! candle-transformers has no implementation, or one that is known to leave out what a configuration asks for, that is
//! said with the reason; it is never a disagreement.

#[cfg(feature = "selfcheck")]
mod asked;
#[cfg(feature = "selfcheck")]
mod check;
#[cfg(feature = "selfcheck")]
mod checkpoint;
#[cfg(feature = "selfcheck")]
mod families;
#[cfg(feature = "selfcheck")]
mod models;
#[cfg(feature = "selfcheck")]
mod sequences;

use std::fmt;

use plumbline_core::{ReferenceInfo, ReferenceModel, TokenId};
use serde::Serialize;

use crate::error::LoadError;
use crate::load::{LoadOptions, ModelSource};
#[cfg(not(feature = "selfcheck"))]
use crate::spec::DecoderSpec;

/// Largest |difference| of a logprob in nats that counts as agreement, where body and head are f32 or f64.
///
/// Measured on the fixtures (random weights of standard deviation 0.2 or more): at most 2.3e-5, as both sides round in f32.
/// A window of 31 instead of 32, a rotary base 5% off or a wrong epsilon gives 0.15 and more.
pub const TOLERANCE_NATS: f64 = 1e-3;

/// As [`TOLERANCE_NATS`], where body or head is bf16 or f16: the second opinion is always f32, so that the reference's own
/// rounding is in the difference (measured in bf16: 0.34 on the fixtures, 0.65 on SmolLM2-135M, at an improbable token). Only
/// gross errors show.
pub const HALF_PRECISION_TOLERANCE_NATS: f64 = 2.0;

/// How much is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Extent {
    /// Sequences of at most 128 tokens.
    Quick,
    /// Sequences of at most 512 tokens.
    #[default]
    Full,
}

/// What a cross-check found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SelfCheck {
    /// Name of the model.
    pub model: String,
    /// Its `model_type`.
    pub family: String,
    /// dtype of the reference's body; the second opinion is f32.
    pub dtype: String,
    /// dtype of the reference's lm_head.
    pub head_dtype: String,
    /// Where both computed.
    pub device: String,
    /// The finding.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// What to know about the comparison: parts that it could not reach, values that were changed to make it possible.
    pub notes: Vec<String>,
}

/// The finding of a cross-check.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// All differences are within the tolerance.
    Agrees(Comparison),
    /// Some difference is beyond the tolerance: at least one of the two implementations is wrong.
    Disagrees(Comparison),
    /// There is no second opinion on this model.
    NotPossible {
        /// Why not.
        reason: String,
    },
}

/// Numbers of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The other implementation.
    pub implementation: String,
    /// Largest |difference| of a logprob.
    pub max_abs_diff_nats: f64,
    /// What counts as agreement.
    pub tolerance_nats: f64,
    /// Length of each sequence, whose next token's logprobs were compared.
    pub sequence_tokens: Vec<usize>,
    /// Number of compared logprobs.
    pub logprobs: usize,
    /// Where the difference is largest.
    pub worst: Worst,
}

/// One compared logprob.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Worst {
    /// Length of the sequence.
    pub sequence_tokens: usize,
    /// The token after it.
    pub token_id: TokenId,
    /// Its logprob as the reference has it.
    pub reference_logprob: f64,
    /// Its logprob as the other implementation has it.
    pub second_opinion_logprob: f64,
}

/// Whether a family can be cross-checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FamilySupport {
    /// `model_type`.
    pub family: &'static str,
    /// candle-transformers' modules that can serve; empty = none.
    pub implementations: &'static [&'static str],
    /// What cannot be cross-checked, and why; empty = nothing that this crate can load.
    pub limits: &'static str,
}

/// Every family that can be loaded, and whether it can be cross-checked.
#[must_use]
pub fn families() -> Vec<FamilySupport> {
    #[cfg(feature = "selfcheck")]
    return families::support().collect();
    #[cfg(not(feature = "selfcheck"))]
    DecoderSpec::families().map(|family| FamilySupport { family, implementations: &[], limits: WITHOUT }).collect()
}

#[cfg(not(feature = "selfcheck"))]
const WITHOUT: &str = "this build has no second opinion (cargo feature `selfcheck`)";

impl ModelSource {
    /// Cross-checks `reference`, which [`ModelSource::load`] made with the same options. Holds a second copy of the weights
    /// in f32 while it runs.
    ///
    /// # Errors
    /// [`LoadError`] if the model's files cannot be read any more or the reference fails to score. That there is no second
    /// opinion, or that it cannot be computed, is an [`Outcome`].
    pub fn self_check(
        &self,
        reference: &mut dyn ReferenceModel,
        options: &LoadOptions,
        extent: Extent,
    ) -> Result<SelfCheck, LoadError> {
        let info = reference.info().clone();
        #[cfg(feature = "selfcheck")]
        let (outcome, notes) = check::run(self, reference, options, extent)?;
        #[cfg(not(feature = "selfcheck"))]
        let (outcome, notes) = {
            let _ = (options, extent);
            (Outcome::NotPossible { reason: WITHOUT.into() }, Vec::new())
        };
        let ReferenceInfo { model, family, dtype, head_dtype, device, .. } = info;
        Ok(SelfCheck { model, family, dtype, head_dtype, device, outcome, notes })
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Worst { sequence_tokens, token_id, reference_logprob, second_opinion_logprob } = self.worst;
        write!(
            f,
            "largest |difference| {:.1e} nats (tolerance {:.0e}) from {}: token {token_id} after {sequence_tokens} tokens, \
             {reference_logprob:.6} here and {second_opinion_logprob:.6} there",
            self.max_abs_diff_nats, self.tolerance_nats, self.implementation
        )
    }
}
