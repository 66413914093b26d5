//! Small sums for many places: points of a trend, policy versions, workers. All bounded in number.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Interval, RatioSums, SufficientStatistics};

/// What a trend shows of a set of sequences: a few sums, clustered by sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PointSums {
    /// Sequences with at least one compared token.
    pub sequences: u64,
    /// Compared tokens.
    pub tokens: u64,
    abs_delta: RatioSums,
    delta: RatioSums,
    k3: RatioSums,
    multiple: RatioSums,
}

impl PointSums {
    /// Adds the statistics of one sequence.
    pub fn observe(&mut self, sequence: &SufficientStatistics) {
        let tokens = sequence.tokens as f64;
        self.sequences += sequence.sequences;
        self.tokens += sequence.tokens;
        self.abs_delta.add(sequence.delta_positive + sequence.delta_negative, tokens);
        self.delta.add(sequence.delta_positive - sequence.delta_negative, tokens);
        self.k3.add(sequence.k3, tokens);
        self.multiple.add(sequence.floor_abs_delta, sequence.floor_expected);
    }

    /// Adds everything that another has observed.
    pub fn merge(&mut self, other: &Self) {
        self.sequences += other.sequences;
        self.tokens += other.tokens;
        self.abs_delta.merge(&other.abs_delta);
        self.delta.merge(&other.delta);
        self.k3.merge(&other.k3);
        self.multiple.merge(&other.multiple);
    }

    /// Mean `|d|` in nats; `None` without tokens, as below.
    #[must_use]
    pub fn mae_logprob(&self) -> Option<f64> {
        self.abs_delta.ratio()
    }

    /// Its 95 % interval, clustered by sequence; `None` for fewer than two sequences.
    #[must_use]
    pub fn mae_logprob_ci95(&self) -> Option<Interval> {
        self.abs_delta.interval()
    }

    /// Mean `d` in nats.
    #[must_use]
    pub fn log_ratio_mean(&self) -> Option<f64> {
        self.delta.ratio()
    }

    /// k3 estimate of `KL(engine || reference)` in nats.
    #[must_use]
    pub fn kl_k3(&self) -> Option<f64> {
        self.k3.ratio()
    }

    /// Mean `|d|` as a multiple of the noise floor; `None` without tokens that have one.
    #[must_use]
    pub fn noise_floor_multiple(&self) -> Option<f64> {
        self.multiple.ratio()
    }

    /// Its 95 % interval, clustered by sequence.
    #[must_use]
    pub fn noise_floor_multiple_ci95(&self) -> Option<Interval> {
        self.multiple.interval()
    }
}

/// One stretch of time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimePoint {
    /// When it began.
    pub from: Duration,
    /// When it ended, or will.
    pub to: Duration,
    /// What was observed in it.
    pub sums: PointSums,
}

/// Everything since the start by time: at most [`Timeline::POINTS`] stretches of equal length, which double as time goes by.
#[derive(Clone, Debug)]
pub(super) struct Timeline {
    width: Duration,
    latest: u64,
    points: VecDeque<(u64, PointSums)>,
}

impl Timeline {
    /// Number of stretches at most.
    pub(super) const POINTS: usize = 120;
    /// Their length at the start.
    const FIRST_WIDTH: Duration = Duration::from_secs(10);

    pub(super) fn new() -> Self {
        Self { width: Self::FIRST_WIDTH, latest: 0, points: VecDeque::new() }
    }

    /// Adds one sequence; time that goes backwards is taken as standing still.
    pub(super) fn observe(&mut self, now: Duration, sequence: &SufficientStatistics) {
        let number = u64::try_from(now.as_nanos() / self.width.as_nanos()).unwrap_or(u64::MAX);
        self.latest = self.latest.max(number);
        match self.points.back_mut() {
            Some((newest, sums)) if *newest == self.latest => sums.observe(sequence),
            _ => {
                let mut sums = PointSums::default();
                sums.observe(sequence);
                self.points.push_back((self.latest, sums));
            }
        }
        while self.points.len() > Self::POINTS {
            self.double();
        }
    }

    fn double(&mut self) {
        self.width = self.width.saturating_mul(2);
        self.latest /= 2;
        let mut doubled: VecDeque<(u64, PointSums)> = VecDeque::with_capacity(self.points.len());
        for (number, sums) in self.points.drain(..) {
            match doubled.back_mut() {
                Some((newest, merged)) if *newest == number / 2 => merged.merge(&sums),
                _ => doubled.push_back((number / 2, sums)),
            }
        }
        self.points = doubled;
    }

    /// The stretches in which something was observed, oldest first.
    pub(super) fn points(&self) -> Vec<TimePoint> {
        self.latest(Self::POINTS)
    }

    /// The latest `most` of them.
    pub(super) fn latest(&self, most: usize) -> Vec<TimePoint> {
        let at = |number: u64| {
            let nanos = self.width.as_nanos().saturating_mul(u128::from(number));
            Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
        };
        let point = |(number, sums): &(u64, PointSums)| TimePoint {
            from: at(*number),
            to: at(number.saturating_add(1)),
            sums: *sums,
        };
        self.points.range(self.points.len().saturating_sub(most)..).map(point).collect()
    }
}

/// What was observed under one name.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedPoint {
    /// The name; `None` where there was none.
    pub name: Option<String>,
    /// Time of the first sequence.
    pub first_seen: Duration,
    /// Time of the last sequence.
    pub last_seen: Duration,
    /// What was observed.
    pub sums: PointSums,
}

/// Which names are kept when there is no more room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// The first ones; what comes later goes into the rest.
    First,
    /// The latest ones; the oldest goes into the rest.
    Latest,
}

