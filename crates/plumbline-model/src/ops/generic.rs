//! The operations in plain candle: any device, any float dtype.

use candle_core::{D, DType, Result, Tensor};
use plumbline_core::Segment;

use super::{HeadTarget, Ops, QkNorm, Qkv, TargetScore, attention, head};
use crate::rope::RopeTable;
use crate::spec::{Activation, AttentionSpec, NormKind};
use crate::weights::{Linear, Norm};

/// Plain candle operations.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct GenericOps;

/// The gemm behind candle's CPU matmul takes other paths, with other roundings, for fewer rows than this. Padding up to it
/// makes every row of a product independent of how many others there are, bit for bit (tested in `tests/`).
const MIN_GEMM_ROWS: usize = 8;

impl Ops for GenericOps {
    fn linear(&self, x: &Tensor, linear: &Linear) -> Result<Tensor> {
        let rows = x.dim(0)?;
        let weight = linear.weight.t()?;
        let product = if rows < MIN_GEMM_ROWS && x.device().is_cpu() {
            x.pad_with_zeros(0, 0, MIN_GEMM_ROWS - rows)?.matmul(&weight)?.narrow(0, 0, rows)?
        } else {
            x.matmul(&weight)?
        };
        match &linear.bias {
            Some(bias) => product.broadcast_add(bias),
            None => Ok(product),
        }
    }

    fn norm(&self, x: &Tensor, norm: &Norm) -> Result<Tensor> {
        let dtype = x.dtype();
        let x = x.to_dtype(norm_dtype(dtype))?;
        let x = match norm.kind {
            NormKind::Rms => x,
            NormKind::Layer => x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?,
        };
        let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?;
        let x = x.broadcast_div(&(mean_square + norm.eps)?.sqrt()?)?;
        let x = x.to_dtype(dtype)?.broadcast_mul(&norm.weight)?;
        match &norm.bias {
            Some(bias) => x.broadcast_add(bias),
            None => Ok(x),
        }
    }

    fn add(&self, residual: &Tensor, delta: &Tensor, multiplier: f64) -> Result<Tensor> {
        if multiplier == 1.0 { residual + delta } else { residual + (delta * multiplier)? }
    }

    fn split_and_rotate(
        &self,
        qkv: &Tensor,
        spec: &AttentionSpec,
        norm: Option<&QkNorm>,
        rope: Option<&RopeTable>,
    ) -> Result<Qkv> {
        let rows = qkv.dim(0)?;
        let (queries, keys) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let mut query = qkv.narrow(1, 0, queries)?;
        let mut key = qkv.narrow(1, queries, keys)?;
        let value = qkv.narrow(1, queries + keys, keys)?.reshape((rows, spec.kv_heads, spec.head_dim))?;
        if let Some(norm) = norm.filter(|norm| norm.all_heads) {
            query = self.norm(&query.contiguous()?, &norm.query)?;
            key = self.norm(&key.contiguous()?, &norm.key)?;
        }
        query = query.reshape((rows, spec.heads, spec.head_dim))?;
        key = key.reshape((rows, spec.kv_heads, spec.head_dim))?;
        if let Some(norm) = norm.filter(|norm| !norm.all_heads) {
            query = self.norm(&query, &norm.query)?;
            key = self.norm(&key, &norm.key)?;
        }
        if let Some(rope) = rope {
            query = rope.rotate(&query)?;
            key = rope.rotate(&key)?;
        }
        Ok(Qkv { query: query.contiguous()?, key: key.contiguous()?, value: value.contiguous()? })
    }

    fn attention(&self, qkv: &Qkv, spec: &AttentionSpec, segments: &[Segment]) -> Result<Tensor> {
        attention::attend(qkv, spec, segments)
    }

    fn gated(&self, gate_up: &Tensor, activation: Activation) -> Result<Tensor> {
        let width = gate_up.dim(1)? / 2;
        self.activate(&gate_up.narrow(1, 0, width)?, activation)? * gate_up.narrow(1, width, width)?
    }

    fn activate(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        match activation {
            Activation::Silu => x.silu(),
            Activation::Gelu => x.gelu_erf(),
            Activation::GeluTanh => x.gelu(),
            Activation::Relu => x.relu(),
        }
    }

    fn head_scores(&self, logits: &Tensor, targets: &[HeadTarget], eos: &[u32]) -> Result<Vec<TargetScore>> {
        if logits.device().is_cpu() {
            head::scores_on_slices(logits, targets, eos)
        } else {
            head::scores_on_device(logits, targets, eos)
        }
    }
}

/// Half precision is too coarse for a mean of squares: norms run in f32 there, as Hugging Face's do.
fn norm_dtype(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}
