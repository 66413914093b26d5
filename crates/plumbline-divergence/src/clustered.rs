//! Confidence intervals of means, clustered by sequence.
//!
//! Tokens of one sequence share a prompt, a policy state and a batch, so they are not independent; sequences are taken to
//! be. With `x_i` the sum of a metric over sequence `i` and `n_i` its tokens, the pooled mean is the ratio
//! `R = sum x_i / sum n_i`, and its linearised (cluster-robust) variance is
//! `K / (K - 1) * sum (x_i - R n_i)^2 / (sum n_i)^2`. `K = (sum n_i)^2 / sum n_i^2` is the effective number of sequences
//! (Kish): the number itself where all are equally long, less where a few long ones decide. The factor makes the variance
//! unbiased for independent tokens of any lengths; the interval is `R +- t`, with `t` the 97.5 % quantile of Student's
//! distribution with `max(K - 1, 1)` degrees of freedom. For equal lengths this is the "CR1" variance of regression
//! packages with `sequences - 1` degrees of freedom.
//!
//! Everything is a sum over sequences, so windows and replicas merge exactly.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::student::t_95;
use crate::{SequenceComparison, SufficientStatistics};

/// A 95 % confidence interval. Symmetric about the mean, so `low` may be below 0 even for a metric that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Sums over sequences of one ratio: numerators `x_i`, denominators `n_i`.
///
/// Numerators are held relative to a guess of the ratio (that of the first sequence), `x_i - guess * n_i`: the residuals
/// are differences of these sums, and would lose their digits where the ratio is large beside its spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RatioSums {
    sequences: u64,
    guess: f64,
    x: f64,
    n: f64,
    xx: f64,
    xn: f64,
    nn: f64,
}

impl RatioSums {
    /// Adds one sequence. One without a denominator has no share in the ratio and leaves no trace.
    pub fn add(&mut self, numerator: f64, denominator: f64) {
        if denominator <= 0.0 {
            return;
        }
        if self.sequences == 0 {
            self.guess = numerator / denominator;
        }
        let x = numerator - self.guess * denominator;
        self.sequences += 1;
        self.x += x;
        self.n += denominator;
        self.xx += x * x;
        self.xn += x * denominator;
        self.nn += denominator * denominator;
    }

    /// Adds all sequences of another.
    pub fn merge(&mut self, other: &Self) {
        if self.sequences == 0 {
            *self = *other;
            return;
        }
        let apart = other.guess - self.guess;
        self.sequences += other.sequences;
        self.x += other.x + apart * other.n;
        self.n += other.n;
        self.xx += other.xx + apart * (2.0 * other.xn + apart * other.nn);
        self.xn += other.xn + apart * other.nn;
        self.nn += other.nn;
    }

    /// The ratio; `None` without a sequence.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        (self.sequences > 0).then(|| self.guess + self.x / self.n)
    }

    /// Half the width of the 95 % interval; `None` for fewer than two sequences.
    fn half_width(&self) -> Option<f64> {
        if self.sequences < 2 {
            return None;
        }
        let apart = self.x / self.n;
        // Below 0 only by the rounding of a sum that is 0.
        let residuals = (self.xx - apart * (2.0 * self.xn - apart * self.nn)).max(0.0);
        let excess = self.n * self.n / self.nn - 1.0;
        let variance = (excess + 1.0) / excess * residuals / (self.n * self.n);
        Some(t_95(excess.max(1.0)) * variance.sqrt()).filter(|width| width.is_finite())
    }

    /// The 95 % interval of the ratio; `None` for fewer than two sequences.
    #[must_use]
    pub fn interval(&self) -> Option<Interval> {
        let (ratio, half) = (self.ratio()?, self.half_width()?);
        Some(Interval { low: ratio - half, high: ratio + half })
    }

    /// The 95 % interval of the ratio's square root by the delta method.
    fn root_interval(&self) -> Option<Interval> {
        let (root, half) = (self.ratio()?.max(0.0).sqrt(), self.half_width()?);
        // A mean square of 0 has no residuals either.
        let half = if root > 0.0 { half / (2.0 * root) } else { half };
        Some(Interval { low: root - half, high: root + half })
    }
}

/// One metric: its numerator and denominator in the statistics of a single sequence, and whether it is the ratio's root.
struct ClusteredMetric {
    key: &'static str,
    interval_key: &'static str,
    numerator: fn(&SufficientStatistics) -> f64,
    denominator: fn(&SufficientStatistics) -> f64,
    root: bool,
}

macro_rules! metric {
    ($key:literal, $root:literal, $denominator:ident, $numerator:expr) => {
        ClusteredMetric {
            key: $key,
            interval_key: concat!($key, "_ci95"),
            numerator: $numerator,
            denominator: |s| s.$denominator as f64,
            root: $root,
        }
    };
}

/// Number of [`METRICS`].
const COUNT: usize = 27;

