//! Operations on rows.

use super::*;
use crate::spec::Activation;

#[test]
fn norms_agree() {
    let both = Both::new();
    for (rows, width) in [(1, 1), (1, 7), (7, 64), (33, 100)] {
        for (kind, bias) in [(NormKind::Rms, false), (NormKind::Layer, true), (NormKind::Layer, false)] {
            let (x, delta, norm) =
                (random(&[rows, width], 1), random(&[rows, width], 2), norm(&[width], kind, bias, 3));
            let (doubled, norm64) = (double(&x), double_norm(&norm));
            let ours = both.ours.norm(&both.rows(&x), &norm).unwrap();
            // One value has no spread: its norm is rounding divided by eps.
            let allowed = if width == 1 && kind == NormKind::Layer { 1e-3 } else { 1e-6 };
            assert!(error(&ours, &both.twin.norm(&doubled, &norm64).unwrap()) < allowed, "{rows} {width} {kind:?}");
            for multiplier in [1.0, 0.22] {
                let (sum, normed) = both.ours.add_norm(both.rows(&x), &both.rows(&delta), multiplier, &norm).unwrap();
                let (sum64, normed64) =
                    both.twin.add_norm(doubled.clone(), &double(&delta), multiplier, &norm64).unwrap();
                assert!(error(&sum, &sum64) < 1e-6);
                assert!(error(&normed, &normed64) < allowed.max(2e-6), "{rows} {width} {kind:?}");
                let added = both.ours.add(both.rows(&x), &both.rows(&delta), multiplier).unwrap();
                assert_eq!(added.values(), sum.values());
            }
        }
    }
}

#[test]
fn mlps_agree() {
    let both = Both::new();
    for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
        for (gated, rows, width, inner) in
            [(true, 1, 8, 3), (true, 37, 40, 50), (false, 7, 33, 129), (false, 20, 64, 64)]
        {
            let outputs = if gated { 2 * inner } else { inner };
            let mlp = FeedForward {
                up: linear(outputs, width, !gated, 1),
                down: linear(width, inner, !gated, 2),
                activation,
                gated,
            };
            let mlp64 = FeedForward { up: double_linear(&mlp.up), down: double_linear(&mlp.down), activation, gated };
            let x = random(&[rows, width], 3);
            let ours = both.ours.feed_forward(&both.rows(&x), &mlp).unwrap();
            let twin = both.twin.feed_forward(&double(&x), &mlp64).unwrap();
            assert!(error(&ours, &twin) < 2e-6, "{activation:?} {rows} {width} {inner}: {}", error(&ours, &twin));
        }
    }
}

#[test]
fn rows_are_gathered_scattered_and_scaled_alike() {
    let both = Both::new();
    let (x, gate) = (random(&[9, 20], 1), random(&[9, 1], 2));
    let rows = [7u32, 0, 3];
    let weights = [0.25, -1.5, 3.0];
    let ours = both.ours.gather(&both.rows(&x), &rows).unwrap();
    let twin = both.twin.gather(&double(&x), &rows).unwrap();
    assert_eq!(error(&ours, &twin), 0.0);
    let ours = both.ours.scatter_add(both.rows(&x), &ours, &rows, &weights).unwrap();
    let twin = both.twin.scatter_add(double(&x), &twin, &rows, &weights).unwrap();
    assert!(error(&ours, &twin) < 1e-6);
    let ours = both.ours.scale_by_sigmoid(both.rows(&x), &both.rows(&gate)).unwrap();
    let twin = both.twin.scale_by_sigmoid(double(&x), &double(&gate)).unwrap();
    assert!(error(&ours, &twin) < 1e-6);
    let ours = both.ours.leading_columns(&both.rows(&x), 13).unwrap();
    assert_eq!(error(&ours, &both.twin.leading_columns(&double(&x), 13).unwrap()), 0.0);
    assert_eq!(both.ours.zeros_like(&ours).unwrap().values(), [0.0; 9 * 13]);
    assert_eq!(both.ours.to_host(&both.rows(&x)).unwrap(), both.twin.to_host(&x).unwrap());
}

#[test]
fn embeddings_agree() {
    let both = Both::new();
    let (table, positions) = (random(&[11, 13], 1), random(&[6, 13], 2));
    let (table64, positions64) = (double(&table), double(&positions));
    for with_positions in [true, false] {
        let embedding = |table, positions| Embedding {
            table,
            ids: &[10, 0, 3, 3],
            multiplier: 3.5,
            positions: with_positions.then_some((positions, &[0, 1, 5, 0][..])),
        };
        let ours = both.ours.embed(&embedding(&table, &positions)).unwrap();
        let twin = both.twin.embed(&embedding(&table64, &positions64)).unwrap();
        assert!(error(&ours, &twin) < 1e-6);
    }
}
