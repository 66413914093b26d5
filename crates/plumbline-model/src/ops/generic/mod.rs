//! The operations in plain candle: any device, any float dtype.

mod attention;
#[cfg(feature = "flash-attn")]
mod flash;
mod head;
mod masks;
// Tested everywhere: it decides what the kernel computes.
#[cfg(any(feature = "flash-attn", test))]
mod varlen;

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::ops::sigmoid;
use plumbline_core::{Segment, Target};

use self::head::HeadTarget;
use self::masks::Masks;
use super::head_rows::HeadRows;
use super::{ChunkBytes, Embedding, FeedForward, Head, LogitsVisitor, Ops, QkNorm, Rounding, TargetScore};
use crate::rope::RopeTable;
use crate::spec::{Activation, AttentionSpec, NormKind};
use crate::weights::{Linear, Norm};

/// Plain candle operations.
#[derive(Clone, Debug)]
pub(crate) struct GenericOps {
    chunks: ChunkBytes,
    rounding: Rounding,
    masks: Masks,
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
        Self { chunks, rounding: Rounding::default(), masks: Masks::default() }
    }

    /// The same operations with results rounded.
    pub(crate) fn with_rounding(&self, rounding: Rounding) -> Self {
        Self { chunks: self.chunks, rounding, masks: self.masks.clone() }
    }

    pub(crate) fn set_chunks(&mut self, chunks: ChunkBytes) {
        self.chunks = chunks;
    }

    fn narrow(&self, x: Tensor) -> Result<Tensor> {
        self.rounding.narrow_tensor(x)
    }

    /// Weights as they are multiplied.
    fn narrow_linear(&self, linear: &Linear) -> Result<Linear> {
        let bias = linear.bias.clone().map(|bias| self.narrow(bias)).transpose()?;
        Ok(Linear { weight: self.narrow(linear.weight.clone())?, bias })
    }

    /// `x w^T + b` of these very weights, not rounded.
    fn product(&self, x: &Tensor, linear: &Linear) -> Result<Tensor> {
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

    /// A norm's weight as a bf16 engine has it: what is stored is rounded, its sum with an offset is not.
    fn norm_weight(&self, norm: &Norm) -> Result<Tensor> {
        if !self.rounding.body || norm.weight_offset == 0.0 {
            return self.narrow(norm.weight.clone());
        }
        self.narrow((&norm.weight - norm.weight_offset)?)? + norm.weight_offset
    }

    fn rotate(&self, rope: &RopeTable, x: &Tensor) -> Result<Tensor> {
        self.narrow(rope.rotate(x)?)
    }

    /// Logits of normed rows, widened: half-precision ones are never used for statistics as they are. The head's weights are
    /// used as given.
    fn logits(&self, x: &Tensor, head: &Head, dtype: DType) -> Result<Tensor> {
        let x = self.norm(x, &head.norm)?.to_dtype(head.linear.weight.dtype())?;
        let mut logits =
            self.rounding.narrow_logits_tensor(self.product(&x, &head.linear)?.to_dtype(norm_dtype(dtype))?)?;
        if head.multiplier != 1.0 {
            logits = (logits * head.multiplier)?;
        }
        if let Some(cap) = head.softcap {
            logits = ((logits / cap)?.tanh()? * cap)?;
        }
        self.rounding.narrow_logits_tensor(logits)
    }
}

impl Ops for GenericOps {
    type Rows = Tensor;
    type Qkv = Qkv;

    fn embed(&self, embedding: &Embedding<'_>) -> Result<Tensor> {
        let device = embedding.table.device();
        let rows = |table: &Tensor, rows: &[u32]| self.narrow(table.index_select(&Tensor::new(rows, device)?, 0)?);
        let mut x = rows(embedding.table, embedding.ids)?;
        if embedding.multiplier != 1.0 {
            x = self.narrow((x * self.rounding.narrow_factor(embedding.multiplier))?)?;
        }
        match embedding.positions {
            Some((table, positions)) => self.narrow((x + rows(table, positions)?)?),
            None => Ok(x),
        }
    }

    fn linear(&self, x: &Tensor, linear: &Linear) -> Result<Tensor> {
        let product =
            if self.rounding.body { self.product(x, &self.narrow_linear(linear)?)? } else { self.product(x, linear)? };
        self.narrow(product)
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
        let mut x = x.to_dtype(dtype)?;
        if norm.kind == NormKind::Rms && norm.weight_offset == 0.0 {
            x = self.narrow(x)?;
        }
        x = x.broadcast_mul(&self.norm_weight(norm)?)?;
        if let Some(bias) = &norm.bias {
            x = x.broadcast_add(&self.narrow(bias.clone())?)?;
        }
        self.narrow(x)
    }

    fn add(&self, residual: Tensor, delta: &Tensor, multiplier: f64) -> Result<Tensor> {
        let sum = if multiplier == 1.0 { residual + delta } else { residual + self.narrow((delta * multiplier)?)? };
        self.narrow(sum?)
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
            let rope = rope.narrowed(self.rounding)?;
            query = self.rotate(&rope, &query)?;
            key = self.rotate(&rope, &key)?;
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
        let rope = rope.map(|rope| rope.narrowed(self.rounding)).transpose()?;
        let rotate = |x: &Tensor| match &rope {
            Some(rope) => self.rotate(rope, x),
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
        attention::attend(qkv, spec, segments, self.rounding, (&self.masks, 2 * self.chunks.mlp))
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
                    let gate = self.narrow(activate(&inner.narrow(1, 0, width)?, mlp.activation)?)?;
                    self.narrow((gate * inner.narrow(1, width, width)?)?)?
                } else {
                    self.narrow(activate(&inner, mlp.activation)?)?
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
        let added = self.narrow(x.broadcast_mul(&weights)?)?;
        self.narrow(into.index_add(&Tensor::new(rows, x.device())?, &added, 0)?)
    }

    fn scale_by_sigmoid(&self, x: Tensor, gate: &Tensor) -> Result<Tensor> {
        self.narrow(x.broadcast_mul(&self.narrow(sigmoid(gate)?)?)?)
    }

    fn to_host(&self, x: &Tensor) -> Result<Vec<Vec<f64>>> {
        x.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec2()
    }

    fn wait(&self, x: &Tensor) -> Result<()> {
        x.device().synchronize()
    }

    fn head_scores(&self, hidden: &Tensor, head: &Head, targets: &[Target]) -> Result<Vec<TargetScore>> {
        let grouped = HeadRows::new(targets);
        let dtype = hidden.dtype();
        let rounded = Head { linear: self.narrow_linear(&head.linear)?, ..head.clone() };
        let head = &rounded;
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
        let rounded = Head { linear: self.narrow_linear(&head.linear)?, ..head.clone() };
        let head = &rounded;
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
