//! Floors of simulated engines whose noise is known.

use proptest::prelude::*;

use super::*;

/// Pseudo-random numbers in (0, 1) with a fixed seed.
struct Uniform(u64);

impl Uniform {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 11) as f64 + 0.5) / 9_007_199_254_740_992.0
    }

    /// `|d|` of an exponential distribution with this mean: as scattered as it is large.
    fn delta(&mut self, mean: f64) -> f64 {
        -mean * self.next().ln()
    }
}

/// Mean `|d|` of the simulated engine at an entropy.
fn truth(entropy: f64) -> f64 {
    0.02 * entropy / (1.0 + entropy)
}

/// `sequences` of `tokens` each with entropies of 0 to 6; `spread` is how much the noise of sequences differs.
fn measured(sequences: usize, tokens: usize, spread: f64, seed: u64) -> NoiseFloor {
    let mut uniform = Uniform(seed);
    let mut floor = NoiseFloor::default();
    for _ in 0..sequences {
        let own = 1.0 + spread * (2.0 * uniform.next() - 1.0);
        let samples: Vec<_> = (0..tokens)
            .map(|_| {
                let entropy = 6.0 * uniform.next().powi(3);
                FloorSample { entropy, abs_delta: uniform.delta(own * truth(entropy)) }
            })
            .collect();
        assert_eq!(floor.observe_sequence(FloorHead::USED, &samples), 0);
    }
    floor
}

#[test]
fn expectations_follow_the_entropies() {
    let curve = measured(100, 100, 0.0, 1).curve(FloorHead::USED).unwrap();
    for entropy in [0.02, 0.25, 0.85, 1.7, 3.5, 5.5] {
        let expected = curve.token(entropy).mean_abs;
        assert!((expected / truth(entropy) - 1.0).abs() < 0.35, "{entropy}: {expected}, in truth {}", truth(entropy));
    }
    // Over many entropies the steps of the buckets average out.
    let entropies: Vec<f64> = (0..600).map(|index| 6.0 * (f64::from(index) / 600.0).powi(3)).collect();
    let mean = entropies.iter().map(|entropy| truth(*entropy)).sum::<f64>() / 600.0;
    let expected = curve.expected_mae(entropies).unwrap();
    assert!((expected.mae / mean - 1.0).abs() < 0.05, "{} and {mean}", expected.mae);
    assert!(expected.standard_error > 0.02 * mean && expected.standard_error < 0.12 * mean, "{expected:?}");
    assert_eq!(curve.expected_mae([]), None);
}

#[test]
fn the_standard_error_is_how_far_faithful_engines_scatter() {
    for spread in [0.0, 0.5] {
        let curve = measured(200, 100, spread, 2).curve(FloorHead::USED).unwrap();
        let mut uniform = Uniform(3);
        let mut squares = 0.0;
        for _ in 0..400 {
            let own = 1.0 + spread * (2.0 * uniform.next() - 1.0);
            let entropies: Vec<f64> = (0..50).map(|_| 6.0 * uniform.next().powi(3)).collect();
            let mae = entropies.iter().map(|entropy| uniform.delta(own * truth(*entropy))).sum::<f64>() / 50.0;
            let expected = curve.expected_mae(entropies).unwrap();
            squares += ((mae - expected.mae) / expected.standard_error).powi(2);
        }
        let scatter = (squares / 400.0f64).sqrt();
        assert!((0.85..1.15).contains(&scatter), "spread {spread}: {scatter} standard errors");
    }
}

#[test]
fn measurements_merge_and_survive_storage() {
    let (mut one, other) = (measured(20, 30, 0.2, 4), measured(30, 20, 0.2, 5));
    one.merge(&other);
    assert_eq!((one.tokens(FloorHead::Bf16), one.sequences(FloorHead::Bf16)), (1200, 50));
    assert_eq!(
        (one.tokens(FloorHead::F32), one.mae(FloorHead::F32), one.quantile(FloorHead::F32, 0.5)),
        (0, None, None)
    );
    let stored: NoiseFloor = serde_json::from_str(&serde_json::to_string(&one).unwrap()).unwrap();
    assert_eq!(stored.tokens(FloorHead::Bf16), 1200);
    let close = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-12, "{a} and {b}");
    close(stored.mae(FloorHead::Bf16).unwrap(), one.mae(FloorHead::Bf16).unwrap());
    close(
        stored.curve(FloorHead::Bf16).unwrap().token(1.2).mean_abs,
        one.curve(FloorHead::Bf16).unwrap().token(1.2).mean_abs,
    );
}

#[test]
fn few_samples_and_no_noise_are_no_floor() {
    assert_eq!(measured(1, 255, 0.0, 6).curve(FloorHead::USED), None);
    assert!(measured(1, 256, 0.0, 6).curve(FloorHead::USED).is_some());
    let mut silent = NoiseFloor::default();
    silent.observe_sequence(FloorHead::USED, &vec![FloorSample { entropy: 1.0, abs_delta: 0.0 }; 1000]);
    assert_eq!(silent.curve(FloorHead::USED), None);
    assert_eq!((silent.mae(FloorHead::USED), silent.rmse(FloorHead::USED)), (Some(0.0), Some(0.0)));
}

