//! Norms of rows, alone and together with the addition to the residual stream.

use candle_core::Result;
use rayon::prelude::*;

use super::kernels;
use super::linear::TASK_ROWS;
use super::matrix::{Matrix, Pool};
use super::weights::Weights;
use crate::ops::Rounding;
use crate::ops::rounding::round;
use crate::spec::NormKind;
use crate::weights::Norm;

/// A norm's weights, locked.
pub(super) struct NormWeights<'a> {
    kind: NormKind,
    eps: f64,
    weight: Weights<'a>,
    bias: Option<Weights<'a>>,
    rounding: Rounding,
    rounded: Option<RoundedWeights>,
}

/// Weights as a bf16 engine has them.
struct RoundedWeights {
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    /// As long as the weights; where the norm is rounded before it is multiplied with them.
    ones: Option<Vec<f32>>,
}

impl<'a> NormWeights<'a> {
    pub(super) fn of(norm: &'a Norm, rounding: Rounding) -> Result<Self> {
        let weight = Weights::of(&norm.weight)?;
        let bias = norm.bias.as_ref().map(Weights::of).transpose()?;
        let rounded = match rounding.body {
            true => Some(RoundedWeights::of(norm, weight.values()?, bias.as_ref().map(Weights::values).transpose()?)),
            false => None,
        };
        Ok(Self { kind: norm.kind, eps: norm.eps, weight, bias, rounding, rounded })
    }

    pub(super) fn row(&self) -> Result<RowNorm<'_>> {
        let (kind, eps, rounding) = (self.kind, self.eps, self.rounding);
        if let Some(RoundedWeights { weight, bias, ones }) = &self.rounded {
            return Ok(RowNorm { kind, eps, weight, bias: bias.as_deref(), rounding, ones: ones.as_deref() });
        }
        let bias = self.bias.as_ref().map(Weights::values).transpose()?;
        Ok(RowNorm { kind, eps, weight: self.weight.values()?, bias, rounding, ones: None })
    }
}

impl RoundedWeights {
    fn of(norm: &Norm, weight: &[f32], bias: Option<&[f32]>) -> Self {
        let mut weight = weight.to_vec();
        if norm.weight_offset == 0.0 {
            round(&mut weight);
        } else {
            // What is stored is rounded; the sum with the offset is f32 in engines too.
            let offset = norm.weight_offset as f32;
            weight.iter_mut().for_each(|weight| *weight -= offset);
            round(&mut weight);
            weight.iter_mut().for_each(|weight| *weight += offset);
        }
        let bias = bias.map(|bias| {
            let mut bias = bias.to_vec();
            round(&mut bias);
            bias
        });
        let before_weight = norm.kind == NormKind::Rms && norm.weight_offset == 0.0;
        let ones = before_weight.then(|| vec![1.0; weight.len()]);
        Self { weight, bias, ones }
    }
}

/// A norm, ready to run.
#[derive(Clone, Copy)]
pub(super) struct RowNorm<'a> {
    kind: NormKind,
    eps: f64,
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    rounding: Rounding,
    ones: Option<&'a [f32]>,
}

impl RowNorm<'_> {
    /// Normalises `x` into `output`.
    pub(super) fn apply(&self, output: &mut [f32], x: &[f32]) {
        self.with_weights(output, x, 0);
    }

    /// Normalises each run of `span` values apart and in place. The weights are those of one run or of all of them.
    pub(super) fn each(&self, values: &mut [f32], span: usize, work: &mut Vec<f32>) {
        work.clear();
        work.extend_from_slice(values);
        for (index, (output, x)) in values.chunks_exact_mut(span).zip(work.chunks_exact(span)).enumerate() {
            self.with_weights(output, x, index * span % self.weight.len());
        }
    }

    /// Normalises `x` into `output` with the weights from `start` on.
    fn with_weights(&self, output: &mut [f32], x: &[f32], start: usize) {
        let own = start..(start + x.len()).min(self.weight.len());
        let (weight, bias) = (&self.weight[own.clone()], self.bias.map(|bias| &bias[own.clone()]));
        match self.ones {
            None => kernels::norm_row(output, x, self.kind, self.eps, weight, bias),
            Some(ones) => {
                kernels::norm_row(output, x, self.kind, self.eps, &ones[own], None);
                self.rounding.narrow(output);
                output.iter_mut().zip(weight).for_each(|(output, weight)| *output *= weight);
                if let Some(bias) = bias {
                    kernels::add_scaled(output, bias, 1.0);
                }
            }
        }
        self.rounding.narrow(output);
    }
}

/// See [`crate::ops::Ops::norm`].
pub(super) fn norm(pool: &Pool, x: &Matrix, norm: &Norm, rounding: Rounding) -> Result<Matrix> {
    let weights = NormWeights::of(norm, rounding)?;
    let norm = weights.row()?;
    let mut output = pool.take(x.rows(), x.width());
    output
        .values_mut()
        .par_chunks_mut(x.width())
        .zip(x.values().par_chunks(x.width()))
        .with_min_len(TASK_ROWS)
        .for_each(|(output, x)| norm.apply(output, x));
    Ok(output)
}

/// See [`crate::ops::Ops::add`].
pub(super) fn add(mut residual: Matrix, delta: &Matrix, multiplier: f64, rounding: Rounding) -> Matrix {
    let width = residual.width();
    residual
        .values_mut()
        .par_chunks_mut(width)
        .zip(delta.values().par_chunks(width))
        .with_min_len(TASK_ROWS)
        .for_each(|(residual, delta)| add_row(residual, delta, multiplier as f32, rounding));
    residual
}

/// `x + factor * delta` in place.
pub(super) fn add_row(x: &mut [f32], delta: &[f32], factor: f32, rounding: Rounding) {
    if rounding.body && factor != 1.0 {
        let mut scaled = delta.to_vec();
        kernels::scale(&mut scaled, factor);
        round(&mut scaled);
        kernels::add_scaled(x, &scaled, 1.0);
    } else {
        kernels::add_scaled(x, delta, factor);
    }
    rounding.narrow(x);
}

/// See [`crate::ops::Ops::add_norm`].
pub(super) fn add_norm(
    pool: &Pool,
    mut residual: Matrix,
    delta: &Matrix,
    multiplier: f64,
    (norm, rounding): (&Norm, Rounding),
) -> Result<(Matrix, Matrix)> {
    let weights = NormWeights::of(norm, rounding)?;
    let norm = weights.row()?;
    let width = residual.width();
    let mut output = pool.take(residual.rows(), width);
    output
        .values_mut()
        .par_chunks_mut(width)
        .zip(residual.values_mut().par_chunks_mut(width))
        .zip(delta.values().par_chunks(width))
        .with_min_len(TASK_ROWS)
        .for_each(|((output, residual), delta)| {
            add_row(residual, delta, multiplier as f32, rounding);
            norm.apply(output, residual);
        });
    Ok((residual, output))
}
