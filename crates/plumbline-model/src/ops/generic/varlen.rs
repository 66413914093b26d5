//! A packed batch in the terms of variable-length flash attention: bounds of queries and of the keys that they may see.

use candle_core::{Device, Result, Tensor};
use plumbline_core::Segment;

use super::attention::lineage;
use crate::spec::AttentionSpec;

/// Each segment is one sequence of the kernel's. It has as many queries as rows, and as many keys as its last row sees
/// without a window; where there are more keys than queries, the last query sees the last key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct VarlenBatch {
    /// First query of each segment, and the end of the last one.
    pub(super) query_bounds: Vec<u32>,
    /// The same for keys.
    pub(super) key_bounds: Vec<u32>,
    /// Queries of the longest segment.
    pub(super) most_queries: usize,
    /// Keys of the segment that has most.
    pub(super) most_keys: usize,
    /// The batch's row of each key; `None` = each row once and in order, as where no segment has a parent.
    pub(super) key_rows: Option<Vec<u32>>,
}

impl VarlenBatch {
    pub(super) fn new(segments: &[Segment]) -> Self {
        let keys: Vec<usize> = segments.iter().map(|segment| segment.position + segment.len).collect();
        let shares = segments.iter().any(|segment| segment.parent.is_some());
        let key_rows = shares.then(|| {
            let parts = segments.iter().flat_map(|segment| lineage(segments, segment));
            parts.flat_map(|part| part.rows().map(|row| row as u32)).collect()
        });
        Self {
            query_bounds: bounds(segments.iter().map(|segment| segment.len)),
            key_bounds: bounds(keys.iter().copied()),
            most_queries: segments.iter().map(|segment| segment.len).max().unwrap_or(0),
            most_keys: keys.into_iter().max().unwrap_or(0),
            key_rows,
        }
    }

    /// Keys or values `[rows, kv_heads, width]`, copied for each segment that sees them where that is more than one.
    pub(super) fn gather(&self, rows: &Tensor) -> Result<Tensor> {
        match &self.key_rows {
            Some(key_rows) => rows.index_select(&Tensor::new(key_rows.as_slice(), rows.device())?, 0),
            None => Ok(rows.clone()),
        }
    }

    /// The bounds of queries and of keys on a device.
    #[cfg_attr(not(feature = "flash-attn"), expect(dead_code, reason = "only the flash kernel takes bounds"))]
    pub(super) fn bounds_on(&self, device: &Device) -> Result<(Tensor, Tensor)> {
        Ok((Tensor::new(self.query_bounds.as_slice(), device)?, Tensor::new(self.key_bounds.as_slice(), device)?))
    }
}

/// The kernel's window: keys that a query sees before the one at its own position.
pub(super) fn keys_to_the_left(spec: &AttentionSpec) -> Option<usize> {
    // A window holds the query's own key at least.
    spec.window.map(|window| window.saturating_sub(1))
}

/// Running sums, from 0.
fn bounds(lengths: impl Iterator<Item = usize>) -> Vec<u32> {
    let ends = lengths.scan(0, |end, len| {
        *end += len as u32;
        Some(*end)
    });
    std::iter::once(0).chain(ends).collect()
}

#[cfg(test)]
mod tests {
    use candle_nn::attention::flash_attn_varlen_unfused;
    use plumbline_core::{PackedBatch, ScoringSequence};

    use super::super::Qkv;
    use super::super::attention::attend;
    use super::super::masks::Masks;
    use super::*;
    use crate::ops::Rounding;
    use crate::spec::{AttentionProjection, ProjectionSpec};

    fn spec(heads: usize, kv_heads: usize, head_dim: usize, window: Option<usize>) -> AttentionSpec {
        let nothing = ProjectionSpec::single(String::new(), 0, 0, false);
        AttentionSpec {
            heads,
            kv_heads,
            head_dim,
            value_dim: head_dim,
            scale: 1.0 / (head_dim as f64).sqrt(),
            projection: AttentionProjection::Direct { qkv: nothing.clone(), qk_norm: None },
            output: nothing,
            rope: None,
            window,
            softcap: None,
        }
    }

