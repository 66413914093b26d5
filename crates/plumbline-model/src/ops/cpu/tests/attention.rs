//! Attention, with what prepares its queries and keys.

use plumbline_core::{PackedBatch, ScoringSequence};

use super::*;
use crate::rope::RopeCache;
use crate::spec::{AttentionProjection, ProjectionSpec, RopeScaling, RopeSpec};

fn attention_spec(heads: usize, kv_heads: usize, head_dim: usize) -> AttentionSpec {
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
        window: None,
        softcap: None,
    }
}

/// Sequences of these lengths, the second and third of which begin as the first does.
fn forest(lengths: &[usize], shared: bool) -> PackedBatch {
    let sequences: Vec<ScoringSequence> = lengths
        .iter()
        .enumerate()
        .map(|(index, len)| {
            let ids = (0..=*len).map(|at| if index < 3 && at < 70 { at as u32 } else { (1000 * index + at) as u32 });
            ScoringSequence::all_tokens(ids.collect())
        })
        .collect();
    if shared { PackedBatch::pack_shared(&sequences) } else { PackedBatch::pack(&sequences) }
}

/// Shapes of the weights of query and key norms, and whether they are over all heads at once.
type NormShapes = (Vec<usize>, Vec<usize>, bool);

#[test]
fn attention_agrees() {
    let both = Both::new();
    let rope = |dim, interleaved| RopeSpec {
        dim,
        theta: 1e4,
        interleaved,
        scaling: RopeScaling::Default,
        position_divisor: 1.0,
    };
    let variants: Vec<(AttentionSpec, Option<RopeSpec>, Option<NormShapes>)> = vec![
        (attention_spec(4, 2, 16), Some(rope(16, false)), None),
        (attention_spec(1, 1, 5), None, None),
        (attention_spec(3, 1, 12), Some(rope(4, true)), Some((vec![12], vec![12], false))),
        (
            AttentionSpec { window: Some(1), softcap: Some(2.0), ..attention_spec(2, 2, 8) },
            Some(rope(8, true)),
            Some((vec![2, 8], vec![2, 8], false)),
        ),
        (
            AttentionSpec { window: Some(50), ..attention_spec(6, 3, 20) },
            Some(rope(10, false)),
            Some((vec![120], vec![60], true)),
        ),
        (
            AttentionSpec { softcap: Some(5.0), window: Some(300), ..attention_spec(14, 2, 64) },
            Some(rope(64, false)),
            None,
        ),
    ];
    for (index, (spec, rope, norms)) in variants.into_iter().enumerate() {
        for (lengths, shared) in [(vec![1], false), (vec![7, 64, 65], false), (vec![300, 290, 75, 33, 600], true)] {
            let batch = forest(&lengths, shared);
            let width = (spec.heads + 2 * spec.kv_heads) * spec.head_dim;
            let qkv = random(&[batch.tokens(), width], index as u64 + 1);
            let table = |dtype| {
                let cache = rope.as_ref().map(|rope| RopeCache::new(rope, dtype, &Device::Cpu));
                cache.map(|mut cache| cache.table(batch.segments()).unwrap())
            };
            let qk_norm = norms.as_ref().map(|(query, key, all_heads)| QkNorm {
                query: norm(query, NormKind::Rms, false, 5),
                key: norm(key, NormKind::Layer, false, 6),
                all_heads: *all_heads,
            });
            let qk_norm64 = qk_norm.as_ref().map(|norm| QkNorm {
                query: double_norm(&norm.query),
                key: double_norm(&norm.key),
                all_heads: norm.all_heads,
            });
            let (rope32, rope64) = (table(DType::F32), table(DType::F64));
            let ours = both.ours.direct_qkv(both.rows(&qkv), &spec, qk_norm.as_ref(), rope32.as_ref()).unwrap();
            let twin = both.twin.direct_qkv(double(&qkv), &spec, qk_norm64.as_ref(), rope64.as_ref()).unwrap();
            let ours = both.ours.attention(&ours, &spec, batch.segments()).unwrap();
            let twin = both.twin.attention(&twin, &spec, batch.segments()).unwrap();
            assert!(error(&ours, &twin) < 3e-6, "variant {index}, {lengths:?}: {:.1e}", error(&ours, &twin));
        }
    }
}

#[test]
fn latent_attention_agrees() {
    let both = Both::new();
    let (rope_dim, rank) = (6, 10);
    let spec = AttentionSpec { value_dim: 7, ..attention_spec(3, 3, 14) };
    let batch = forest(&[90, 80, 130], true);
    let rows = batch.tokens();
    let (query, latent) = (random(&[rows, 3 * 14], 1), random(&[rows, rank + rope_dim], 2));
    let key_value = random(&[rows, 3 * (14 - rope_dim + 7)], 3);
    for interleaved in [true, false] {
        let rope =
            RopeSpec { dim: rope_dim, theta: 1e4, interleaved, scaling: RopeScaling::Default, position_divisor: 1.0 };
        let table = |dtype| RopeCache::new(&rope, dtype, &Device::Cpu).table(batch.segments()).unwrap();
        let (rope32, rope64) = (table(DType::F32), table(DType::F64));
        let (ours, twin) = (&both.ours, &both.twin);
        let (q, l, kv) = (both.rows(&query), both.rows(&latent), both.rows(&key_value));
        let qkv = ours.latent_qkv(q, &l, kv, &spec, rope_dim, Some(&rope32)).unwrap();
        let (q, l, kv) = (double(&query), double(&latent), double(&key_value));
        let qkv64 = twin.latent_qkv(q, &l, kv, &spec, rope_dim, Some(&rope64)).unwrap();
        let ours = ours.attention(&qkv, &spec, batch.segments()).unwrap();
        let twin = twin.attention(&qkv64, &spec, batch.segments()).unwrap();
        assert!(error(&ours, &twin) < 3e-6, "{:.1e}", error(&ours, &twin));
    }
}
