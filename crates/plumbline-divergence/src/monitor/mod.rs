//! Everything that is kept per run and engine, bounded in number and in size.

mod evidence;
mod group;
mod points;

use std::collections::BTreeMap;
use std::time::Duration;

pub use self::evidence::{EvidenceKey, EvidenceSums, TokenEvidence, WorstToken};
use self::group::Group;
pub use self::group::{DriftRecord, GroupTotals, GroupView, LikeliestCause, PooledSums, SequenceSummary};
pub use self::points::{NamedPoint, PointSums, TimePoint};
use crate::{DriftConfig, DriftConfigError, DriftDetector, DriftEvent, DriftUpdate, Finding, SufficientStatistics};

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
    /// The sums of everything since its first sequence.
    pub totals: SufficientStatistics,
    /// The latest stretches of time in which something was observed, at most [`GroupSummary::RECENT`], oldest first.
    pub recent: Vec<TimePoint>,
    /// Evidence of a change relative to what raises an alarm; `None` for `other`, where streams mix.
    pub drift_score: Option<f64>,
    /// The change whose alarm lasts, with its kind and size as they were judged last.
    pub drift_alarm: Option<DriftEvent>,
}

impl GroupSummary {
    /// Stretches of time at most in a summary.
    pub const RECENT: usize = 30;
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

    /// Gives a group that was seen before everything that is known of it in sums, in place of the sums of what was observed here:
    /// after a restart only the latest sequences are. `false`: it is not known (any more), and nothing changes.
    pub fn set_totals(&mut self, key: &GroupKey, first_seen: Duration, totals: GroupTotals) -> bool {
        let Some(group) = self.groups.get_mut(key) else { return false };
        group.set_totals(first_seen, totals);
        true
    }

    /// Takes what was found out about diagnosed sequences of a group, each with its likeliest cause first.
    pub fn hear(&mut self, now: Duration, key: &GroupKey, diagnosed: &[&[Finding]]) {
        self.group_or_other(now, key).hear(diagnosed);
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

    /// What is behind the differences of a group, as far as it is known: the likeliest cause of its latest sequences as a whole,
    /// else the one that was ranked first most often among those that were diagnosed one by one.
    #[must_use]
    pub fn likeliest_cause(&self, key: &GroupKey) -> Option<LikeliestCause> {
        self.groups.get(key)?.likeliest_cause()
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
mod tests;