const METRICS: [ClusteredMetric; COUNT] = [
    metric!("log_ratio_mean", false, tokens, |s| s.delta_positive - s.delta_negative),
    metric!("mae_logprob", false, tokens, |s| s.delta_positive + s.delta_negative),
    metric!("rmse_logprob", true, tokens, |s| s.delta_squared),
    metric!("mae_prob", false, tokens, |s| s.prob_delta_positive + s.prob_delta_negative),
    metric!("rmse_prob", true, tokens, |s| s.prob_delta_squared),
    metric!("prob_diff_mean", false, tokens, |s| s.prob_delta_positive - s.prob_delta_negative),
    metric!("bernoulli_kl", false, tokens, |s| s.bernoulli_kl),
    metric!("kl_k1", false, tokens, |s| s.delta_negative - s.delta_positive),
    metric!("kl_k2", false, tokens, |s| s.delta_squared / 2.0),
    metric!("kl_k3", false, tokens, |s| s.k3),
    metric!("reverse_kl_k3", false, tokens, |s| s.reverse_k3),
    metric!("js", false, tokens, |s| s.js),
    metric!("mult_prob_error", false, tokens, |s| s.mult_prob_error),
    metric!("importance_ratio_mean", false, tokens, |s| s.importance_ratio),
    metric!("chi2_token", false, tokens, |s| s.chi2_token_positive - s.chi2_token_negative),
    metric!("chi2_sequence", false, sequences, |s| s.chi2_sequence_positive - s.chi2_sequence_negative),
    metric!("ratio_outside_0_9_1_1", false, tokens, |s| s.outside_0_9_1_1 as f64),
    metric!("ratio_outside_0_5_2", false, tokens, |s| s.outside_0_5_2 as f64),
    metric!("ratio_outside_0_5_5", false, tokens, |s| s.outside_0_5_5 as f64),
    metric!("ratio_below_1e_4", false, tokens, |s| s.below_1e_4 as f64),
    metric!("ppl_engine", false, sequences, |s| s.ppl_engine),
    metric!("ppl_reference", false, sequences, |s| s.ppl_reference),
    metric!("log_ppl_diff", false, sequences, |s| s.log_ppl_diff_positive - s.log_ppl_diff_negative),
    metric!("entropy", false, entropy_tokens, |s| s.entropy),
    metric!("top1_agreement", false, ranked_tokens, |s| s.top1 as f64),
    metric!("eos_probability", false, eos_sequences, |s| s.eos_probability),
    ClusteredMetric {
        key: "noise_floor_multiple",
        interval_key: "noise_floor_multiple_ci95",
        numerator: |s| s.floor_abs_delta,
        denominator: |s| s.floor_expected,
        root: false,
    },
];

/// Mergeable sums for the interval of every metric that is a mean, or the root of one, over tokens or sequences.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClusteredSums {
    ratios: [RatioSums; COUNT],
}

impl ClusteredSums {
    /// Adds one sequence. A sequence without a compared token leaves no trace.
    pub fn observe_sequence(&mut self, sequence: &SequenceComparison) {
        let mut statistics = SufficientStatistics::default();
        statistics.observe_sequence(sequence);
        self.observe_cluster(&statistics);
    }

    /// Adds the statistics of exactly one sequence, where the caller has them already. Statistics of several are taken as
    /// one cluster: right where those are not independent of each other, e.g. samples of one prompt.
    pub fn observe_cluster(&mut self, statistics: &SufficientStatistics) {
        for (sums, metric) in self.ratios.iter_mut().zip(&METRICS) {
            sums.add((metric.numerator)(statistics), (metric.denominator)(statistics));
        }
    }

    /// Adds everything that another has observed.
    pub fn merge(&mut self, other: &Self) {
        for (own, other) in self.ratios.iter_mut().zip(&other.ratios) {
            own.merge(other);
        }
    }

    /// Keys and sums of the metrics, in the order of the contract.
    fn entries(&self) -> impl Iterator<Item = (&'static ClusteredMetric, &RatioSums)> {
        const { &METRICS }.iter().zip(&self.ratios)
    }

    /// The interval of one metric (a key of [`Metrics`](crate::Metrics)); `None` for fewer than two sequences and for a
    /// metric that is no mean.
    #[must_use]
    pub fn interval(&self, key: &str) -> Option<Interval> {
        let (metric, sums) = self.entries().find(|(metric, _)| metric.key == key)?;
        if metric.root { sums.root_interval() } else { sums.interval() }
    }

    /// Every interval under its key of the API, `{metric}_ci95`; `None` where there are fewer than two sequences.
    #[must_use]
    pub fn intervals(&self) -> BTreeMap<&'static str, Option<Interval>> {
        self.entries().map(|(metric, _)| (metric.interval_key, self.interval(metric.key))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Metrics;

    #[test]
    fn every_key_is_one_of_the_metrics() {
        let json = serde_json::to_value(Metrics::default()).unwrap();
        for metric in METRICS {
            assert!(json.get(metric.key).is_some(), "{}", metric.key);
            assert_eq!(metric.interval_key, format!("{}_ci95", metric.key));
        }
    }

    #[test]
    fn fewer_than_two_sequences_have_no_interval() {
        let mut sums = RatioSums::default();
        assert_eq!((sums.ratio(), sums.interval()), (None, None));
        sums.add(3.0, 2.0);
        sums.add(7.0, 0.0);
        assert_eq!((sums.ratio(), sums.interval()), (Some(1.5), None));
        sums.add(1.0, 2.0);
        // Means 1.5 and 0.5, equal lengths: the standard error is 0.5, with one degree of freedom.
        let interval = sums.interval().unwrap();
        assert!((interval.high - 1.0 - 0.5 * 12.706_204_736_174_694).abs() < 1e-9, "{interval:?}");
        assert!(ClusteredSums::default().intervals().values().all(Option::is_none));
        assert_eq!(ClusteredSums::default().interval("pearson_logprob"), None);
    }

    #[test]
    fn a_constant_has_no_width_however_large_it_is() {
        let (mut sums, mut other) = (RatioSums::default(), RatioSums::default());
        for length in 1..50 {
            sums.add(1e6 * f64::from(length), f64::from(length));
            other.add(1e6 * f64::from(length), f64::from(length));
        }
        sums.merge(&other);
        assert_eq!(sums.interval(), Some(Interval { low: 1e6, high: 1e6 }));
    }
}
