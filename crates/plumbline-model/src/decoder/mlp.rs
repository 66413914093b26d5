//! A layer's feed-forward part.

use candle_core::Result;

use super::experts::Experts;
use crate::ops::{FeedForward, Ops};
use crate::spec::MlpSpec;
use crate::weights::{WeightLoader, WeightsError};

/// A feed-forward part with its weights.
#[derive(Clone, Debug)]
pub(super) enum Mlp {
    Dense(FeedForward),
    Experts(Box<Experts>),
}

impl Mlp {
    pub(super) fn load(spec: &MlpSpec, loader: &WeightLoader<'_>) -> std::result::Result<Self, WeightsError> {
        Ok(match spec {
            MlpSpec::Gated(gated) => Self::Dense(FeedForward::load_gated(gated, loader)?),
            MlpSpec::Plain { up, down, activation } => {
                Self::Dense(FeedForward::load_plain(up, down, *activation, loader)?)
            }
            MlpSpec::Experts(experts) => Self::Experts(Box::new(Experts::load(experts, loader)?)),
        })
    }

    pub(super) fn forward<O: Ops>(&self, x: &O::Rows, ops: &O) -> Result<O::Rows> {
        match self {
            Self::Dense(mlp) => ops.feed_forward(x, mlp),
            Self::Experts(experts) => experts.forward(x, ops),
        }
    }
}
