//! The operations in f32 on the CPU: fused loops on slices, products by the `gemm` crate, all cores.
//!
//! - `panels`, `gemm` and `kernels`: products and vector loops, the only unsafe code;
//! - `lanes`: the elementwise functions in those loops;
//! - `linear`, `norm`, `rotary`, `attention`, `head`: the operations;
//! - `narrow`: the weights of a product as a bf16 engine holds them;
//! - `matrix`: activations in buffers that are used again; `weights`: candle tensors as slices.
//!
//! Every sum is taken in an order that depends on the row's own sequence only: bits do not change with company, batch order
//! or the number of threads.

mod attention;
mod gemm;
mod head;
mod kernels;
mod lanes;
mod linear;
mod matrix;
mod narrow;
mod norm;
#[cfg(target_arch = "x86_64")]
mod panels;
mod rotary;
#[cfg(test)]
mod tests;
mod weights;

use std::sync::Arc;

use candle_core::{DType, Device, Result};
use plumbline_core::{Segment, Target};
use rayon::prelude::*;

use self::attention::Qkv;
use self::gemm::{MIN_SIDE, View};
use self::linear::TASK_ROWS;
use self::matrix::{Matrix, Pool};
use self::weights::Weights;
use super::{ChunkBytes, Embedding, FeedForward, Head, LogitsVisitor, Ops, QkNorm, Rounding, TargetScore};
use crate::profile::{Profile, Stage};
use crate::rope::RopeTable;
use crate::spec::AttentionSpec;
use crate::weights::{Linear, Norm};

/// Fused operations in f32 on the CPU.
#[derive(Debug)]
pub(crate) struct CpuOps {
    chunks: ChunkBytes,
    pool: Pool,
    profile: Option<Arc<Profile>>,
    rounding: Rounding,
}

impl CpuOps {
    pub(crate) fn new(chunks: ChunkBytes, profile: Option<Arc<Profile>>) -> Self {
        Self { chunks, pool: Pool::default(), profile, rounding: Rounding::default() }
    }

    /// The same operations with results rounded; they share their memory.
    pub(crate) fn with_rounding(&self, rounding: Rounding) -> Self {
        Self { chunks: self.chunks, pool: self.pool.clone(), profile: self.profile.clone(), rounding }
    }

    pub(crate) fn set_chunks(&mut self, chunks: ChunkBytes) {
        self.chunks = chunks;
    }

    /// Whether these operations can run a model.
    pub(crate) fn support(device: &Device, dtype: DType, head_dtype: DType) -> bool {
        device.is_cpu() && dtype == DType::F32 && head_dtype == DType::F32
    }

    /// Gives the memory of a batch back to the system.
    pub(crate) fn release_memory(&self) {
        self.pool.clear();
    }

    fn timed<T>(&self, stage: Stage, work: impl FnOnce() -> T) -> T {
        Profile::timed(self.profile.as_deref(), stage, work)
    }

    fn product(&self, x: &Matrix, linear: &Linear, stage: Stage) -> Result<Matrix> {
        let (outputs, inputs) = linear.weight.dims2()?;
        self.check_width(x, inputs)?;
        let mut output = self.pool.take(x.rows(), outputs);
        let view = View::rows(x.values(), x.rows(), inputs, inputs);
        self.product_into(output.values_mut(), outputs, view, linear, stage)?;
        Ok(output)
    }

    fn product_into(
        &self,
        output: &mut [f32],
        stride: usize,
        x: View<'_>,
        linear: &Linear,
        stage: Stage,
    ) -> Result<()> {
        let weight = Weights::of(&linear.weight)?;
        let bias = linear.bias.as_ref().map(Weights::of).transpose()?;
        let (weight, bias) = (weight.values()?, bias.as_ref().map(Weights::values).transpose()?);
        let rows = x.rows;
        self.timed(stage, || {
            self.multiply(output, stride, x, weight, bias)?;
            self.narrow_rows(output, stride, rows);
            Ok(())
        })
    }

