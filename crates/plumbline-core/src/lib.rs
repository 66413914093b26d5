//! The vocabulary of Plumbline.
//!
//! Every other crate speaks in these types: a [`Rollout`] as a worker sent it, the [`ScoringSequence`] that the reference
//! must re-score, the [`PackedBatch`] that a model sees, the [`TokenScores`] it answers with, and the [`ReferenceModel`]
//! trait between the scheduler and whatever computes. No I/O, no runtime, no tensor library.
//!
//! Conventions used everywhere (field-standard): `e_t` is the engine's logprob of token `t`, `r_t` the reference's,
//! `d_t = r_t - e_t` the log ratio (reference over engine), all in nats.

mod batch;
mod compute;
mod processing;
mod reference;
mod rollout;
mod sampling;
mod scores;
mod sharing;
mod skip;
mod strict;
mod text;
mod validate;
mod versions;

pub use batch::{PackedBatch, ProcessedTargets, ScoringSequence, Segment, Target};
pub use compute::{ComputeDevice, ComputeDevices, FloatType, Kernels};
pub use processing::{IrreproducibleMode, Processed, Processing, ProcessingOrder, ProcessingScratch, TokenCounts};
pub use reference::{BatchScores, ModelError, ModelLimits, ReferenceInfo, ReferenceModel, ScoreTiming, Variant};
pub use rollout::{Rollout, TokenId};
pub use sampling::{LogprobsMode, Sampling};
pub use scores::TokenScores;
pub use sharing::MIN_SHARED_TOKENS;
pub use skip::{SkipCounts, SkipReason};
pub use strict::optional_name;
pub use text::TokenText;
pub use validate::{Violation, ViolationCode};
pub use versions::VersionSpan;
