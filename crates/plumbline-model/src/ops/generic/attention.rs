//! Causal attention over packed segments, in plain candle operations, or in flash attention where it was built in.

use candle_core::{DType, Result, Tensor};
use candle_nn::ops::softmax_last_dim;
use plumbline_core::Segment;

use super::Qkv;
use crate::ops::Rounding;
use crate::spec::AttentionSpec;

/// Queries of one segment that are attended at once. Bounds the scores held in memory to
/// `heads * QUERY_BLOCK * keys`; blocks start at multiples of it from the segment's first row.
const QUERY_BLOCK: usize = 128;

/// See [`crate::ops::Ops::attention`].
pub(super) fn attend(qkv: &Qkv, spec: &AttentionSpec, segments: &[Segment], rounding: Rounding) -> Result<Tensor> {
    #[cfg(feature = "flash-attn")]
    if super::flash::supports(qkv, spec) {
        return super::flash::attend(qkv, spec, segments);
    }
    let mut outputs = Vec::new();
    for segment in segments {
        let (keys, values) = context(qkv, segments, segment)?;
        for start in (0..segment.len).step_by(QUERY_BLOCK) {
            let len = QUERY_BLOCK.min(segment.len - start);
            let query = qkv.query.narrow(0, segment.start + start, len)?;
            let attended = attend_block(&query, &keys, &values, segment.position + start, spec, rounding)?;
            outputs.push(rounding.narrow_tensor(attended)?);
        }
    }
    Tensor::cat(&outputs, 0)
}

/// A segment's ancestors, oldest first, and then the segment itself.
pub(super) fn lineage<'a>(segments: &'a [Segment], segment: &'a Segment) -> Vec<&'a Segment> {
    let mut chain = vec![segment];
    let mut parent = segment.parent;
    while let Some(ancestor) = parent.and_then(|index| segments.get(index)) {
        chain.push(ancestor);
        parent = ancestor.parent;
    }
    chain.reverse();
    chain
}

/// Keys and values that a segment may see: those of its ancestors, oldest first, then its own.
fn context(qkv: &Qkv, segments: &[Segment], segment: &Segment) -> Result<(Tensor, Tensor)> {
    let chain = lineage(segments, segment);
    let gather = |tensor: &Tensor| {
        let parts: Vec<Tensor> =
            chain.iter().map(|part| tensor.narrow(0, part.start, part.len)).collect::<Result<_>>()?;
        match parts.as_slice() {
            [only] => Ok(only.clone()),
            parts => Tensor::cat(parts, 0),
        }
    };
    Ok((gather(&qkv.key)?, gather(&qkv.value)?))
}

/// Attention of `query` `[len, heads, head_dim]`, whose first row is at `position`, to keys `0..position + len`.
fn attend_block(
    query: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    position: usize,
    spec: &AttentionSpec,
    rounding: Rounding,
) -> Result<Tensor> {
    let len = query.dim(0)?;
    let group = spec.heads / spec.kv_heads;
    let first_key = spec.window.map_or(0, |window| (position + 1).saturating_sub(window));
    let seen = position + len - first_key;
    // Query heads that share a key/value head are stacked: [kv_heads, group * len, head_dim].
    let query = query.reshape((len, spec.kv_heads, group, spec.head_dim))?.permute((1, 2, 0, 3))?.reshape((
        spec.kv_heads,
        group * len,
        spec.head_dim,
    ))?;
    let keys = keys.narrow(0, first_key, seen)?.permute((1, 2, 0))?.contiguous()?;
    let values = values.narrow(0, first_key, seen)?.transpose(0, 1)?.contiguous()?;

    let mut scores = (query.matmul(&keys)? * spec.scale)?;
    if let Some(cap) = spec.softcap {
        scores = ((scores / cap)?.tanh()? * cap)?;
    }
    let dtype = scores.dtype();
    let scores = scores.to_dtype(if dtype == DType::F64 { dtype } else { DType::F32 })?;
    let mask = mask(len, position, first_key, seen, spec.window, &scores)?;
    let scores = scores.reshape((spec.kv_heads, group, len, seen))?.broadcast_add(&mask)?;
    let weights = rounding.narrow_tensor(softmax_last_dim(&scores)?)?.to_dtype(dtype)?;
    weights
        .reshape((spec.kv_heads, group * len, seen))?
        .matmul(&values)?
        .reshape((spec.kv_heads, group, len, spec.value_dim))?
        .permute((2, 0, 1, 3))?
        .reshape((len, spec.heads * spec.value_dim))
}

/// `[len, seen]`, 0 where row `i` (at `position + i`) sees key `first_key + j`, minus infinity elsewhere.
fn mask(
    len: usize,
    position: usize,
    first_key: usize,
    seen: usize,
    window: Option<usize>,
    like: &Tensor,
) -> Result<Tensor> {
    let mut values = Vec::with_capacity(len * seen);
    for row in position..position + len {
        let oldest = window.map_or(0, |window| (row + 1).saturating_sub(window));
        values.extend(
            (first_key..first_key + seen).map(|key| if key <= row && key >= oldest { 0f32 } else { f32::NEG_INFINITY }),
        );
    }
    Tensor::from_vec(values, (len, seen), like.device())?.to_dtype(like.dtype())
}
