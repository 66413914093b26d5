//! The streamed head.

use super::*;

fn head(vocabulary: usize, hidden: usize, softcap: Option<f64>, sharpness: f64) -> Head {
    let mut linear = linear(vocabulary, hidden, softcap.is_some(), 1);
    linear.weight = (linear.weight * sharpness).unwrap();
    let eos = vec![0, vocabulary as u32 - 1];
    Head {
        norm: norm(&[hidden], NormKind::Rms, false, 3),
        linear,
        multiplier: if softcap.is_some() { 0.7 } else { 1.0 },
        softcap,
        eos,
    }
}

fn double_head(head: &Head) -> Head {
    Head {
        norm: double_norm(&head.norm),
        linear: double_linear(&head.linear),
        multiplier: head.multiplier,
        softcap: head.softcap,
        eos: head.eos.clone(),
    }
}

#[test]
fn heads_agree() {
    for (vocabulary, rows, hidden) in
        [(3, 1, 5), (50, 7, 16), (64, 70, 600), (2048, 9, 40), (5001, 150, 24), (4099, 1, 700)]
    {
        for (softcap, sharpness) in [(None, 1.0), (Some(4.0), 2.0), (None, 8.0)] {
            let head = head(vocabulary, hidden, softcap, sharpness);
            let hidden = random(&[rows, hidden], 4);
            // Twice the same row, the same target twice, and rows out of order.
            let targets: Vec<Target> = (0..rows)
                .rev()
                .chain([0, 0, rows / 2])
                .enumerate()
                .map(|(index, row)| Target {
                    row,
                    token: (index * 7919 % vocabulary) as u32,
                    temperature: [1.0, 0.6, 1.7][index % 3],
                })
                .collect();
            // The least memory makes the smallest chunks.
            for head_bytes in [1, 1 << 20] {
                let chunks = ChunkBytes { head: head_bytes, ..CHUNKS };
                let both = Both { ours: CpuOps::new(chunks, None), twin: GenericOps::new(chunks) };
                let ours = both.ours.head_scores(&both.rows(&hidden), &head, &targets).unwrap();
                let twin = both.twin.head_scores(&double(&hidden), &double_head(&head), &targets).unwrap();
                assert_eq!(ours.len(), targets.len());
                for (ours, twin) in ours.iter().zip(&twin) {
                    let close = |a: f64, b: f64| (a - b).abs() <= 4e-6 * (1.0 + b.abs());
                    assert!(close(ours.logprob, twin.logprob), "{ours:?} {twin:?}");
                    assert!(close(ours.logprob_at_temperature, twin.logprob_at_temperature), "{ours:?} {twin:?}");
                    assert!(close(ours.entropy, twin.entropy), "{ours:?} {twin:?}");
                    assert!(close(ours.eos_probability, twin.eos_probability), "{ours:?} {twin:?}");
                    // Logits that are closer than f32 can tell may change places.
                    assert!(ours.rank.abs_diff(twin.rank) <= 2, "{vocabulary} {ours:?} {twin:?}");
                }
            }
        }
    }
}

/// Several blocks of the vocabulary and several blocks of the depth: a target's numbers do not depend on its company.
#[test]
fn a_target_of_the_head_has_the_same_bits_in_any_company() {
    let (vocabulary, rows, width) = (5001, 60, 1100);
    let head = head(vocabulary, width, Some(30.0), 4.0);
    let hidden = random(&[rows, width], 4);
    let targets: Vec<Target> =
        (0..rows).map(|row| Target { row, token: (row * 83) as u32, temperature: [1.0, 0.6][row % 2] }).collect();
    let bits = |score: &TargetScore| {
        [score.logprob, score.logprob_at_temperature, score.entropy, score.eos_probability].map(f64::to_bits)
    };
    let together = {
        let both = Both::new();
        both.ours.head_scores(&both.rows(&hidden), &head, &targets).unwrap()
    };
    for (head_bytes, threads, group) in [(1, 1, 60), (1 << 20, 2, 1), (300_000, 3, 7)] {
        let ops = CpuOps::new(ChunkBytes { head: head_bytes, ..CHUNKS }, None);
        let both = Both { ours: ops, ..Both::new() };
        let threads = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let found: Vec<TargetScore> = threads.install(|| {
            let hidden = both.rows(&hidden);
            targets.chunks(group).flat_map(|targets| both.ours.head_scores(&hidden, &head, targets).unwrap()).collect()
        });
        for (found, together) in found.iter().zip(&together) {
            assert_eq!(bits(found), bits(together), "{head_bytes} bytes, {group} at a time");
            assert_eq!(found.rank, together.rank);
        }
    }
}

#[test]
fn ties_do_not_outrank_and_known_rows_have_known_numbers() {
    for vocabulary in [40, 5000] {
        let weight = Tensor::zeros((vocabulary, 8), DType::F32, &Device::Cpu).unwrap();
        let norm = norm(&[8], NormKind::Rms, false, 3);
        let eos = vec![1, vocabulary as u32 - 1];
        let head = Head { norm, linear: Linear { weight, bias: None }, multiplier: 1.0, softcap: None, eos };
        let both = Both::new();
        let targets: Vec<Target> =
            (0..vocabulary as u32).step_by(13).map(|token| Target { row: 0, token, temperature: 0.5 }).collect();
        let scores = both.ours.head_scores(&both.rows(&random(&[1, 8], 1)), &head, &targets).unwrap();
        let nats = (vocabulary as f64).ln();
        for score in scores {
            assert_eq!(score.rank, 0);
            for found in [-score.logprob, -score.logprob_at_temperature, score.entropy] {
                assert!((found - nats).abs() < 1e-12, "{found} {nats}");
            }
            assert!((score.eos_probability * vocabulary as f64 - 2.0).abs() < 1e-12);
        }
    }
}

/// The logit that a rank is counted against is the very number that the block of the vocabulary has, so every token's rank
/// is its place among all.
#[test]
fn ranks_are_places() {
    let both = Both::new();
    let vocabulary = 4500;
    let head = head(vocabulary, 900, None, 1.0);
    let targets: Vec<Target> = (0..vocabulary as u32).map(|token| Target { row: 0, token, temperature: 1.0 }).collect();
    let scores = both.ours.head_scores(&both.rows(&random(&[1, 900], 9)), &head, &targets).unwrap();
    let mut order: Vec<usize> = (0..vocabulary).collect();
    order.sort_by(|a, b| scores[*b].logprob.total_cmp(&scores[*a].logprob));
    for (place, token) in order.iter().enumerate() {
        let first_equal =
            order[..place].iter().filter(|other| scores[**other].logprob > scores[*token].logprob).count();
        assert_eq!(scores[*token].rank as usize, first_equal);
    }
    let total: f64 = scores.iter().map(|score| score.logprob.exp()).sum();
    assert!((total - 1.0).abs() < 1e-6, "{total}");
}

#[test]
fn numbers_that_are_none_are_seen() {
    let both = Both::new();
    for (vocabulary, spoiled) in [(40, f32::NAN), (40, f32::INFINITY), (5000, f32::NAN), (5000, f32::INFINITY)] {
        let head = head(vocabulary, 8, None, 1.0);
        let mut hidden = both.rows(&random(&[1, 8], 1));
        hidden.values_mut()[3] = spoiled;
        let target = Target { row: 0, token: 2, temperature: 1.0 };
        let score = both.ours.head_scores(&hidden, &head, &[target]).unwrap()[0];
        assert!(!score.logprob.is_finite() && !score.entropy.is_finite(), "{score:?}");
    }
}
