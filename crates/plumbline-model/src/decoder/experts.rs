//! Mixture of experts: a router chooses experts for each row, whose outputs are summed by weight.
//!
//! Rows are gathered by expert, so that each expert is one product. A row's result does not depend on the others: it sums
//! over its own experts in the order of their indices.

use candle_core::{DType, Device, Result};

use crate::ops::{FeedForward, Ops};
use crate::spec::{ExpertsSpec, RouterScoring, RouterSpec};
use crate::weights::{Linear, WeightLoader, WeightsError};

/// A mixture of experts with its weights.
#[derive(Clone, Debug)]
pub(super) struct Experts {
    router: Router,
    experts: Vec<FeedForward>,
    shared: Option<FeedForward>,
    shared_gate: Option<Linear>,
}

#[derive(Clone, Debug)]
struct Router {
    spec: RouterSpec,
    projection: Linear,
    choice_bias: Option<Vec<f64>>,
}

impl Experts {
    pub(super) fn load(spec: &ExpertsSpec, loader: &WeightLoader<'_>) -> std::result::Result<Self, WeightsError> {
        let choice_bias = match &spec.router.choice_bias {
            Some(name) => {
                let bias = loader.tensor_as(name, &[spec.experts.len()], DType::F64)?;
                let values = bias.to_device(&Device::Cpu).and_then(|bias| bias.to_vec1::<f64>());
                Some(values.map_err(|error| WeightsError::Tensor { name: name.clone(), reason: error.to_string() })?)
            }
            None => None,
        };
        Ok(Self {
            router: Router {
                spec: spec.router.clone(),
                projection: loader.linear(&spec.router.projection)?,
                choice_bias,
            },
            experts: spec
                .experts
                .iter()
                .map(|expert| FeedForward::load_gated(expert, loader))
                .collect::<std::result::Result<_, _>>()?,
            shared: spec.shared.as_ref().map(|shared| FeedForward::load_gated(shared, loader)).transpose()?,
            shared_gate: spec.shared_gate.as_ref().map(|gate| loader.linear(gate)).transpose()?,
        })
    }

    pub(super) fn forward<O: Ops>(&self, x: &O::Rows, ops: &O) -> Result<O::Rows> {
        let logits = ops.to_host(&ops.linear(x, &self.router.projection)?)?;
        let mut rows = vec![Vec::new(); self.experts.len()];
        let mut weights = vec![Vec::new(); self.experts.len()];
        for (row, logits) in logits.iter().enumerate() {
            for (expert, weight) in self.router.choose(logits) {
                rows[expert].push(row as u32);
                weights[expert].push(weight);
            }
        }
        let mut output = ops.zeros_like(x)?;
        for (index, expert) in self.experts.iter().enumerate() {
            if rows[index].is_empty() {
                continue;
            }
            let fed = ops.feed_forward(&ops.gather(x, &rows[index])?, expert)?;
            output = ops.scatter_add(output, &fed, &rows[index], &weights[index])?;
        }
        if let Some(shared) = &self.shared {
            let mut fed = ops.feed_forward(x, shared)?;
            if let Some(gate) = &self.shared_gate {
                fed = ops.scale_by_sigmoid(fed, &ops.linear(x, gate)?)?;
            }
            output = ops.add(output, &fed, 1.0)?;
        }
        Ok(output)
    }
}

impl Router {
    /// The chosen experts and their weights, by ascending index.
    fn choose(&self, logits: &[f64]) -> Vec<(usize, f64)> {
        let scores = match self.spec.scoring {
            RouterScoring::Softmax => softmax(logits),
            RouterScoring::Sigmoid => logits.iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).collect(),
        };
        let mut preference: Vec<f64> = match &self.choice_bias {
            Some(bias) => scores.iter().zip(bias).map(|(score, bias)| score + bias).collect(),
            None => scores.clone(),
        };
        if let Some(groups) = &self.spec.groups {
            let size = preference.len() / groups.count;
            let worth: Vec<f64> = preference
                .chunks(size)
                .map(|group| best(group, groups.best).into_iter().map(|index| group[index]).sum())
                .collect();
            let open = best(&worth, groups.chosen);
            for (index, value) in preference.iter_mut().enumerate() {
                if !open.contains(&(index / size)) {
                    *value = f64::NEG_INFINITY;
                }
            }
        }
        let mut chosen = best(&preference, self.spec.chosen);
        chosen.sort_unstable();
        let total: f64 = if self.spec.normalise { chosen.iter().map(|index| scores[*index]).sum() } else { 1.0 };
        chosen.into_iter().map(|index| (index, scores[index] / total * self.spec.scale)).collect()
    }
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logits.iter().map(|logit| (logit - max).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

/// Indices of the `count` largest values, the lower index first among equals.
fn best(values: &[f64], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    order.truncate(count);
    order
}
