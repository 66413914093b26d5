//! Confidence intervals against numpy and scipy, under merging, and by how often they cover the truth.

use std::collections::BTreeMap;
use std::path::Path;

use plumbline_divergence::{ClusteredSums, Interval, Metrics, RatioSums, SequenceComparison};
use proptest::prelude::*;
use serde::Deserialize;

use crate::fixtures::{RECORDINGS, cases};
use crate::properties::sequence;
use crate::random::Random;

type Intervals = BTreeMap<String, Option<(f64, f64)>>;

#[derive(Deserialize)]
struct Expected {
    intervals: BTreeMap<String, Intervals>,
}

fn clustered(sequences: &[SequenceComparison]) -> ClusteredSums {
    let mut sums = ClusteredSums::default();
    sequences.iter().for_each(|sequence| sums.observe_sequence(sequence));
    sums
}

#[test]
fn intervals_agree_with_numpy_and_scipy() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/metrics/intervals.json");
    let expected: Expected = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let (mut found, mut compared) = (Vec::new(), 0);
    for file in RECORDINGS.into_iter().chain(["synthetic"]) {
        for case in cases(file) {
            let name = format!("{file}/{}", case.name);
            let mut actual = clustered(&case.comparisons()).intervals();
            assert_eq!(actual.remove("noise_floor_multiple_ci95"), Some(None), "no floor is known");
            let expected = &expected.intervals[&name];
            assert_eq!(actual.len(), expected.len());
            for (key, actual) in actual {
                let same = match (actual, expected[key]) {
                    (None, None) => true,
                    (Some(Interval { low, high }), Some((expected_low, expected_high))) => {
                        compared += 1;
                        // An end near 0 is the difference of a mean and a width.
                        let scale = expected_low.abs().max(expected_high.abs());
                        (low - expected_low).abs().max((high - expected_high).abs()) <= 1e-9 * scale
                    }
                    _ => false,
                };
                if !same {
                    found.push(format!("{name} {key}: {actual:?}, expected {:?}", expected[key]));
                }
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    assert!(compared > 150, "{compared} intervals");
}

/// Both ends are equal to 1e-9 of the larger size among the interval and the metric's largest single value.
fn assert_same(one: &ClusteredSums, other: &ClusteredSums) -> Result<(), TestCaseError> {
    for ((key, a), (_, b)) in one.intervals().into_iter().zip(other.intervals()) {
        match (a, b) {
            (None, None) => {}
            (Some(a), Some(b)) => {
                let scale = a.low.abs().max(a.high.abs()).max(1e-6);
                let apart = (a.low - b.low).abs().max((a.high - b.high).abs());
                prop_assert!(apart <= 1e-9 * scale, "{}: {:?} and {:?}", key, a, b);
            }
            _ => return Err(TestCaseError::fail(format!("{key}: {a:?} and {b:?}"))),
        }
    }
    Ok(())
}

proptest! {
    /// Any split, merged in any order, has the intervals of the whole, and they lie around the metrics.
    #[test]
    fn merging_equals_computing_on_the_whole(
        parts in prop::collection::vec(prop::collection::vec(sequence(), 0..4), 0..6),
    ) {
        let all = parts.concat();
        let whole = clustered(&all);
        let merged = |parts: &mut dyn Iterator<Item = &Vec<SequenceComparison>>| {
            let mut merged = ClusteredSums::default();
            parts.for_each(|part| merged.merge(&clustered(part)));
            merged
        };
        assert_same(&whole, &merged(&mut parts.iter()))?;
        assert_same(&whole, &merged(&mut parts.iter().rev()))?;
        let json = serde_json::to_string(&whole).unwrap();
        prop_assert_eq!(&serde_json::from_str::<ClusteredSums>(&json).unwrap(), &whole);

        let metrics = serde_json::to_value(Metrics::of(&all)).unwrap();
        for (key, interval) in whole.intervals() {
            let metric = metrics[key.strip_suffix("_ci95").unwrap()].as_f64();
            let Some(interval) = interval else { continue };
            let (metric, middle) = (metric.unwrap(), f64::midpoint(interval.low, interval.high));
            let scale = interval.low.abs().max(interval.high.abs()).max(1e-6);
            prop_assert!((metric - middle).abs() <= 1e-9 * scale, "{}: {} and {}", key, metric, middle);
            prop_assert!(interval.low <= interval.high);
        }
    }
}

/// How many of 2000 intervals cover the true mean, by sequence and as if tokens were independent.
fn covered(seed: u64, sequences: usize, lengths: (u64, u64), between: f64) -> (usize, usize) {
    let mut random = Random::new(seed);
    let (mut by_sequence, mut by_token) = (0, 0);
    for _ in 0..2000 {
        let (mut sums, mut count, mut total, mut squares) = (RatioSums::default(), 0.0, 0.0, 0.0);
        for _ in 0..sequences {
            let length = random.length(lengths.0, lengths.1);
            let level = 3.0 + between * random.normal();
            let mut sum = 0.0;
            for _ in 0..length {
                // Skewed, mean 1: |d| has no negative values.
                let value = level * random.gamma(1.0);
                sum += value;
                squares += value * value;
            }
            sums.add(sum, length as f64);
            count += length as f64;
            total += sum;
        }
        let interval = sums.interval().unwrap();
        by_sequence += usize::from(interval.low <= 3.0 && 3.0 <= interval.high);
        let mean = total / count;
        let half = 1.96 * ((squares / count - mean * mean) / count).sqrt();
        by_token += usize::from((mean - 3.0).abs() <= half);
    }
    (by_sequence, by_token)
}

#[test]
fn intervals_cover_the_truth_where_those_of_independent_tokens_do_not() {
    for (seed, sequences, lengths, between) in [(1, 30, (40, 40), 1.0), (2, 60, (8, 80), 0.7)] {
        let (by_sequence, by_token) = covered(seed, sequences, lengths, between);
        assert!((1860..=1940).contains(&by_sequence), "{by_sequence} of 2000");
        assert!(by_token < 1500, "{by_token} of 2000");
    }
    let (by_sequence, by_token) = covered(3, 40, (20, 40), 0.0);
    assert!((1860..=1940).contains(&by_sequence), "{by_sequence} of 2000");
    assert!((1860..=1940).contains(&by_token), "independent tokens: both cover, {by_token} of 2000");
}
