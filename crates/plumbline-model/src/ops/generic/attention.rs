//! Causal attention over packed segments, in plain candle operations, or in flash attention where it was built in.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::ops::softmax_last_dim;
use plumbline_core::Segment;

use super::Qkv;
use super::masks::Masks;
use crate::ops::Rounding;
use crate::spec::AttentionSpec;

/// Queries of one segment that are attended at once on the CPU, and at least on a GPU. Bounds the scores held in memory to
/// `heads * QUERY_BLOCK * keys`; blocks start at multiples of it from the segment's first row.
const QUERY_BLOCK: usize = 128;

/// The same at most on a GPU, where a few large operations are faster than many small ones.
const LARGEST_QUERY_BLOCK: usize = 1024;

/// See [`crate::ops::Ops::attention`].
/// `score_bytes` is the memory for the f32 scores of one block of more than [`QUERY_BLOCK`] queries; a few copies of them are
/// held.
pub(super) fn attend(
    qkv: &Qkv,
    spec: &AttentionSpec,
    segments: &[Segment],
    rounding: Rounding,
    (masks, score_bytes): (&Masks, usize),
) -> Result<Tensor> {
    #[cfg(feature = "flash-attn")]
    if super::flash::supports(qkv, spec) {
        return super::flash::attend(qkv, spec, segments);
    }
    let mut outputs = Vec::new();
    for segment in segments {
        let (keys, values) = context(qkv, segments, segment)?;
        let block = query_block(spec, segment.position + segment.len, qkv.query.device(), score_bytes);
        for start in (0..segment.len).step_by(block) {
            let len = block.min(segment.len - start);
            let query = qkv.query.narrow(0, segment.start + start, len)?;
            let attended = attend_block(&query, (&keys, &values), segment.position + start, spec, rounding, masks)?;
            outputs.push(rounding.narrow_tensor(attended)?);
        }
    }
    Tensor::cat(&outputs, 0)
}

fn query_block(spec: &AttentionSpec, keys: usize, device: &Device, score_bytes: usize) -> usize {
    if device.is_cpu() { QUERY_BLOCK } else { widest_block(spec.heads, keys, score_bytes) }
}

/// The largest multiple of [`QUERY_BLOCK`] whose scores fit, or that.
fn widest_block(heads: usize, keys: usize, score_bytes: usize) -> usize {
    let rows = score_bytes / (heads * keys * size_of::<f32>()).max(1);
    rows.clamp(QUERY_BLOCK, LARGEST_QUERY_BLOCK) / QUERY_BLOCK * QUERY_BLOCK
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
    (keys, values): (&Tensor, &Tensor),
    position: usize,
    spec: &AttentionSpec,
    rounding: Rounding,
    masks: &Masks,
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
    let mask = masks.get((len, position - first_key), spec.window, scores.dtype(), scores.device())?;
    let scores = scores.reshape((spec.kv_heads, group, len, seen))?.broadcast_add(&mask)?;
    let weights = rounding.narrow_tensor(softmax_last_dim(&scores)?)?.to_dtype(dtype)?;
    weights
        .reshape((spec.kv_heads, group * len, seen))?
        .matmul(&values)?
        .reshape((spec.kv_heads, group, len, spec.value_dim))?
        .permute((2, 0, 1, 3))?
        .reshape((len, spec.heads * spec.value_dim))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_as_wide_as_memory_allows() {
        for (heads, keys, score_bytes, expected) in [
            (14, 512, 128 << 20, 1024),
            (14, 4096, 128 << 20, 512),
            (14, 2048, 16 << 20, 128),
            (64, 32768, 128 << 20, 128),
            (0, 0, 1, 128),
        ] {
            assert_eq!(
                widest_block(heads, keys, score_bytes),
                expected,
                "{heads} heads, {keys} keys, {score_bytes} bytes"
            );
        }
    }
}
