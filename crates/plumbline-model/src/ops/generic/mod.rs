//! The operations in plain candle: any device, any float dtype.

mod attention;
#[cfg(feature = "flash-attn")]
mod flash;
mod head;
// Tested everywhere: it decides what the kernel computes.
#[cfg(any(feature = "flash-attn", test))]
mod varlen;

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::ops::sigmoid;
use plumbline_core::{Segment, Target};

use self::head::HeadTarget;
use super::head_rows::HeadRows;
use super::{ChunkBytes, Embedding, FeedForward, Head, LogitsVisitor, Ops, QkNorm, TargetScore};
use crate::rope::RopeTable;
use crate::spec::{Activation, AttentionSpec, NormKind};
use crate::weights::{Linear, Norm};

/// Plain candle operations.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GenericOps {
    chunks: ChunkBytes,
}

/// The gemm behind candle's CPU matmul takes other paths, with other roundings, for fewer rows than this. Padding up to it
/// makes every row of a product independent of how many others there are, bit for bit (tested in `tests/`).
const MIN_GEMM_ROWS: usize = 8;

/// See [`Ops::Qkv`].
pub(crate) struct Qkv {
    query: Tensor,
    key: Tensor,
    value: Tensor,
}

impl GenericOps {
    pub(crate) fn new(chunks: ChunkBytes) -> Self {
        Self { chunks }
    }

    pub(crate) fn set_chunks(&mut self, chunks: ChunkBytes) {
        self.chunks = chunks;
    }

    /// Logits of normed rows, widened: half-precision ones are never used for statistics as they are.
    fn logits(&self, x: &Tensor, head: &Head, dtype: DType) -> Result<Tensor> {
        let x = self.norm(x, &head.norm)?.to_dtype(head.linear.weight.dtype())?;
        let mut logits = self.linear(&x, &head.linear)?.to_dtype(norm_dtype(dtype))?;
        if head.multiplier != 1.0 {
            logits = (logits * head.multiplier)?;
        }
        match head.softcap {
            Some(cap) => (logits / cap)?.tanh()? * cap,
            None => Ok(logits),
        }
    }
}

impl Ops for GenericOps {
    type Rows = Tensor;
    type Qkv = Qkv;

    fn embed(&self, embedding: &Embedding<'_>) -> Result<Tensor> {
        let device = embedding.table.device();
        let mut x = embedding.table.index_select(&Tensor::new(embedding.ids, device)?, 0)?;
        if embedding.multiplier != 1.0 {
            x = (x * embedding.multiplier)?;
        }
        match embedding.positions {
            Some((table, positions)) => x + table.index_select(&Tensor::new(positions, device)?, 0)?,
            None => Ok(x),
        }
    }

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

    fn add(&self, residual: Tensor, delta: &Tensor, multiplier: f64) -> Result<Tensor> {
        if multiplier == 1.0 { residual + delta } else { residual + (delta * multiplier)? }
    }

