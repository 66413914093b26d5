//! What is kept of a simulated engine: sums and a histogram of `|d|` for each bucket of entropy.

use serde::{Deserialize, Serialize};

use super::FloorSample;

/// Exclusive upper ends of the buckets in nats; the last bucket is open. Narrow where `|d|` changes fastest: it falls with
/// the probability of anything but the first choice.
pub(super) const BOUNDS: [f64; BUCKETS - 1] =
    [1e-4, 1e-3, 3e-3, 0.01, 0.03, 0.06, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.5];

/// Number of buckets.
pub(super) const BUCKETS: usize = 20;

/// Entropies and differences down to this are zeros with a rounding error.
const ROUNDING: f64 = -1e-3;

/// The bucket of an entropy in nats.
pub(super) fn bucket_of(entropy: f64) -> usize {
    BOUNDS.partition_point(|bound| *bound <= entropy)
}

/// Sums over the tokens of one bucket.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct BucketSums {
    pub(super) tokens: u64,
    /// `|d|`.
    pub(super) abs_delta: f64,
    /// `d^2`.
    pub(super) squares: f64,
    /// Over sequences with `n` tokens in this bucket, whose `|d|` sum to `s`: `s^2`, `s n` and `n^2`.
    pub(super) ss: f64,
    pub(super) sn: f64,
    pub(super) nn: f64,
    pub(super) histogram: Histogram,
}

impl BucketSums {
    pub(super) fn mean(&self) -> f64 {
        self.abs_delta / self.tokens as f64
    }

    /// Variance of `|d|` about the bucket's mean.
    pub(super) fn variance(&self) -> f64 {
        (self.squares / self.tokens as f64 - self.mean().powi(2)).max(0.0)
    }

    fn merge(&mut self, other: &Self) {
        self.tokens += other.tokens;
        self.abs_delta += other.abs_delta;
        self.squares += other.squares;
        self.ss += other.ss;
        self.sn += other.sn;
        self.nn += other.nn;
        self.histogram.merge(&other.histogram);
    }
}

/// Everything that is kept of one simulated engine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Sums {
    pub(super) buckets: [BucketSums; BUCKETS],
    pub(super) sequences: u64,
    /// Over sequences: the square of their number of tokens.
    pub(super) squared_lengths: f64,
}

impl Sums {
    /// Adds one sequence; returns the number of samples that were left out.
    pub(super) fn observe_sequence(&mut self, samples: &[FloorSample]) -> usize {
        let mut own: [(f64, f64); BUCKETS] = [(0.0, 0.0); BUCKETS];
        let mut taken = 0usize;
        for sample in samples {
            let usable = |value: f64| value.is_finite() && value >= ROUNDING;
            if !usable(sample.entropy) || !usable(sample.abs_delta) {
                continue;
            }
            let delta = sample.abs_delta.max(0.0);
            let index = bucket_of(sample.entropy);
            let bucket = &mut self.buckets[index];
            bucket.tokens += 1;
            bucket.abs_delta += delta;
            bucket.squares += delta * delta;
            bucket.histogram.observe(delta);
            own[index].0 += delta;
            own[index].1 += 1.0;
            taken += 1;
        }
        for (bucket, (s, n)) in self.buckets.iter_mut().zip(own) {
            bucket.ss += s * s;
            bucket.sn += s * n;
            bucket.nn += n * n;
        }
        self.sequences += u64::from(taken > 0);
        self.squared_lengths += (taken as f64).powi(2);
        samples.len() - taken
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (own, other) in self.buckets.iter_mut().zip(&other.buckets) {
            own.merge(other);
        }
        self.sequences += other.sequences;
        self.squared_lengths += other.squared_lengths;
    }

    pub(super) fn tokens(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.tokens).sum()
    }

    pub(super) fn pooled_histogram(&self) -> Histogram {
        let mut pooled = Histogram::default();
        self.buckets.iter().for_each(|bucket| pooled.merge(&bucket.histogram));
        pooled
    }
}

/// Number of tokens by `|d|`, four steps a decade from 1e-7 to 3; the last one is open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Histogram {
    counts: [u64; Histogram::STEPS],
}

impl Histogram {
    const STEPS: usize = 32;

    fn observe(&mut self, abs_delta: f64) {
        // The first step holds everything up to 1e-7, so also 0, whose logarithm is -infinity.
        let step = ((abs_delta.log10() + 7.0) * 4.0).ceil().clamp(0.0, (Self::STEPS - 1) as f64);
        self.counts[step as usize] += 1;
    }

    fn merge(&mut self, other: &Self) {
        for (own, other) in self.counts.iter_mut().zip(other.counts) {
            *own += other;
        }
    }

    /// The upper end of a step; the open one is given a step's width.
    fn upper(step: usize) -> f64 {
        10f64.powf(step as f64 / 4.0 - 7.0)
    }

    /// The quantile `q` in [0, 1], log-linear within a step; `None` without tokens.
    pub(super) fn quantile(&self, q: f64) -> Option<f64> {
        let total: u64 = self.counts.iter().sum();
        if total == 0 {
            return None;
        }
        let wanted = q.clamp(0.0, 1.0) * total as f64;
        let mut below = 0.0;
        for (step, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let own = *count as f64;
            if below + own >= wanted {
                let share = (wanted - below) / own;
                return Some(Self::upper(step) * 10f64.powf((share - 1.0) / 4.0));
            }
            below += own;
        }
        self.counts.iter().rposition(|count| *count > 0).map(Self::upper)
    }
}
