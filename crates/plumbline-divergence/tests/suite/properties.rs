//! Laws that hold for any comparison.

use plumbline_core::{LogprobsMode, Rollout, Sampling, TokenScores};
use plumbline_divergence::{Metrics, SequenceComparison, SufficientStatistics, compare};
use proptest::prelude::*;
use serde_json::Value;

const TOLERANCE: f64 = 1e-9;

/// Engine value, reference value, mask, rank: mostly close, sometimes far apart or no logprob at all.
type Token = (Option<f64>, f64, bool, u32);

fn token() -> impl Strategy<Value = Token> {
    let reference = prop_oneof![4 => -8.0..0.0f64, 1 => -200.0..0.0f64, 1 => Just(0.0)];
    let apart = prop_oneof![4 => -0.05..0.05f64, 2 => -2.0..2.0f64, 1 => -60.0..60.0f64, 1 => Just(0.0)];
    let broken = prop_oneof![12 => Just(None), 1 => Just(Some(None)), 1 => Just(Some(Some(-9999.0)))];
    (reference, apart, broken, prop::bool::weighted(0.9), 0u32..4).prop_map(|(reference, apart, broken, mask, rank)| {
        (broken.unwrap_or(Some((reference - apart).min(0.0))), reference, mask, rank)
    })
}

pub(crate) fn sequence() -> impl Strategy<Value = SequenceComparison> {
    (prop::collection::vec(token(), 0..25), any::<bool>()).prop_map(|(tokens, ended)| comparison(&tokens, ended))
}

fn comparison(tokens: &[Token], ended: bool) -> SequenceComparison {
    let count = tokens.len();
    let mut completion_token_ids = vec![5; count];
    if let Some(last) = completion_token_ids.last_mut() {
        *last = if ended { 2 } else { 5 };
    }
    let rollout = Rollout {
        id: "s".into(),
        prompt_token_ids: vec![1],
        completion_token_ids,
        logprobs: tokens.iter().map(|token| token.0).collect(),
        loss_mask: Some(tokens.iter().map(|token| token.2).collect()),
        sampling: Sampling::default(),
        logprobs_mode: LogprobsMode::Raw,
        finish_reason: None,
        policy_version: None,
        weight_versions: Vec::new(),
    };
    let scores = TokenScores {
        logprobs: vec![-1.0; count],
        logprobs_in_mode: tokens.iter().map(|token| token.1).collect(),
        entropy: tokens.iter().map(|token| f64::from(token.3) + 0.5).collect(),
        rank: tokens.iter().map(|token| token.3).collect(),
        eos_probability: vec![0.25; count],
    };
    compare(&rollout, &scores, &[2]).unwrap()
}

fn statistics(sequences: &[SequenceComparison]) -> SufficientStatistics {
    let mut statistics = SufficientStatistics::default();
    sequences.iter().for_each(|sequence| statistics.observe_sequence(sequence));
    statistics
}

/// Differences of sums (signed means, correlations) are as exact as what they are differences of.
fn magnitude(key: &str, metrics: &Metrics) -> f64 {
    let size = match key {
        "log_ratio_mean" | "kl_k1" | "log_ppl_diff" => metrics.mae_logprob,
        "prob_diff_mean" => metrics.mae_prob,
        "chi2_token" | "chi2_sequence" | "pearson_logprob" | "pearson_prob" | "spearman_logprob" => Some(1.0),
        _ => None,
    };
    size.unwrap_or(0.0)
}

/// Every key of two metric sets is equal to 1e-9 relative, and undefined in both or in none.
fn assert_same(one: &Metrics, other: &Metrics) -> Result<(), TestCaseError> {
    let (a, b) = (serde_json::to_value(one).unwrap(), serde_json::to_value(other).unwrap());
    for (key, value) in a.as_object().unwrap() {
        match (value, &b[key]) {
            (Value::Null, Value::Null) => {}
            (value, other) => {
                let (Some(x), Some(y)) = (value.as_f64(), other.as_f64()) else {
                    return Err(TestCaseError::fail(format!("{key}: {value} and {other}")));
                };
                let scale = x.abs().max(magnitude(key, one));
                prop_assert!((x - y).abs() <= TOLERANCE * scale, "{}: {:e} and {:e}", key, x, y);
            }
        }
    }
    Ok(())
}

