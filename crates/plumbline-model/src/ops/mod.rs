//! The operations that the one forward is written over.
//!
//! [`Ops`] is the seam for devices: [`GenericOps`] does everything with plain candle operations and runs anywhere and in
//! any dtype; a device with something better overrides single operations. It is also the slow, obvious twin that such
//! overrides are tested against.

mod attention;
mod generic;
mod head;

use candle_core::{Result, Tensor};
use plumbline_core::Segment;

pub(crate) use generic::GenericOps;

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

/// A target within a chunk of logits rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct HeadTarget {
    /// Row of the chunk.
    pub(crate) row: usize,
    pub(crate) token: u32,
    pub(crate) temperature: f64,
}

/// Queries, keys and values of all rows of a batch: `[rows, heads, head_dim]`, keys and values with `kv_heads`, values of
/// `value_dim`.
pub(crate) struct Qkv {
    pub(crate) query: Tensor,
    pub(crate) key: Tensor,
    pub(crate) value: Tensor,
}

/// Query and key norms of a layer.
#[derive(Debug)]
pub(crate) struct QkNorm {
    pub(crate) query: Norm,
    pub(crate) key: Norm,
    /// Over all heads at once instead of each apart.
    pub(crate) all_heads: bool,
}

/// Operations over packed rows. Row `i` of every output depends on row `i` of the input only, [`Ops::attention`] apart.
pub(crate) trait Ops: Send + Sync + std::fmt::Debug {
    /// `x w^T + b`: `[rows, in] -> [rows, out]`.
    fn linear(&self, x: &Tensor, linear: &Linear) -> Result<Tensor>;

    /// Normalises each row.
    fn norm(&self, x: &Tensor, norm: &Norm) -> Result<Tensor>;

    /// `residual + multiplier * delta`.
    fn add(&self, residual: &Tensor, delta: &Tensor, multiplier: f64) -> Result<Tensor>;

    /// Splits the fused projection `[rows, (heads + 2 kv_heads) * head_dim]`, norms queries and keys, rotates them.
    fn split_and_rotate(
        &self,
        qkv: &Tensor,
        spec: &AttentionSpec,
        norm: Option<&QkNorm>,
        rope: Option<&RopeTable>,
    ) -> Result<Qkv>;

    /// Causal attention within each segment and to its ancestors: `[rows, heads * value_dim]`.
    fn attention(&self, qkv: &Qkv, spec: &AttentionSpec, segments: &[Segment]) -> Result<Tensor>;

    /// `act(gate) * up` of `[rows, 2 * intermediate]`.
    fn gated(&self, gate_up: &Tensor, activation: Activation) -> Result<Tensor>;

    /// `act(x)`.
    fn activate(&self, x: &Tensor, activation: Activation) -> Result<Tensor>;

    /// Statistics of logits rows `[rows, vocab]` for the targets in them.
    fn head_scores(&self, logits: &Tensor, targets: &[HeadTarget], eos: &[u32]) -> Result<Vec<TargetScore>>;
}
