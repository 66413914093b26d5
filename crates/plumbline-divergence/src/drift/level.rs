//! Learning a level from a bounded number of sequences, a few of which may be wild.

use serde::{Deserialize, Serialize};

/// Tokens at which a sequence counts half as much as an endless one.
const HALF_WEIGHT_TOKENS: f64 = 8.0;
/// Where logarithms are averaged, a sequence counts as at least this fraction of the level: some differ in nothing.
const LEAST_FRACTION: f64 = 1e-3;

/// Weight in (0, 1) of a sequence: the mean of few tokens says little.
pub(super) fn weight(tokens: u64) -> f64 {
    let tokens = tokens as f64;
    tokens / (tokens + HALF_WEIGHT_TOKENS)
}

/// A level that sequences are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Level {
    /// The level itself: the mean of the limited multiples of it is 1. Never below the least one.
    pub(super) value: f64,
    /// Mean logarithm of the sequences' levels: sizes of changes are differences of it.
    pub(super) mean_log: f64,
    /// Whether `value` was raised to the least level. A change down from there is of no interest.
    pub(super) raised: bool,
    /// Factor that is no drift.
    pub(super) tolerance: f64,
}

impl Level {
    /// Logarithm of a sequence's level, kept finite.
    pub(super) fn log(&self, level: f64) -> f64 {
        level.max(self.value * LEAST_FRACTION).ln()
    }

    /// From `(weight, level)` of sequences: the value `L` with `mean min(x / L, cap) = 1`, which up to a share of `1 / cap`
    /// of wild sequences cannot drive away (where the mean would go with the wildest, and the median would lie below the
    /// mean of skewed values and so make every later sequence look large).
    pub(super) fn learn(samples: &[(f64, f64)], cap: f64, least: f64, tolerance: f64) -> Self {
        let total: f64 = samples.iter().map(|(weight, _)| weight).sum();
        let limited = |limit: f64| samples.iter().map(|(weight, level)| weight * level.min(limit)).sum::<f64>() / total;
        // `limited(cap L) - L` is above 0 below the root and below 0 above it.
        let (mut low, mut high) = (0.0, limited(f64::MAX));
        while let middle = f64::midpoint(low, high)
            && middle > low
            && middle < high
            && high > least
        {
            if limited(cap * middle) > middle { low = middle } else { high = middle }
        }
        let mut level = Self { value: high.max(least), mean_log: 0.0, raised: high < least, tolerance };
        level.mean_log = samples.iter().map(|(weight, value)| weight * level.log(*value)).sum::<f64>() / total;
        level
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_of_equal_sequences_is_theirs_and_wild_ones_do_not_move_it() {
        let mut samples = vec![(0.9, 0.01); 90];
        let level = Level::learn(&samples, 4.0, 1e-3, 1.25);
        assert!((level.value - 0.01).abs() < 1e-15 && (level.mean_log - 0.01f64.ln()).abs() < 1e-12 && !level.raised);
        samples.extend([(0.9, 1e9); 5]);
        let wild = Level::learn(&samples, 4.0, 1e-3, 1.25);
        assert!((wild.value / 0.01 - 90.0 / 75.0).abs() < 1e-9, "5 at four times the level among 95: {}", wild.value);
    }

    #[test]
    fn a_level_is_never_below_the_least() {
        for samples in [vec![(0.5, 0.0); 20], vec![(0.5, 1e-6); 20]] {
            let level = Level::learn(&samples, 4.0, 1e-3, 1.25);
            assert!(level.raised && level.value == 1e-3 && level.mean_log.is_finite());
        }
    }

    #[test]
    fn the_limited_multiples_of_skewed_levels_have_mean_one() {
        let samples: Vec<_> = (1..1000).map(|i| (0.5, -(f64::from(i) / 1000.0).ln())).collect();
        let level = Level::learn(&samples, 4.0, 1e-3, 1.25);
        let mean = samples.iter().map(|(_, x)| (x / level.value).min(4.0)).sum::<f64>() / samples.len() as f64;
        assert!((mean - 1.0).abs() < 1e-9, "{mean}");
        assert!(level.value > 0.9, "not the median, {}", level.value);
    }
}