/// Sums by name, at most `limit` of them, and the sum of the rest.
#[derive(Clone, Debug)]
pub(super) struct Split {
    limit: usize,
    keep: Keep,
    points: VecDeque<NamedPoint>,
    rest: PointSums,
}

impl Split {
    pub(super) fn new(limit: usize, keep: Keep) -> Self {
        Self { limit, keep, points: VecDeque::new(), rest: PointSums::default() }
    }

    pub(super) fn observe(&mut self, now: Duration, name: Option<&str>, sequence: &SufficientStatistics) {
        if let Some(known) = self.points.iter_mut().rev().find(|point| point.name.as_deref() == name) {
            known.sums.observe(sequence);
            known.last_seen = known.last_seen.max(now);
            return;
        }
        if self.points.len() >= self.limit {
            match (self.keep, self.limit) {
                (Keep::Latest, 1..) => {
                    if let Some(oldest) = self.points.pop_front() {
                        self.rest.merge(&oldest.sums);
                    }
                }
                _ => {
                    self.rest.observe(sequence);
                    return;
                }
            }
        }
        let mut sums = PointSums::default();
        sums.observe(sequence);
        self.points.push_back(NamedPoint { name: name.map(str::to_owned), first_seen: now, last_seen: now, sums });
    }

    /// By first sequence, oldest first.
    pub(super) fn points(&self) -> Vec<NamedPoint> {
        self.points.iter().cloned().collect()
    }

    /// What found no room.
    pub(super) fn rest(&self) -> PointSums {
        self.rest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sequence(tokens: u64, mae: f64) -> SufficientStatistics {
        SufficientStatistics {
            tokens,
            sequences: 1,
            delta_positive: mae * tokens as f64,
            floor_abs_delta: mae * tokens as f64,
            floor_expected: 0.01 * tokens as f64,
            ..SufficientStatistics::default()
        }
    }

    #[test]
    fn a_timeline_halves_its_resolution_and_loses_nothing() {
        let mut timeline = Timeline::new();
        for second in 0..100_000u64 {
            timeline.observe(Duration::from_secs(second), &sequence(10, 0.02));
            assert!(timeline.points.len() <= Timeline::POINTS);
        }
        let points = timeline.points();
        assert!(points.len() > Timeline::POINTS / 2, "{}", points.len());
        assert_eq!(points.iter().map(|point| point.sums.sequences).sum::<u64>(), 100_000);
        assert!(points.windows(2).all(|pair| pair[0].to == pair[1].from));
        assert_eq!(points[0].from, Duration::ZERO);
        assert_eq!(timeline.latest(3), points[points.len() - 3..]);
        assert!(points.last().unwrap().to > Duration::from_secs(99_999));
    }

    #[test]
    fn rare_traffic_is_bounded_too() {
        let mut timeline = Timeline::new();
        (0..1000u64).for_each(|day| timeline.observe(Duration::from_secs(86_400 * day), &sequence(1, 0.1)));
        assert!(timeline.points().len() <= Timeline::POINTS);
        timeline.observe(Duration::ZERO, &sequence(1, 0.1));
        assert_eq!(timeline.points().iter().map(|point| point.sums.tokens).sum::<u64>(), 1001, "time went backwards");
        timeline.observe(Duration::MAX, &sequence(1, 0.1));
    }

    #[test]
    fn the_first_or_the_latest_names_are_kept() {
        let names = |keep| {
            let mut split = Split::new(2, keep);
            for (second, name) in ["a", "b", "a", "c", "d"].into_iter().enumerate() {
                split.observe(Duration::from_secs(second as u64), Some(name), &sequence(5, 0.02));
            }
            let names: Vec<_> = split.points().into_iter().map(|point| point.name.unwrap()).collect();
            (names.join(""), split.rest().sequences)
        };
        assert_eq!(names(Keep::First), ("ab".to_owned(), 2));
        assert_eq!(names(Keep::Latest), ("cd".to_owned(), 3));
        let mut none = Split::new(0, Keep::Latest);
        none.observe(Duration::ZERO, None, &sequence(5, 0.02));
        assert_eq!((none.points().len(), none.rest().tokens), (0, 5));
    }

    #[test]
    fn a_point_has_means_and_intervals() {
        let mut sums = PointSums::default();
        assert_eq!((sums.mae_logprob(), sums.noise_floor_multiple()), (None, None));
        sums.observe(&sequence(10, 0.01));
        sums.observe(&sequence(10, 0.03));
        let close = |value: Option<f64>, expected: f64| assert!((value.unwrap() - expected).abs() < 1e-12);
        close(sums.mae_logprob(), 0.02);
        close(sums.log_ratio_mean(), 0.02);
        close(sums.noise_floor_multiple(), 2.0);
        let interval = sums.noise_floor_multiple_ci95().unwrap();
        assert!(interval.low < 1.0 && interval.high > 3.0, "{interval:?}");
    }

    proptest! {
        /// Whatever the names and times, nothing is lost and the number of names is bounded.
        #[test]
        fn splits_lose_nothing(
            names in prop::collection::vec(prop::option::of(0u8..9), 0..60),
            limit in 0usize..5,
            latest in any::<bool>(),
        ) {
            let mut split = Split::new(limit, if latest { Keep::Latest } else { Keep::First });
            for name in &names {
                split.observe(Duration::ZERO, name.map(|name| name.to_string()).as_deref(), &sequence(3, 0.01));
            }
            prop_assert!(split.points().len() <= limit);
            let kept: u64 = split.points().iter().map(|point| point.sums.sequences).sum();
            prop_assert_eq!(kept + split.rest().sequences, names.len() as u64);
        }
    }
}
