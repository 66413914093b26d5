//! Rounded operations against their twin in candle tensors: the same roundings at the same places.

use plumbline_core::{PackedBatch, ScoringSequence, Variant};

use super::*;
use crate::rope::RopeCache;
use crate::spec::{Activation, AttentionProjection, ProjectionSpec, RopeScaling, RopeSpec};

struct Rounded {
    both: Both,
    ours: CpuOps,
    twin: GenericOps,
}

impl Rounded {
    fn new() -> Self {
        let both = Both::new();
        let rounding = Rounding::of(&Variant::Bf16 { head: true }).unwrap();
        let (ours, twin) = (both.ours.with_rounding(rounding), both.twin.with_rounding(rounding));
        Self { both, ours, twin }
    }

    fn rows(&self, x: &Tensor) -> Matrix {
        self.both.rows(x)
    }

    /// Nearly every value is the same bf16; where sums in another order fall to the other side of a tie, the next one.
    fn assert_same(&self, ours: &Matrix, twin: &Tensor, name: &str) {
        assert_values(ours.values(), &twin.flatten_all().unwrap().to_vec1::<f32>().unwrap(), name);
    }
}

fn assert_values(ours: &[f32], twin: &[f32], name: &str) {
    assert_eq!(ours.len(), twin.len());
    let size = twin.iter().fold(0f32, |size, x| size.max(x.abs()));
    assert!(size > 0.0 && ours.iter().chain(twin).all(|x| x.to_bits() & 0xffff == 0), "{name}: not rounded");
    let same = ours.iter().zip(twin).filter(|(ours, twin)| ours == twin).count();
    assert!(same as f64 >= 0.95 * twin.len() as f64, "{name}: {same} of {} are the same", twin.len());
    let far = ours.iter().zip(twin).map(|(ours, twin)| (ours - twin).abs()).fold(0.0, f32::max);
    assert!(far <= size / 64.0, "{name}: {far} apart of {size}");
}

#[test]
fn norms_are_rounded_alike() {
    let rounded = Rounded::new();
    let (x, delta) = (random(&[33, 100], 1), random(&[33, 100], 2));
    for (kind, bias, weight_offset) in
        [(NormKind::Rms, false, 0.0), (NormKind::Rms, false, 1.0), (NormKind::Layer, true, 0.0)]
    {
        let mut norm = norm(&[100], kind, bias, 3);
        norm.weight = (norm.weight + weight_offset).unwrap();
        norm.weight_offset = weight_offset;
        let (ours, twin) =
            (rounded.ours.norm(&rounded.rows(&x), &norm).unwrap(), rounded.twin.norm(&x, &norm).unwrap());
        rounded.assert_same(&ours, &twin, "norm");
        for multiplier in [1.0, 0.22] {
            let (sum, normed) =
                rounded.ours.add_norm(rounded.rows(&x), &rounded.rows(&delta), multiplier, &norm).unwrap();
            let (twin_sum, twin_normed) = rounded.twin.add_norm(x.clone(), &delta, multiplier, &norm).unwrap();
            rounded.assert_same(&sum, &twin_sum, "sum");
            rounded.assert_same(&normed, &twin_normed, "norm of a sum");
        }
    }
}

/// How often an operation rounds shows in its error: two roundings are worse than one.
#[test]
fn an_rms_norm_is_rounded_twice_and_gemmas_once() {
    let rounded = Rounded::new();
    let x = random(&[200, 100], 1);
    let error = |norm: &Norm| {
        let ours = rounded.ours.norm(&rounded.rows(&x), norm).unwrap();
        let exact = rounded.both.ours.norm(&rounded.rows(&x), norm).unwrap();
        let squares =
            ours.values().iter().zip(exact.values()).map(|(ours, exact)| f64::from(ours / exact - 1.0).powi(2));
        (squares.sum::<f64>() / 20_000.0).sqrt()
    };
    // Weights that are bf16 numbers, so that only results are rounded.
    let mut norm = norm(&[100], NormKind::Rms, false, 3);
    norm.weight = Tensor::full(1.375f32, 100, &Device::Cpu).unwrap();
    let twice = error(&norm);
    norm.weight_offset = 1.0;
    let once = error(&norm);
    assert!((1e-3..2e-3).contains(&once), "{once:.2e}");
    assert!((1.25 * once..1.6 * once).contains(&twice), "{twice:.2e} and {once:.2e}");
}