    /// A branching conversation: a prompt of 40, two answers, and two answers to the first of them; and one apart.
    fn batch(shared: bool) -> PackedBatch {
        let turns = |parts: &[(u32, u32)]| {
            let ids = parts.iter().flat_map(|(seed, len)| (0..*len).map(move |at| seed * 1000 + at));
            ScoringSequence::all_tokens(ids.collect())
        };
        let sequences = [
            turns(&[(1, 40), (2, 30), (3, 25)]),
            turns(&[(1, 40), (2, 30), (4, 18)]),
            turns(&[(1, 40), (5, 140)]),
            turns(&[(6, 23)]),
        ];
        if shared { PackedBatch::pack_shared(&sequences) } else { PackedBatch::pack(&sequences) }
    }

    fn values(rows: usize, heads: usize, width: usize, seed: f64) -> Tensor {
        let values = (0..rows * heads * width).map(|at| ((at as f64 + 1.0) * seed).sin() as f32 * 2.0);
        Tensor::from_vec(values.collect::<Vec<f32>>(), (rows, heads, width), &Device::Cpu).unwrap()
    }

    fn lengths(bounds: &[u32]) -> Tensor {
        let lengths: Vec<u32> = bounds.windows(2).map(|pair| pair[1] - pair[0]).collect();
        Tensor::new(lengths, &Device::Cpu).unwrap()
    }

    #[test]
    fn bounds_and_rows_of_a_shared_batch() {
        let segments = [
            Segment { start: 0, len: 3, position: 0, parent: None },
            Segment { start: 3, len: 2, position: 3, parent: Some(0) },
            Segment { start: 5, len: 1, position: 5, parent: Some(1) },
            Segment { start: 6, len: 4, position: 3, parent: Some(0) },
        ];
        let expected = VarlenBatch {
            query_bounds: vec![0, 3, 5, 6, 10],
            key_bounds: vec![0, 3, 8, 14, 21],
            most_queries: 4,
            most_keys: 7,
            key_rows: Some(vec![0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 0, 1, 2, 6, 7, 8, 9]),
        };
        assert_eq!(VarlenBatch::new(&segments), expected);
        assert_eq!(VarlenBatch::new(&segments[..1]).key_rows, None);
    }

    /// What the flash kernel is given, in a plain implementation with the kernel's rules for lengths, causality and windows.
    #[test]
    fn the_batch_means_the_same_to_a_varlen_kernel() {
        for (heads, kv_heads, head_dim, window) in [(4, 2, 8, None), (3, 3, 16, Some(1)), (4, 1, 8, Some(33))] {
            for shared in [false, true] {
                let (spec, batch) = (spec(heads, kv_heads, head_dim, window), batch(shared));
                assert_eq!(batch.segments().iter().any(|segment| segment.parent.is_some()), shared);
                let qkv = Qkv {
                    query: values(batch.tokens(), heads, head_dim, 0.7),
                    key: values(batch.tokens(), kv_heads, head_dim, 1.3),
                    value: values(batch.tokens(), kv_heads, head_dim, 2.1),
                };
                let varlen = VarlenBatch::new(batch.segments());
                let found = flash_attn_varlen_unfused(
                    &qkv.query,
                    &varlen.gather(&qkv.key).unwrap(),
                    &varlen.gather(&qkv.value).unwrap(),
                    None,
                    &lengths(&varlen.query_bounds),
                    &lengths(&varlen.key_bounds),
                    varlen.most_queries,
                    varlen.most_keys,
                    spec.scale as f32,
                    true,
                    keys_to_the_left(&spec),
                    None,
                )
                .unwrap();
                let expected =
                    attend(&qkv, &spec, batch.segments(), Rounding::default(), (&Masks::default(), 0)).unwrap();
                let difference = (found.reshape(expected.shape()).unwrap() - expected).unwrap().abs().unwrap();
                let largest = difference.max_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(largest < 1e-5, "{heads} heads, window {window:?}, shared {shared}: {largest:.1e}");
            }
        }
    }
}