    fn check_width(&self, x: &Matrix, expected: usize) -> Result<()> {
        if x.width() == expected {
            Ok(())
        } else {
            Err(candle_core::Error::Msg(format!("{} columns where {expected} were expected", x.width())).bt())
        }
    }
}

impl Ops for CpuOps {
    type Rows = Matrix;
    type Qkv = Qkv;

    fn embed(&self, embedding: &Embedding<'_>) -> Result<Matrix> {
        let width = embedding.table.dim(1)?;
        let table = Weights::of(embedding.table)?;
        let table = table.values()?;
        let learned = embedding.positions.map(|(table, _)| Weights::of(table)).transpose()?;
        let learned = learned.as_ref().map(Weights::values).transpose()?;
        let learned = learned.zip(embedding.positions.map(|(_, positions)| positions));
        let mut x = self.pool.take(embedding.ids.len(), width);
        self.timed(Stage::Rows, || {
            for (row, (x, id)) in x.values_mut().chunks_exact_mut(width).zip(embedding.ids).enumerate() {
                x.copy_from_slice(&table[*id as usize * width..][..width]);
                self.rounding.narrow(x);
                if embedding.multiplier != 1.0 {
                    kernels::scale(x, self.rounding.narrow_factor(embedding.multiplier) as f32);
                    self.rounding.narrow(x);
                }
                if let Some((table, positions)) = learned {
                    let mut position = table[positions[row] as usize * width..][..width].to_vec();
                    self.rounding.narrow(&mut position);
                    kernels::add_scaled(x, &position, 1.0);
                    self.rounding.narrow(x);
                }
            }
        });
        Ok(x)
    }

    fn linear(&self, x: &Matrix, linear: &Linear) -> Result<Matrix> {
        self.product(x, linear, Stage::ProjectionGemm)
    }

    fn norm(&self, x: &Matrix, norm: &Norm) -> Result<Matrix> {
        self.timed(Stage::Norm, || norm::norm(&self.pool, x, norm, self.rounding))
    }

    fn add(&self, residual: Matrix, delta: &Matrix, multiplier: f64) -> Result<Matrix> {
        Ok(self.timed(Stage::Norm, || norm::add(residual, delta, multiplier, self.rounding)))
    }

    fn add_norm(&self, residual: Matrix, delta: &Matrix, multiplier: f64, norm: &Norm) -> Result<(Matrix, Matrix)> {
        self.timed(Stage::Norm, || norm::add_norm(&self.pool, residual, delta, multiplier, (norm, self.rounding)))
    }

    fn direct_qkv(
        &self,
        qkv: Matrix,
        spec: &AttentionSpec,
        norm: Option<&QkNorm>,
        rope: Option<&RopeTable>,
    ) -> Result<Qkv> {
        let narrowed = self.narrowed_table(rope)?;
        let rope = narrowed.as_ref().or(rope);
        self.timed(Stage::Rotary, || rotary::direct(qkv, spec, norm, rope, self.rounding))
    }

    fn latent_qkv(
        &self,
        query: Matrix,
        latent: &Matrix,
        key_value: Matrix,
        spec: &AttentionSpec,
        rope_dim: usize,
        rope: Option<&RopeTable>,
    ) -> Result<Qkv> {
        let narrowed = self.narrowed_table(rope)?;
        let rope = narrowed.as_ref().or(rope);
        self.timed(Stage::Rotary, || {
            rotary::latent(&self.pool, query, latent, key_value, spec, rope_dim, (rope, self.rounding))
        })
    }

    fn attention(&self, qkv: &Qkv, spec: &AttentionSpec, segments: &[Segment]) -> Result<Matrix> {
        attention::attend(&self.pool, qkv, spec, segments, self.rounding, self.profile.as_deref())
    }

