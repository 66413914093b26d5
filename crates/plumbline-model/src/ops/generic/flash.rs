//! Attention of a whole packed batch in one call of the flash-attention kernel (candle-flash-attn), on CUDA.
//!
//! The kernel takes packed sequences of any lengths, and fewer queries than keys: a segment's queries stand at the end of
//! its keys. So sequences that share a prompt are served too. The keys and values that a segment sees are copied together
//! for it, which costs memory in proportion to the tokens of the unshared sequences; scores are never held.

use candle_core::{DType, Result, Tensor};
use candle_flash_attn::flash_attn_varlen_alibi_windowed_softcap;
use plumbline_core::Segment;

use super::Qkv;
use super::varlen::{VarlenBatch, keys_to_the_left};
use crate::spec::AttentionSpec;

/// The kernel's widest head.
const MAX_HEAD_DIM: usize = 512;

/// Whether the kernel can compute this attention: half precision on CUDA, heads of one width that is a multiple of eight.
pub(super) fn supports(qkv: &Qkv, spec: &AttentionSpec) -> bool {
    qkv.query.device().is_cuda()
        && matches!(qkv.query.dtype(), DType::BF16 | DType::F16)
        && spec.head_dim == spec.value_dim
        && spec.head_dim.is_multiple_of(8)
        && spec.head_dim <= MAX_HEAD_DIM
}

/// See [`crate::ops::Ops::attention`].
pub(super) fn attend(qkv: &Qkv, spec: &AttentionSpec, segments: &[Segment]) -> Result<Tensor> {
    let batch = VarlenBatch::new(segments);
    let (query_bounds, key_bounds) = batch.bounds_on(qkv.query.device())?;
    let attended = flash_attn_varlen_alibi_windowed_softcap(
        &qkv.query,
        &batch.gather(&qkv.key)?,
        &batch.gather(&qkv.value)?,
        None,
        &query_bounds,
        &key_bounds,
        batch.most_queries,
        batch.most_keys,
        spec.scale as f32,
        keys_to_the_left(spec),
        // No key after the query's own: causal.
        Some(0),
        // The kernel's word for no cap.
        spec.softcap.unwrap_or(0.0) as f32,
    )?;
    attended.reshape((attended.dim(0)?, spec.heads * spec.value_dim))
}
