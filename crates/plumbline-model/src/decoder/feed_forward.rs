//! Loading of MLPs: a layer's feed-forward part, or one expert of it.

use crate::ops::FeedForward;
use crate::spec::{Activation, GatedSpec, ProjectionSpec};
use crate::weights::{WeightLoader, WeightsError};

impl FeedForward {
    pub(super) fn load_gated(spec: &GatedSpec, loader: &WeightLoader<'_>) -> Result<Self, WeightsError> {
        let (up, down) = (loader.linear(&spec.gate_up)?, loader.linear(&spec.down)?);
        Ok(Self { up, down, activation: spec.activation, gated: true })
    }

    pub(super) fn load_plain(
        up: &ProjectionSpec,
        down: &ProjectionSpec,
        activation: Activation,
        loader: &WeightLoader<'_>,
    ) -> Result<Self, WeightsError> {
        Ok(Self { up: loader.linear(up)?, down: loader.linear(down)?, activation, gated: false })
    }
}