    fn feed_forward(&self, x: &Matrix, mlp: &FeedForward) -> Result<Matrix> {
        let (inner_width, input_width) = mlp.up.weight.dims2()?;
        let output_width = mlp.down.weight.dim(0)?;
        self.check_width(x, input_width)?;
        let block = (self.chunks.mlp / (inner_width * size_of::<f32>())).max(MIN_SIDE);
        let width = if mlp.gated { inner_width / 2 } else { inner_width };
        let mut output = self.pool.take(x.rows(), output_width);
        let mut inner = self.pool.take(block.min(x.rows()), inner_width);
        for (x, output) in
            x.values().chunks(block * input_width).zip(output.values_mut().chunks_mut(block * output_width))
        {
            let rows = x.len() / input_width;
            let view = View::rows(x, rows, input_width, input_width);
            self.product_into(inner.values_mut(), inner_width, view, &mlp.up, Stage::MlpGemm)?;
            self.timed(Stage::Activation, || {
                inner.values_mut().par_chunks_mut(inner_width).take(rows).with_min_len(TASK_ROWS).for_each(|row| {
                    if mlp.gated {
                        let (gate, up) = row.split_at_mut(width);
                        narrow::gate(gate, up, mlp.activation, self.rounding);
                    } else {
                        kernels::activate(row, mlp.activation);
                        self.rounding.narrow(row);
                    }
                });
            });
            let view = View::rows(inner.values(), rows, width, inner_width);
            self.product_into(output, output_width, view, &mlp.down, Stage::MlpGemm)?;
        }
        Ok(output)
    }

    fn leading_columns(&self, x: &Matrix, width: usize) -> Result<Matrix> {
        let mut output = self.pool.take(x.rows(), width);
        self.timed(Stage::Rows, || {
            for (row, output) in output.values_mut().chunks_exact_mut(width).enumerate() {
                output.copy_from_slice(&x.row(row)[..width]);
            }
        });
        Ok(output)
    }

    fn gather(&self, x: &Matrix, rows: &[u32]) -> Result<Matrix> {
        let mut output = self.pool.take(rows.len(), x.width());
        self.timed(Stage::Rows, || {
            for (row, output) in rows.iter().zip(output.values_mut().chunks_exact_mut(x.width())) {
                output.copy_from_slice(x.row(*row as usize));
            }
        });
        Ok(output)
    }

    fn zeros_like(&self, x: &Matrix) -> Result<Matrix> {
        Ok(self.pool.zeros(x.rows(), x.width()))
    }

    fn scatter_add(&self, mut into: Matrix, x: &Matrix, rows: &[u32], weights: &[f64]) -> Result<Matrix> {
        self.timed(Stage::Rows, || {
            let width = into.width();
            for (index, (row, weight)) in rows.iter().zip(weights).enumerate() {
                let into = &mut into.values_mut()[*row as usize * width..][..width];
                norm::add_row(into, x.row(index), *weight as f32, self.rounding);
            }
        });
        Ok(into)
    }

    fn scale_by_sigmoid(&self, mut x: Matrix, gate: &Matrix) -> Result<Matrix> {
        self.check_width(gate, 1)?;
        let width = x.width();
        self.timed(Stage::Rows, || {
            for (row, x) in x.values_mut().chunks_exact_mut(width).enumerate() {
                let share = lanes::sigmoid::<false>(gate.row(row)[0]);
                kernels::scale(x, self.rounding.narrow_factor(share.into()) as f32);
                self.rounding.narrow(x);
            }
        });
        Ok(x)
    }

    fn to_host(&self, x: &Matrix) -> Result<Vec<Vec<f64>>> {
        Ok((0..x.rows()).map(|row| x.row(row).iter().copied().map(f64::from).collect()).collect())
    }

    fn head_scores(&self, hidden: &Matrix, head: &Head, targets: &[Target]) -> Result<Vec<TargetScore>> {
        head::scores(self, hidden, head, targets)
    }

    fn head_logits(&self, hidden: &Matrix, head: &Head, rows: &[u32], visit: &mut LogitsVisitor<'_>) -> Result<()> {
        head::logits(self, hidden, head, rows, visit)
    }
}