proptest! {
    /// Any split, merged in any grouping, says what the whole says.
    #[test]
    fn merging_equals_computing_on_the_whole(
        parts in prop::collection::vec(prop::collection::vec(sequence(), 0..4), 0..6),
    ) {
        let whole = statistics(&parts.concat());
        let merged = |parts: &mut dyn Iterator<Item = &Vec<SequenceComparison>>| {
            let mut merged = SufficientStatistics::default();
            parts.for_each(|part| merged.merge(&statistics(part)));
            merged
        };
        let forward = merged(&mut parts.iter());
        let backward = merged(&mut parts.iter().rev());
        let mut halves = merged(&mut parts.iter().take(parts.len() / 2));
        halves.merge(&merged(&mut parts.iter().skip(parts.len() / 2)));
        for other in [forward, backward, halves] {
            for ((name, one), (_, other)) in whole.counters().into_iter().zip(other.counters()) {
                prop_assert!((one - other).abs() <= TOLERANCE * one, "{}: {:e} and {:e}", name, one, other);
            }
            prop_assert_eq!(&whole.delta_histogram, &other.delta_histogram);
            assert_same(&Metrics::of_statistics(&whole), &Metrics::of_statistics(&other))?;
        }
    }

    /// The order of sequences does not matter, and the sums give what the full computation gives.
    #[test]
    fn metrics_do_not_depend_on_the_order_of_sequences(sequences in prop::collection::vec(sequence(), 0..8)) {
        let metrics = Metrics::of(&sequences);
        let mut reversed = sequences.clone();
        reversed.reverse();
        assert_same(&metrics, &Metrics::of(&reversed))?;
    }

    /// Sums only ever rise, so they can be exported as counters, and no number is NaN or infinite.
    #[test]
    fn counters_are_monotone_and_finite(sequences in prop::collection::vec(sequence(), 0..8)) {
        let mut total = SufficientStatistics::default();
        for sequence in &sequences {
            let before = total.counters();
            total.observe_sequence(sequence);
            for ((name, before), (_, after)) in before.into_iter().zip(total.counters()) {
                prop_assert!(after >= before && after.is_finite(), "{} fell from {} to {}", name, before, after);
            }
        }
        let json = serde_json::to_string(&total).unwrap();
        prop_assert_eq!(serde_json::from_str::<SufficientStatistics>(&json).unwrap(), total.clone());
        prop_assert_eq!(total.delta_histogram.counts().iter().sum::<u64>(), total.tokens);
        prop_assert_eq!(total.tokens > 0, total.mae().is_some());
    }

    /// What Pearson and RMSE would be by rules over the counters alone.
    #[test]
    fn gauges_agree_with_rules_over_the_counters(sequences in prop::collection::vec(sequence(), 1..8)) {
        let s = statistics(&sequences);
        let n = s.tokens as f64;
        let variance = |squares: f64, sum: f64| squares / n - (sum / n).powi(2);
        let engine = variance(s.engine_nll_squared, s.engine_nll);
        let reference = variance(s.reference_nll_squared, s.reference_nll);
        let delta = variance(s.delta_squared, s.delta_positive - s.delta_negative);
        if let Some(pearson) = s.pearson_logprob().filter(|_| engine > 1e-3 && reference > 1e-3) {
            let rule = (engine + reference - delta) / (2.0 * (engine * reference).sqrt());
            prop_assert!((pearson - rule).abs() < 1e-7, "{} and {}", pearson, rule);
            let covariance = s.nll_product / n - s.engine_nll * s.reference_nll / (n * n);
            prop_assert!((pearson - covariance / (engine * reference).sqrt()).abs() < 1e-7);
        }
        let engine = variance(s.engine_prob_squared, s.engine_prob);
        let reference = variance(s.reference_prob_squared, s.reference_prob);
        if let Some(pearson) = s.pearson_prob().filter(|_| engine > 1e-3 && reference > 1e-3) {
            let covariance = s.prob_product / n - s.engine_prob * s.reference_prob / (n * n);
            prop_assert!((pearson - covariance / (engine * reference).sqrt()).abs() < 1e-7);
        }
        if let Some(rmse) = s.rmse() {
            prop_assert_eq!(rmse, (s.delta_squared / n).sqrt());
        }
    }
}

/// A reference logprob may be above 0 by the rounding of f32 kernels. Its difference counts, no counter falls.
#[test]
fn counters_do_not_fall_for_a_reference_above_zero_by_rounding() {
    let mut total = statistics(&[comparison(&[(Some(-1.0), -1.0, true, 0)], false)]);
    let before = total.counters();
    total.observe_sequence(&comparison(&[(Some(-0.5), 1e-6, true, 0)], false));
    for ((name, before), (_, after)) in before.into_iter().zip(total.counters()) {
        assert!(after >= before, "{name} fell from {before} to {after}");
    }
    assert_eq!(total.max_abs(), Some(0.5 + 1e-6));
}