#[test]
fn products_mlps_and_embeddings_are_rounded_alike() {
    let rounded = Rounded::new();
    let x = random(&[37, 40], 3);
    // More outputs than are copied at a time, and fewer.
    for outputs in [5, 129, 9001] {
        let linear = linear(outputs, 40, true, 1);
        let ours = rounded.ours.linear(&rounded.rows(&x), &linear).unwrap();
        rounded.assert_same(&ours, &rounded.twin.linear(&x, &linear).unwrap(), "product");
    }
    for (gated, activation) in [(true, Activation::Silu), (true, Activation::GeluTanh), (false, Activation::Gelu)] {
        let up = linear(if gated { 100 } else { 50 }, 40, !gated, 1);
        let mlp = FeedForward { up, down: linear(40, 50, !gated, 2), activation, gated };
        let ours = rounded.ours.feed_forward(&rounded.rows(&x), &mlp).unwrap();
        rounded.assert_same(&ours, &rounded.twin.feed_forward(&x, &mlp).unwrap(), "mlp");
    }
    let (table, positions) = (random(&[11, 13], 1), random(&[6, 13], 2));
    let embedding = Embedding {
        table: &table,
        ids: &[10, 0, 3, 3],
        multiplier: 3.51,
        positions: Some((&positions, &[0, 1, 5, 0])),
    };
    let ours = rounded.ours.embed(&embedding).unwrap();
    rounded.assert_same(&ours, &rounded.twin.embed(&embedding).unwrap(), "embedding");
    let gate = random(&[37, 1], 5);
    let ours = rounded.ours.scale_by_sigmoid(rounded.rows(&x), &rounded.rows(&gate)).unwrap();
    rounded.assert_same(&ours, &rounded.twin.scale_by_sigmoid(x.clone(), &gate).unwrap(), "gate");
    let (rows, weights) = ([7, 0, 3], [0.251, -1.5, 3.07]);
    let fed = random(&[3, 40], 6);
    let ours = rounded
        .ours
        .scatter_add(
            rounded.ours.norm(&rounded.rows(&x), &norm(&[40], NormKind::Rms, false, 3)).unwrap(),
            &rounded.rows(&fed),
            &rows,
            &weights,
        )
        .unwrap();
    let into = rounded.twin.norm(&x, &norm(&[40], NormKind::Rms, false, 3)).unwrap();
    rounded.assert_same(&ours, &rounded.twin.scatter_add(into, &fed, &rows, &weights).unwrap(), "experts");
}

#[test]
fn attention_is_rounded_alike() {
    let rounded = Rounded::new();
    let nothing = ProjectionSpec::single(String::new(), 0, 0, false);
    let spec = AttentionSpec {
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        value_dim: 16,
        scale: 0.25,
        projection: AttentionProjection::Direct { qkv: nothing.clone(), qk_norm: None },
        output: nothing,
        rope: Some(0),
        window: None,
        softcap: None,
    };
    let batch = PackedBatch::pack(&[ScoringSequence::all_tokens((0..91).collect())]);
    let rope =
        RopeSpec { dim: 16, theta: 1e4, interleaved: false, scaling: RopeScaling::Default, position_divisor: 1.0 };
    let table = RopeCache::new(&rope, DType::F32, &Device::Cpu).table(batch.segments()).unwrap();
    let qk_norm = QkNorm {
        query: norm(&[16], NormKind::Rms, false, 3),
        key: norm(&[16], NormKind::Rms, false, 4),
        all_heads: false,
    };
    let x = random(&[90, 8 * 16], 7);
    let x = rounded
        .twin
        .linear(&x, &Linear { weight: Tensor::eye(128, DType::F32, &Device::Cpu).unwrap(), bias: None })
        .unwrap();
    let ours = rounded.ours.direct_qkv(rounded.rows(&x), &spec, Some(&qk_norm), Some(&table)).unwrap();
    let twin = rounded.twin.direct_qkv(x, &spec, Some(&qk_norm), Some(&table)).unwrap();
    let ours = rounded.ours.attention(&ours, &spec, batch.segments()).unwrap();
    // The twin rounds the weights after they are divided by their sum, we before: not all fall to the same side.
    let twin = rounded
        .twin
        .attention(&twin, &spec, batch.segments())
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1::<f32>()
        .unwrap();
    assert!(ours.values().iter().all(|x| x.to_bits() & 0xffff == 0));
    let size = twin.iter().fold(0f32, |size, x| size.max(x.abs()));
    let far = ours.values().iter().zip(&twin).map(|(ours, twin)| (ours - twin).abs()).fold(0.0, f32::max);
    assert!(far <= size / 64.0, "{far} apart of {size}");
}