    fn direct_qkv(
        &self,
        qkv: Tensor,
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

    fn latent_qkv(
        &self,
        query: Tensor,
        latent: &Tensor,
        key_value: Tensor,
        spec: &AttentionSpec,
        rope_dim: usize,
        rope: Option<&RopeTable>,
    ) -> Result<Qkv> {
        let (rows, plain) = (query.dim(0)?, spec.head_dim - rope_dim);
        let query = query.reshape((rows, spec.heads, spec.head_dim))?;
        let key_value = key_value.reshape((rows, spec.heads, plain + spec.value_dim))?;
        let shared_key = latent.narrow(1, latent.dim(1)? - rope_dim, rope_dim)?.unsqueeze(1)?;
        let rotate = |x: &Tensor| match rope {
            Some(rope) => rope.rotate(x),
            None => Ok(x.clone()),
        };
        let query_turned = rotate(&query.narrow(2, plain, rope_dim)?)?;
        let key_turned = rotate(&shared_key)?.broadcast_as((rows, spec.heads, rope_dim))?;
        Ok(Qkv {
            query: Tensor::cat(&[query.narrow(2, 0, plain)?, query_turned], 2)?.contiguous()?,
            key: Tensor::cat(&[key_value.narrow(2, 0, plain)?, key_turned], 2)?.contiguous()?,
            value: key_value.narrow(2, plain, spec.value_dim)?.contiguous()?,
        })
    }

    fn attention(&self, qkv: &Qkv, spec: &AttentionSpec, segments: &[Segment]) -> Result<Tensor> {
        attention::attend(qkv, spec, segments)
    }

    fn feed_forward(&self, x: &Tensor, mlp: &FeedForward) -> Result<Tensor> {
        let rows = x.dim(0)?;
        let row_bytes = mlp.up.weight.dim(0)? * x.dtype().size_in_bytes();
        let block = (self.chunks.mlp / row_bytes).max(MIN_GEMM_ROWS);
        let blocks = (0..rows)
            .step_by(block)
            .map(|start| {
                let inner = self.linear(&x.narrow(0, start, block.min(rows - start))?, &mlp.up)?;
                let inner = if mlp.gated {
                    let width = inner.dim(1)? / 2;
                    (activate(&inner.narrow(1, 0, width)?, mlp.activation)? * inner.narrow(1, width, width)?)?
                } else {
                    activate(&inner, mlp.activation)?
                };
                self.linear(&inner, &mlp.down)
            })
            .collect::<Result<Vec<_>>>()?;
        match blocks.as_slice() {
            [only] => Ok(only.clone()),
            blocks => Tensor::cat(blocks, 0),
        }
    }

    fn leading_columns(&self, x: &Tensor, width: usize) -> Result<Tensor> {
        x.narrow(1, 0, width)?.contiguous()
    }

    fn gather(&self, x: &Tensor, rows: &[u32]) -> Result<Tensor> {
        x.index_select(&Tensor::new(rows, x.device())?, 0)
    }

    fn zeros_like(&self, x: &Tensor) -> Result<Tensor> {
        x.zeros_like()
    }

    fn scatter_add(&self, into: Tensor, x: &Tensor, rows: &[u32], weights: &[f64]) -> Result<Tensor> {
        // Converted on the host: not every device has f64.
        let weights = Tensor::from_slice(weights, (weights.len(), 1), &Device::Cpu)?.to_dtype(x.dtype())?;
        let weights = weights.to_device(x.device())?;
        into.index_add(&Tensor::new(rows, x.device())?, &x.broadcast_mul(&weights)?, 0)
    }

    fn scale_by_sigmoid(&self, x: Tensor, gate: &Tensor) -> Result<Tensor> {
        x.broadcast_mul(&sigmoid(gate)?)
    }

    fn to_host(&self, x: &Tensor) -> Result<Vec<Vec<f64>>> {
        x.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec2()
    }

    fn head_scores(&self, hidden: &Tensor, head: &Head, targets: &[Target]) -> Result<Vec<TargetScore>> {
        let grouped = HeadRows::new(targets);
        let dtype = hidden.dtype();
        let row_bytes = head.linear.weight.dim(0)? * norm_dtype(dtype).size_in_bytes();
        let chunk_rows = (self.chunks.head / row_bytes).max(1);
        let mut scores = Vec::with_capacity(grouped.distinct.len());
        for rows in grouped.rows.chunks(chunk_rows) {
            let indices: Vec<u32> = rows.iter().map(|row| row.row as u32).collect();
            let logits = self.logits(&self.gather(hidden, &indices)?, head, dtype)?;
            let of_rows: Vec<HeadTarget> = rows
                .iter()
                .enumerate()
                .flat_map(|(index, row)| {
                    grouped.distinct[row.targets.clone()].iter().map(move |target| HeadTarget {
                        row: index,
                        token: target.token,
                        temperature: target.temperature,
                    })
                })
                .collect();
            scores.extend(head::scores(&logits, &of_rows, &head.eos)?);
        }
        Ok(grouped.spread(&scores))
    }

    fn head_logits(&self, hidden: &Tensor, head: &Head, rows: &[u32], visit: &mut LogitsVisitor<'_>) -> Result<()> {
        let dtype = hidden.dtype();
        let row_bytes = head.linear.weight.dim(0)? * norm_dtype(dtype).size_in_bytes();
        let chunk_rows = (self.chunks.head / row_bytes).max(1);
        for (index, rows) in rows.chunks(chunk_rows).enumerate() {
            let logits = self.logits(&self.gather(hidden, rows)?, head, dtype)?;
            let logits = logits.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
            visit(index * chunk_rows, &logits)?;
        }
        Ok(())
    }
}

fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Silu => x.silu(),
        Activation::Gelu => x.gelu_erf(),
        Activation::GeluTanh => x.gelu(),
        Activation::Relu => x.relu(),
    }
}

/// Half precision is too coarse for a mean of squares: norms run in f32 there, as Hugging Face's do.
fn norm_dtype(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}
