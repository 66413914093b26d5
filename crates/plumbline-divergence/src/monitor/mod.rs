//! Everything that is kept per run and engine, bounded in number and in size.

mod group;
mod points;

use std::collections::BTreeMap;
use std::time::Duration;

use self::group::Group;
pub use self::group::{DriftRecord, GroupView, PooledSums, SequenceSummary};
pub use self::points::{NamedPoint, PointSums, TimePoint};
use crate::{DriftConfig, DriftConfigError, DriftDetector, DriftUpdate, SufficientStatistics};

/// Who a comparison belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupKey {
    /// The sender's name of the training run.
    pub run: String,
    /// The sender's name of the engine.
    pub engine: String,
}

impl GroupKey {
    /// Run and engine of the group that takes what finds no group of its own.
    pub const OTHER: &'static str = "other";

    /// The group that takes what finds no group of its own.
    #[must_use]
    pub fn other() -> Self {
        Self { run: Self::OTHER.to_owned(), engine: Self::OTHER.to_owned() }
    }
}

/// Size of a [`Monitor`], and how it looks for drift.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MonitorConfig {
    /// Length of each group's window.
    pub window: Duration,
    /// Time slices of each window.
    pub slices: usize,
    /// Number of groups besides `other`.
    pub max_groups: usize,
    /// A group that was not seen for this long may be expired.
    pub idle_expiry: Duration,
    /// Settings of each group's drift detector.
    pub drift: DriftConfig,
}

/// What gauges and lists show of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupSummary {
    /// Which group.
    pub key: GroupKey,
    /// Time of its first sequence.
    pub first_seen: Duration,
    /// Time of its last sequence.
    pub last_seen: Duration,
    /// Compared tokens since then.
    pub tokens: u64,
    /// Sequences with at least one compared token.
    pub sequences: u64,
    /// The sums of its window.
    pub window: SufficientStatistics,
    /// Evidence of a change relative to what raises an alarm; `None` for `other`, where streams mix.
    pub drift_score: Option<f64>,
}

/// The recent past of every run and engine. Names come from senders, so their number is bounded: beyond `max_groups`, new
/// ones share the group `other`, which always exists.
#[derive(Clone, Debug)]
pub struct Monitor {
    config: MonitorConfig,
    /// A detector that has seen nothing.
    detector: DriftDetector,
    other: Group,
    groups: BTreeMap<GroupKey, Group>,
}

impl Monitor {
    /// A monitor that knows only the group `other`.
    ///
    /// # Errors
    /// [`DriftConfigError`] if a setting of the drift detectors has no meaning.
    pub fn new(config: MonitorConfig) -> Result<Self, DriftConfigError> {
        let detector = DriftDetector::new(config.drift)?;
        let other = Group::new(&config, Duration::ZERO, None);
        Ok(Self { config, detector, other, groups: BTreeMap::new() })
    }

    /// The group to which a run and engine belong: their own if it exists or there is room for it, else `other`. Use its
    /// names as metric labels. Counts as being seen.
    pub fn resolve(&mut self, now: Duration, run: &str, engine: &str) -> GroupKey {
        let key = GroupKey { run: run.to_owned(), engine: engine.to_owned() };
        if self.has_room(&key) {
            self.group_or_other(now, &key);
            key
        } else {
            GroupKey::other()
        }
    }

    /// Adds answered sequences of a group at `now`, in their order, and says what drift began or ended with them. A group that
    /// has expired since it was resolved is resolved anew.
    pub fn observe(&mut self, now: Duration, key: &GroupKey, sequences: &[SequenceSummary]) -> Vec<DriftUpdate> {
        self.group_or_other(now, key).observe(now, sequences)
    }

