//! What [`Rounding`] asks for beyond results: the weights of a product, tables, and the steps of a gate.

use candle_core::Result;
use rayon::prelude::*;

use super::gemm::View;
use super::linear::{TASK_ROWS, linear};
use super::{CpuOps, kernels};
use crate::ops::Rounding;
use crate::ops::rounding::{is_bf16, round};
use crate::rope::RopeTable;
use crate::spec::Activation;

/// Outputs whose weights are copied to be rounded at a time, at most.
const COPIED_OUTPUTS: usize = 4096;
/// Weights that one thread looks at together.
const TASK_WEIGHTS: usize = 1 << 16;

impl CpuOps {
    /// `x w^T + b` with the weights as they are or rounded; see [`linear`]. The result is not rounded.
    ///
    /// Weights that a bf16 checkpoint was widened to are used where they lie; others are copied, a block of outputs at a time.
    pub(super) fn multiply(
        &self,
        output: &mut [f32],
        stride: usize,
        x: View<'_>,
        weight: &[f32],
        bias: Option<&[f32]>,
    ) -> Result<()> {
        if !self.rounding.body {
            return linear(&self.pool, output, stride, x, weight, bias);
        }
        let bias = bias.map(|bias| {
            let mut bias = bias.to_vec();
            round(&mut bias);
            bias
        });
        let bias = bias.as_deref();
        if weight.par_chunks(TASK_WEIGHTS).all(is_bf16) {
            return linear(&self.pool, output, stride, x, weight, bias);
        }
        let (depth, outputs) = (x.columns, weight.len() / x.columns);
        let blocks = outputs.div_ceil(COPIED_OUTPUTS);
        // Of nearly equal width: the kernels take other paths for a few outputs only.
        let boundary = |block: usize| outputs * block / blocks;
        for block in 0..blocks {
            let columns = boundary(block)..boundary(block + 1);
            let mut copy = self.pool.take(columns.len(), depth);
            let own = &weight[columns.start * depth..columns.end * depth];
            let pieces = copy.values_mut().par_chunks_mut(TASK_WEIGHTS).zip(own.par_chunks(TASK_WEIGHTS));
            pieces.for_each(|(copy, own)| {
                copy.copy_from_slice(own);
                round(copy);
            });
            let bias = bias.map(|bias| &bias[columns.clone()]);
            linear(&self.pool, &mut output[columns.start..], stride, x, copy.values(), bias)?;
        }
        Ok(())
    }

    /// Rounds the first rows of a result, `stride` values each.
    pub(super) fn narrow_rows(&self, output: &mut [f32], stride: usize, rows: usize) {
        if self.rounding.body {
            let rows = output.par_chunks_mut(stride).take(rows).with_min_len(TASK_ROWS);
            rows.for_each(|row| self.rounding.narrow(row));
        }
    }

    /// The rounded copy of a table, if there is a table and it is to be rounded.
    pub(super) fn narrowed_table(&self, rope: Option<&RopeTable>) -> Result<Option<RopeTable>> {
        rope.filter(|_| self.rounding.body).map(|rope| rope.narrowed(self.rounding)).transpose()
    }
}

/// `act(gate) * up` in place of the gate.
pub(super) fn gate(gate: &mut [f32], up: &[f32], activation: Activation, rounding: Rounding) {
    if rounding.body {
        kernels::activate(gate, activation);
        round(gate);
        gate.iter_mut().zip(up).for_each(|(gate, up)| *gate *= up);
        round(gate);
    } else {
        kernels::gate(gate, up, activation);
    }
}
