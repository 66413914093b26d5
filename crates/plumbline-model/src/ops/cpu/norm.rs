//! Norms of rows, alone and together with the addition to the residual stream.

use candle_core::Result;
use rayon::prelude::*;

use super::kernels;
use super::linear::TASK_ROWS;
use super::matrix::{Matrix, Pool};
use super::weights::Weights;
use crate::spec::NormKind;
use crate::weights::Norm;

/// A norm's weights, locked.
pub(super) struct NormWeights<'a> {
    kind: NormKind,
    eps: f64,
    weight: Weights<'a>,
    bias: Option<Weights<'a>>,
}

impl<'a> NormWeights<'a> {
    pub(super) fn of(norm: &'a Norm) -> Result<Self> {
        let weight = Weights::of(&norm.weight)?;
        Ok(Self { kind: norm.kind, eps: norm.eps, weight, bias: norm.bias.as_ref().map(Weights::of).transpose()? })
    }

    pub(super) fn row(&self) -> Result<RowNorm<'_>> {
        let bias = self.bias.as_ref().map(Weights::values).transpose()?;
        Ok(RowNorm { kind: self.kind, eps: self.eps, weight: self.weight.values()?, bias })
    }
}

/// A norm, ready to run.
#[derive(Clone, Copy)]
pub(super) struct RowNorm<'a> {
    kind: NormKind,
    eps: f64,
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
}

impl RowNorm<'_> {
    /// Normalises `x` into `output`.
    pub(super) fn apply(&self, output: &mut [f32], x: &[f32]) {
        kernels::norm_row(output, x, self.kind, self.eps, self.weight, self.bias);
    }

    /// Normalises each run of `span` values apart and in place. The weights are those of one run or of all of them.
    pub(super) fn each(&self, values: &mut [f32], span: usize, work: &mut Vec<f32>) {
        work.clear();
        work.extend_from_slice(values);
        for (index, (output, x)) in values.chunks_exact_mut(span).zip(work.chunks_exact(span)).enumerate() {
            let start = index * span % self.weight.len();
            let own = |weights: &'_ [f32]| start..(start + span).min(weights.len());
            let weight = &self.weight[own(self.weight)];
            let bias = self.bias.map(|bias| &bias[own(bias)]);
            kernels::norm_row(output, x, self.kind, self.eps, weight, bias);
        }
    }
}

/// See [`crate::ops::Ops::norm`].
pub(super) fn norm(pool: &Pool, x: &Matrix, norm: &Norm) -> Result<Matrix> {
    let weights = NormWeights::of(norm)?;
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
pub(super) fn add(mut residual: Matrix, delta: &Matrix, multiplier: f64) -> Matrix {
    let width = residual.width();
    residual
        .values_mut()
        .par_chunks_mut(width)
        .zip(delta.values().par_chunks(width))
        .with_min_len(TASK_ROWS)
        .for_each(|(residual, delta)| kernels::add_scaled(residual, delta, multiplier as f32));
    residual
}

/// See [`crate::ops::Ops::add_norm`].
pub(super) fn add_norm(
    pool: &Pool,
    mut residual: Matrix,
    delta: &Matrix,
    multiplier: f64,
    norm: &Norm,
) -> Result<(Matrix, Matrix)> {
    let weights = NormWeights::of(norm)?;
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
            kernels::add_scaled(residual, delta, multiplier as f32);
            norm.apply(output, residual);
        });
    Ok((residual, output))
}
