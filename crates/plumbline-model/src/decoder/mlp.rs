//! A layer's feed-forward part.

use candle_core::{Result, Tensor};

use super::experts::Experts;
use super::gated::Gated;
use crate::ops::Ops;
use crate::spec::{Activation, MlpSpec};
use crate::weights::{Linear, WeightLoader, WeightsError};

/// A feed-forward part with its weights.
#[derive(Debug)]
pub(super) enum Mlp {
    Gated(Gated),
    Plain { up: Linear, down: Linear, activation: Activation },
    Experts(Box<Experts>),
}

impl Mlp {
    pub(super) fn load(spec: &MlpSpec, loader: &WeightLoader<'_>) -> std::result::Result<Self, WeightsError> {
        Ok(match spec {
            MlpSpec::Gated(gated) => Self::Gated(Gated::load(gated, loader)?),
            MlpSpec::Plain { up, down, activation } => {
                Self::Plain { up: loader.linear(up)?, down: loader.linear(down)?, activation: *activation }
            }
            MlpSpec::Experts(experts) => Self::Experts(Box::new(Experts::load(experts, loader)?)),
        })
    }

    pub(super) fn forward(&self, x: &Tensor, ops: &dyn Ops) -> Result<Tensor> {
        match self {
            Self::Gated(gated) => gated.forward(x, ops),
            Self::Plain { up, down, activation } => ops.linear(&ops.activate(&ops.linear(x, up)?, *activation)?, down),
            Self::Experts(experts) => experts.forward(x, ops),
        }
    }
}
