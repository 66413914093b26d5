//! The gated MLP: a layer's feed-forward part, or one expert of it.

use candle_core::{Result, Tensor};

use crate::ops::Ops;
use crate::spec::{Activation, GatedSpec};
use crate::weights::{Linear, WeightLoader, WeightsError};

/// `down(act(gate(x)) * up(x))`
#[derive(Debug)]
pub(super) struct Gated {
    gate_up: Linear,
    down: Linear,
    activation: Activation,
}

impl Gated {
    pub(super) fn load(spec: &GatedSpec, loader: &WeightLoader<'_>) -> std::result::Result<Self, WeightsError> {
        Ok(Self {
            gate_up: loader.linear(&spec.gate_up)?,
            down: loader.linear(&spec.down)?,
            activation: spec.activation,
        })
    }

    pub(super) fn forward(&self, x: &Tensor, ops: &dyn Ops) -> Result<Tensor> {
        ops.linear(&ops.gated(&ops.linear(x, &self.gate_up)?, self.activation)?, &self.down)
    }
}