#[test]
fn broken_samples_are_left_out_and_counted() {
    let sample = |entropy, abs_delta| FloorSample { entropy, abs_delta };
    let samples =
        [sample(1.0, 0.1), sample(f64::NAN, 0.1), sample(1.0, f64::INFINITY), sample(1.0, -0.5), sample(-1e-9, 0.1)];
    let mut floor = NoiseFloor::default();
    assert_eq!(floor.observe_sequence(FloorHead::F32, &samples), 3);
    assert_eq!((floor.tokens(FloorHead::F32), floor.sequences(FloorHead::F32)), (2, 1));
    assert_eq!(floor.observe_sequence(FloorHead::F32, &samples[1..4]), 3);
    assert_eq!(floor.sequences(FloorHead::F32), 1, "nothing of that sequence was usable");
}

#[test]
fn unmeasured_entropies_count_as_the_next_higher_ones() {
    let mut floor = NoiseFloor::default();
    let of = |entropy, abs_delta| vec![FloorSample { entropy, abs_delta }; 200];
    floor.observe_sequence(FloorHead::USED, &of(0.5, 0.01));
    floor.observe_sequence(FloorHead::USED, &of(2.2, 0.03));
    // Too few for a mean of their own.
    floor.observe_sequence(FloorHead::USED, &[FloorSample { entropy: 7.0, abs_delta: 0.5 }; 10]);
    let curve = floor.curve(FloorHead::USED).unwrap();
    let pooled = (200.0 * 0.03 + 10.0 * 0.5) / 210.0;
    for (entropy, expected) in [(0.0, 0.01), (0.6, 0.01), (1.0, pooled), (2.2, pooled), (9.0, pooled)] {
        assert!((curve.token(entropy).mean_abs - expected).abs() < 1e-12, "{entropy}: {:?}", curve.token(entropy));
    }
}

#[test]
fn a_temperature_scales_errors() {
    let curve = measured(20, 50, 0.0, 7).curve(FloorHead::USED).unwrap();
    let (cold, raw) = (curve.at_temperature(0.5).token(1.2), curve.token(1.2));
    assert!(
        (cold.mean_abs / raw.mean_abs - 2.0).abs() < 1e-12 && (cold.mean_square / raw.mean_square - 4.0).abs() < 1e-12
    );
    assert_eq!(curve.at_temperature(0.0), curve, "greedy logprobs are raw");
}

#[test]
fn quantiles_are_those_of_the_samples_within_a_step() {
    let floor = measured(100, 100, 0.0, 8);
    let (p50, p99) = (floor.quantile(FloorHead::USED, 0.5).unwrap(), floor.quantile(FloorHead::USED, 0.99).unwrap());
    let bucket = floor.buckets(FloorHead::USED).into_iter().find(|bucket| bucket.entropy_from == 1.0).unwrap();
    // Exponential with mean truth(1.2) or so: the median is ln 2 of the mean, the 99 % quantile 4.6 of it.
    let mean = bucket.mean_abs_delta.unwrap();
    assert!((bucket.p50.unwrap() / mean / std::f64::consts::LN_2 - 1.0).abs() < 0.2, "{bucket:?}");
    assert!((bucket.p99.unwrap() / mean / 4.6 - 1.0).abs() < 0.25, "{bucket:?}");
    assert!(p50 < bucket.p50.unwrap() && p99 > p50);
    let buckets = floor.buckets(FloorHead::USED);
    assert_eq!(buckets.len(), 20);
    assert!(buckets.windows(2).all(|pair| pair[0].entropy_to == Some(pair[1].entropy_from)));
    assert_eq!(buckets.iter().map(|bucket| bucket.tokens).sum::<u64>(), 10_000);
}

proptest! {
    /// Whatever was measured: expectations never fall with entropy, and over the measured tokens they add up to what was
    /// measured.
    #[test]
    fn pooling_is_monotone_and_keeps_the_sum(
        sequences in prop::collection::vec(prop::collection::vec((0.0f64..8.0, 0.0f64..0.5), 20..80), 8..20),
    ) {
        let mut floor = NoiseFloor::default();
        let (mut entropies, mut total) = (Vec::new(), 0.0);
        for sequence in &sequences {
            let samples: Vec<_> =
                sequence.iter().map(|(entropy, abs_delta)| FloorSample { entropy: *entropy, abs_delta: *abs_delta }).collect();
            floor.observe_sequence(FloorHead::USED, &samples);
            entropies.extend(sequence.iter().map(|(entropy, _)| *entropy));
            total += sequence.iter().map(|(_, abs_delta)| abs_delta).sum::<f64>();
        }
        let Some(curve) = floor.curve(FloorHead::USED) else { return Ok(()) };
        let means: Vec<f64> = (0..900).map(|index| curve.token(f64::from(index) / 100.0).mean_abs).collect();
        prop_assert!(means.windows(2).all(|pair| pair[0] <= pair[1]));
        let expected = curve.expected_mae(entropies.iter().copied()).unwrap();
        prop_assert!((expected.mae * entropies.len() as f64 / total - 1.0).abs() < 1e-9);
        prop_assert!(expected.standard_error.is_finite() && expected.standard_error > 0.0);
        for entropy in &entropies {
            let token = curve.token(*entropy);
            prop_assert!(token.mean_square >= token.mean_abs.powi(2) * (1.0 - 1e-9));
        }
    }
}