    /// Counts diagnosed sequences of a group by their first cause. The names are a bounded set of the caller's.
    pub fn count_diagnoses(&mut self, now: Duration, key: &GroupKey, causes: &[&'static str]) {
        self.group_or_other(now, key).count_diagnoses(causes);
    }

    /// What gauges show of every group at `now`, `other` first, then by name.
    #[must_use]
    pub fn gauges(&self, now: Duration) -> Vec<GroupSummary> {
        self.all().map(|(key, group)| group.summary(now, key)).collect()
    }

    /// The groups that have seen something by `now`, `other` first, then by name.
    #[must_use]
    pub fn list(&self, now: Duration) -> Vec<GroupSummary> {
        let seen = self.all().filter(|(_, group)| group.has_seen_something());
        seen.map(|(key, group)| group.summary(now, key)).collect()
    }

    /// Everything that is known of the engines of a run at `now`, by engine; empty for a run that is not known.
    #[must_use]
    pub fn view(&self, now: Duration, run: &str) -> Vec<GroupView> {
        let own = self.all().filter(|(key, group)| key.run == run && group.has_seen_something());
        own.map(|(key, group)| group.view(now, key)).collect()
    }

    fn all(&self) -> impl Iterator<Item = (GroupKey, &Group)> {
        let groups = self.groups.iter().map(|(key, group)| (key.clone(), group));
        std::iter::once((GroupKey::other(), &self.other)).chain(groups)
    }

    /// Removes the groups that were not seen for `idle_expiry` and names them, so that their series can go too.
    pub fn expire(&mut self, now: Duration) -> Vec<GroupKey> {
        let idle_expiry = self.config.idle_expiry;
        let mut expired = Vec::new();
        self.groups.retain(|key, group| {
            let idle = now.saturating_sub(group.last_seen) >= idle_expiry;
            if idle {
                expired.push(key.clone());
            }
            !idle
        });
        expired
    }

    fn group_or_other(&mut self, now: Duration, key: &GroupKey) -> &mut Group {
        if self.has_room(key) {
            let (config, detector) = (&self.config, &self.detector);
            let group =
                self.groups.entry(key.clone()).or_insert_with(|| Group::new(config, now, Some(detector.clone())));
            group.last_seen = group.last_seen.max(now);
            group
        } else {
            if !self.other.has_seen_something() {
                self.other.first_seen = now;
            }
            self.other.last_seen = self.other.last_seen.max(now);
            &mut self.other
        }
    }

    /// Whether `key` has or can get a group of its own.
    fn has_room(&self, key: &GroupKey) -> bool {
        *key != GroupKey::other() && (self.groups.len() < self.config.max_groups || self.groups.contains_key(key))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{DriftDirection, DriftUnit, Verdict};

    const SECOND: Duration = Duration::from_secs(1);

    fn monitor(max_groups: usize) -> Monitor {
        let drift = DriftConfig::default();
        Monitor::new(MonitorConfig { window: 60 * SECOND, slices: 6, max_groups, idle_expiry: 100 * SECOND, drift })
            .unwrap()
    }

    fn key(run: &str, engine: &str) -> GroupKey {
        GroupKey { run: run.into(), engine: engine.into() }
    }

    fn tokens(tokens: u64) -> [SequenceSummary; 1] {
        [summary(tokens, 0.01, None)]
    }

    /// A sequence with a mean `|d|`, and the floor expected of it.
    fn summary(tokens: u64, mae: f64, floor: Option<f64>) -> SequenceSummary {
        let count = tokens as f64;
        let mut statistics = SufficientStatistics { tokens, sequences: 1, ..SufficientStatistics::default() };
        statistics.delta_positive = count * mae;
        if let Some(floor) = floor {
            statistics.floor_tokens = tokens;
            statistics.floor_abs_delta = count * mae;
            statistics.floor_expected = count * floor;
        }
        SequenceSummary { statistics, verdict: Some(Verdict::Consistent), ..SequenceSummary::default() }
    }

    fn counts(monitor: &Monitor, now: Duration) -> Vec<(GroupKey, u64)> {
        monitor.gauges(now).into_iter().map(|group| (group.key, group.window.tokens)).collect()
    }

    #[test]
    fn runs_and_engines_beyond_the_limit_share_other() {
        let mut monitor = monitor(2);
        assert_eq!(counts(&monitor, SECOND), [(GroupKey::other(), 0)]);
        let names = [("a", "vllm"), ("b", "vllm"), ("a", "sglang"), ("b", "vllm")];
        for (run, engine) in names {
            let key = monitor.resolve(SECOND, run, engine);
            monitor.observe(SECOND, &key, &tokens(1));
        }
        let expected = [(GroupKey::other(), 1), (key("a", "vllm"), 1), (key("b", "vllm"), 2)];
        assert_eq!(counts(&monitor, SECOND), expected);
    }

    #[test]
    fn idle_groups_expire_and_make_room() {
        let mut monitor = monitor(1);
        let first = monitor.resolve(Duration::ZERO, "a", "vllm");
        assert_eq!(monitor.expire(99 * SECOND), []);
        monitor.resolve(50 * SECOND, "a", "vllm");
        assert_eq!(monitor.expire(149 * SECOND), []);
        assert_eq!(monitor.expire(150 * SECOND), std::slice::from_ref(&first));
        assert_eq!(monitor.resolve(150 * SECOND, "b", "vllm"), key("b", "vllm"));
        // Resolved before it expired, observed after: there is no room any more, but nothing is lost.
        monitor.observe(150 * SECOND, &first, &tokens(3));
        assert_eq!(counts(&monitor, 150 * SECOND), [(GroupKey::other(), 3), (key("b", "vllm"), 0)]);
        assert_eq!(monitor.expire(Duration::MAX), [key("b", "vllm")]);
        assert_eq!(counts(&monitor, 150 * SECOND), [(GroupKey::other(), 3)]);
    }

    #[test]
    fn a_sender_may_call_itself_other() {
        let mut monitor = monitor(1);
        assert_eq!(monitor.resolve(SECOND, "other", "other"), GroupKey::other());
        assert_eq!(monitor.resolve(SECOND, "other", "vllm"), key("other", "vllm"));
    }

    #[test]
    fn a_view_has_intervals_splits_verdicts_and_diagnoses() {
        let mut monitor = monitor(4);
        let key = monitor.resolve(SECOND, "a", "vllm");
        for (second, version, worker) in [(1, "1", "w1"), (2, "1", "w2"), (90, "2", "w1")] {
            let sequence = SequenceSummary {
                policy_version: Some(version.into()),
                worker: Some(worker.into()),
                ..summary(10, 0.01 * f64::from(second), Some(0.02))
            };
            monitor.observe(second * SECOND, &key, &[sequence]);
        }
        monitor.observe(
            91 * SECOND,
            &key,
            &[SequenceSummary { verdict: Some(Verdict::Insufficient), ..SequenceSummary::default() }],
        );
        monitor.count_diagnoses(91 * SECOND, &key, &["unknown", "unknown", "stale_weights"]);
        let [view] = <[_; 1]>::try_from(monitor.view(91 * SECOND, "a")).unwrap();
        assert_eq!((view.window.statistics.tokens, view.totals.statistics.tokens), (10, 30));
        assert_eq!(view.verdicts, [3, 0, 0, 1]);
        assert!(view.totals.clusters.interval("noise_floor_multiple").is_some());
        assert_eq!(view.window.clusters.interval("mae_logprob"), None, "one sequence has no interval");
        let names = |points: &[NamedPoint]| -> Vec<_> {
            points.iter().map(|point| (point.name.clone().unwrap(), point.sums.sequences)).collect()
        };
        assert_eq!(names(&view.versions), [("1".to_owned(), 2), ("2".to_owned(), 1)]);
        assert_eq!(names(&view.workers), [("w1".to_owned(), 2), ("w2".to_owned(), 1)]);
        assert_eq!(view.timeline.len(), 2);
        assert_eq!(view.diagnoses, BTreeMap::from([("stale_weights", 1), ("unknown", 2)]));
        assert!(monitor.view(91 * SECOND, "b").is_empty());
        assert!(monitor.view(91 * SECOND, "other").is_empty(), "it has seen nothing");
        assert_eq!(monitor.list(91 * SECOND).iter().map(|group| group.sequences).collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn a_step_is_an_event_with_its_version_and_ends_when_it_is_over() {
        let mut monitor = monitor(4);
        let key = monitor.resolve(SECOND, "a", "vllm");
        let mut updates = Vec::new();
        for number in 0..2000u32 {
            let multiple = if (1000..1400).contains(&number) { 4.0 } else { 1.0 };
            // Uneven, as real ones are.
            let noise = 0.7 + 0.6 * f64::from(number * 37 % 101) / 100.0;
            let version = if number < 1000 { "41" } else { "42" };
            let sequence = SequenceSummary {
                policy_version: Some(version.into()),
                ..summary(100, 0.01 * multiple * noise, Some(0.01))
            };
            updates.extend(monitor.observe(number * SECOND, &key, &[sequence]));
        }
        assert_eq!(updates.len(), 2, "{updates:?}");
        let view = monitor.view(2000 * SECOND, "a").remove(0);
        let [record] = <[_; 1]>::try_from(view.events).unwrap();
        let event = &record.event;
        assert_eq!(
            (event.direction, event.unit, event.at_version_change),
            (DriftDirection::Up, DriftUnit::NoiseFloors, true)
        );
        assert_eq!(event.policy_version.as_deref(), Some("42"));
        assert!(event.size > 3.0 && event.size < 5.0, "{}", event.size);
        assert!(record.ended_at.is_some_and(|at| at > 1400 * SECOND && at < 1450 * SECOND), "{:?}", record.ended_at);
        assert!(view.drift.unwrap().alarm.is_none());
    }

    #[test]
    fn other_mixes_streams_and_watches_none() {
        let mut monitor = monitor(0);
        let key = monitor.resolve(SECOND, "a", "vllm");
        (0..3000u32).for_each(|number| {
            let mae = if number < 1000 { 0.01 } else { 1.0 };
            assert!(monitor.observe(number * SECOND, &key, &[summary(100, mae, None)]).is_empty());
        });
        assert_eq!(monitor.gauges(SECOND)[0].drift_score, None);
        assert_eq!(monitor.view(SECOND, "other")[0].drift, None);
    }

    #[test]
    fn what_is_kept_of_a_group_is_bounded() {
        let mut monitor = monitor(1);
        let key = monitor.resolve(SECOND, "a", "vllm");
        for number in 0..30_000u32 {
            // Up and down every 300 sequences, a version and a worker each: as many events as there can be.
            let mae = if number / 300 % 2 == 0 { 0.01 } else { 0.1 };
            let sequence = SequenceSummary {
                policy_version: Some((number / 20).to_string()),
                worker: Some((number % 500).to_string()),
                ..summary(100, mae, None)
            };
            monitor.observe(number * SECOND, &key, &[sequence]);
        }
        let view = monitor.view(30_000 * SECOND, "a").remove(0);
        assert_eq!((view.events.len(), view.versions.len(), view.workers.len()), (32, 64, 64));
        assert!(view.timeline.len() <= 120);
        let kept = |points: &[NamedPoint], rest: PointSums| {
            points.iter().map(|point| point.sums.sequences).sum::<u64>() + rest.sequences
        };
        assert_eq!(kept(&view.versions, view.earlier_versions), 30_000);
        assert_eq!(kept(&view.workers, view.other_workers), 30_000);
    }

    #[test]
    fn drift_settings_without_meaning_are_refused() {
        let drift = DriftConfig { tolerance: 0.5, ..DriftConfig::default() };
        let config = MonitorConfig { window: SECOND, slices: 1, max_groups: 1, idle_expiry: SECOND, drift };
        assert_eq!(Monitor::new(config).unwrap_err().key, "tolerance");
    }

    proptest! {
        /// Any senders, any times: the number of groups is bounded, no token is lost, and a group keeps its name.
        #[test]
        fn groups_are_bounded_and_lose_nothing(
            calls in prop::collection::vec((0u8..12, 0u8..3, 0u32..50), 0..100),
            max_groups in 0usize..6,
        ) {
            let mut monitor = monitor(max_groups);
            for (run, engine, seconds) in &calls {
                let now = *seconds * SECOND;
                let known: Vec<_> = monitor.gauges(now).into_iter().map(|group| group.key).collect();
                let wanted = key(&format!("run-{run}"), &format!("engine-{engine}"));
                let resolved = monitor.resolve(now, &wanted.run, &wanted.engine);
                if known.contains(&wanted) || known.len() <= max_groups {
                    prop_assert_eq!(&resolved, &wanted);
                } else {
                    prop_assert_eq!(&resolved, &GroupKey::other());
                }
                monitor.observe(now, &resolved, &tokens(1));
            }
            let counts = counts(&monitor, 50 * SECOND);
            prop_assert!(counts.len() <= max_groups + 1);
            prop_assert_eq!(counts.iter().map(|(_, tokens)| tokens).sum::<u64>(), calls.len() as u64);
        }
    }
}
