//! The operations that the one forward is written over.
//!
//! [`Ops`] is the seam for devices. [`GenericOps`] does everything with plain candle operations and runs anywhere and in
//! any dtype; it is also the slow, obvious twin that others are tested against. [`CpuOps`] works on slices, in f32 on the
//! CPU. An implementation chooses how it holds activations; weights are candle tensors for all of them.

mod cpu;
mod generic;
mod head_rows;
mod rounding;

use candle_core::{Result, Tensor};
use plumbline_core::{Segment, Target, TokenId};

pub(crate) use cpu::CpuOps;
pub(crate) use generic::GenericOps;
pub(crate) use rounding::Rounding;

use crate::rope::RopeTable;
use crate::spec::{Activation, AttentionSpec};
use crate::weights::{Linear, Norm};

/// What the head says about one target. Nats, f64.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct TargetScore {
    pub(crate) logprob: f64,
    pub(crate) logprob_at_temperature: f64,
    pub(crate) entropy: f64,
    pub(crate) rank: u32,
    pub(crate) eos_probability: f64,
}

/// Memory that an implementation may take for intermediate results that it computes in pieces, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChunkBytes {
    /// Logits held at a time.
    pub(crate) head: usize,
    /// Activations between the two projections of an MLP; on a GPU also half of the scores of a block of attention.
    pub(crate) mlp: usize,
}

/// What goes into the first layer.
pub(crate) struct Embedding<'a> {
    /// `[vocab, hidden]`
    pub(crate) table: &'a Tensor,
    pub(crate) ids: &'a [TokenId],
    /// Factor on the embedded tokens.
    pub(crate) multiplier: f64,
    /// Learned positions `[max_positions, hidden]`, and the position of each row.
    pub(crate) positions: Option<(&'a Tensor, &'a [u32])>,
}

/// Query and key norms of a layer.
#[derive(Clone, Debug)]
pub(crate) struct QkNorm {
    pub(crate) query: Norm,
    pub(crate) key: Norm,
    /// Over all heads at once instead of each apart.
    pub(crate) all_heads: bool,
}

/// An MLP: `down(act(up(x)))`, or `down(act(gate(x)) * up(x))` where `up` has both projections, the gate first.
#[derive(Clone, Debug)]
pub(crate) struct FeedForward {
    pub(crate) up: Linear,
    pub(crate) down: Linear,
    pub(crate) activation: Activation,
    pub(crate) gated: bool,
}

/// The last norm and the lm_head.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) norm: Norm,
    /// In the head's own dtype.
    pub(crate) linear: Linear,
    /// Factor on the logits.
    pub(crate) multiplier: f64,
    /// `c` of `c * tanh(z / c)`, after the multiplier.
    pub(crate) softcap: Option<f64>,
    pub(crate) eos: Vec<TokenId>,
}

/// What is done with a piece of logits; see [`Ops::head_logits`].
pub(crate) type LogitsVisitor<'a> = dyn FnMut(usize, &[f32]) -> Result<()> + 'a;

/// Operations over packed rows. Row `i` of every output depends on row `i` of the input only, [`Ops::attention`] apart.
pub(crate) trait Ops {
    /// Activations `[rows, width]`.
    type Rows;
    /// Queries, keys and values of all rows of a batch: `[rows, heads, head_dim]`, keys and values with `kv_heads`, values
    /// of `value_dim`.
    type Qkv;

    /// Embedded tokens `[ids, hidden]`.
    fn embed(&self, embedding: &Embedding<'_>) -> Result<Self::Rows>;

    /// `x w^T + b`: `[rows, in] -> [rows, out]`.
    fn linear(&self, x: &Self::Rows, linear: &Linear) -> Result<Self::Rows>;

    /// Normalises each row.
    fn norm(&self, x: &Self::Rows, norm: &Norm) -> Result<Self::Rows>;

    /// `residual + multiplier * delta`.
    fn add(&self, residual: Self::Rows, delta: &Self::Rows, multiplier: f64) -> Result<Self::Rows>;

    /// [`Ops::add`], and [`Ops::norm`] of its result.
    fn add_norm(
        &self,
        residual: Self::Rows,
        delta: &Self::Rows,
        multiplier: f64,
        norm: &Norm,
    ) -> Result<(Self::Rows, Self::Rows)> {
        let sum = self.add(residual, delta, multiplier)?;
        let normed = self.norm(&sum, norm)?;
        Ok((sum, normed))
    }

    /// Splits the fused projection `[rows, (heads + 2 kv_heads) * head_dim]`, norms queries and keys, rotates them.
    fn direct_qkv(
        &self,
        qkv: Self::Rows,
        spec: &AttentionSpec,
        norm: Option<&QkNorm>,
        rope: Option<&RopeTable>,
    ) -> Result<Self::Qkv>;

    /// Multi-head latent attention. `query` is `[rows, heads * head_dim]`, of which the last `rope_dim` channels of each
    /// head rotate; `latent` ends with the `rope_dim` rotating key channels that all heads share; `key_value` is
    /// `[rows, heads * (head_dim - rope_dim + value_dim)]`.
    fn latent_qkv(
        &self,
        query: Self::Rows,
        latent: &Self::Rows,
        key_value: Self::Rows,
        spec: &AttentionSpec,
        rope_dim: usize,
        rope: Option<&RopeTable>,
    ) -> Result<Self::Qkv>;

    /// Causal attention within each segment and to its ancestors: `[rows, heads * value_dim]`.
    fn attention(&self, qkv: &Self::Qkv, spec: &AttentionSpec, segments: &[Segment]) -> Result<Self::Rows>;

    /// An MLP.
    fn feed_forward(&self, x: &Self::Rows, mlp: &FeedForward) -> Result<Self::Rows>;

    /// The first `width` columns.
    fn leading_columns(&self, x: &Self::Rows, width: usize) -> Result<Self::Rows>;

    /// Copies of rows, in the order of `rows`.
    fn gather(&self, x: &Self::Rows, rows: &[u32]) -> Result<Self::Rows>;

    /// As many rows of as many columns as `x` has, all zero.
    fn zeros_like(&self, x: &Self::Rows) -> Result<Self::Rows>;

    /// Adds row `i` of `x`, times `weights[i]`, to row `rows[i]` of `into`; no row occurs twice.
    fn scatter_add(&self, into: Self::Rows, x: &Self::Rows, rows: &[u32], weights: &[f64]) -> Result<Self::Rows>;

    /// Multiplies each row by the sigmoid of its gate, `[rows, 1]`.
    fn scale_by_sigmoid(&self, x: Self::Rows, gate: &Self::Rows) -> Result<Self::Rows>;

    /// All values on the host.
    fn to_host(&self, x: &Self::Rows) -> Result<Vec<Vec<f64>>>;

    /// Returns when `x` is computed: a GPU works behind the caller's back, and times would be those of giving the orders.
    fn wait(&self, x: &Self::Rows) -> Result<()> {
        let _ = x;
        Ok(())
    }

    /// Scores of targets, whose `row` counts in `hidden`. The logits of a batch are never held whole.
    fn head_scores(&self, hidden: &Self::Rows, head: &Head, targets: &[Target]) -> Result<Vec<TargetScore>>;

    /// Whole logits of some rows of `hidden`, after multiplier and soft-cap, in pieces that the memory bound decides. `visit`
    /// gets for each piece the index in `rows` of its first row, and its logits `[piece, vocab]`.
    fn head_logits(&self, hidden: &Self::Rows, head: &Head, rows: &[u32], visit: &mut LogitsVisitor<'_>) -> Result<()>;
}
