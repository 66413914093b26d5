//! Sliding windows per run and engine, bounded in number.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::{SlidingWindow, SufficientStatistics};

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

/// Size of a [`Monitor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MonitorConfig {
    /// Length of each group's window.
    pub window: Duration,
    /// Time slices of each window.
    pub slices: usize,
    /// Number of groups besides `other`.
    pub max_groups: usize,
    /// A group that was not seen for this long may be expired.
    pub idle_expiry: Duration,
}

/// The recent past of every run and engine. Names come from senders, so their number is bounded: beyond `max_groups`, new
/// ones share the group `other`, which always exists.
#[derive(Clone, Debug)]
pub struct Monitor {
    config: MonitorConfig,
    other: SlidingWindow,
    groups: BTreeMap<GroupKey, Group>,
}

#[derive(Clone, Debug)]
struct Group {
    window: SlidingWindow,
    last_seen: Duration,
}

impl Monitor {
    /// A monitor that knows only the group `other`.
    #[must_use]
    pub fn new(config: MonitorConfig) -> Self {
        Self { config, other: SlidingWindow::new(config.window, config.slices), groups: BTreeMap::new() }
    }

    /// The group to which a run and engine belong: their own if it exists or there is room for it, else `other`. Use its
    /// names as metric labels. Counts as being seen.
    pub fn resolve(&mut self, now: Duration, run: &str, engine: &str) -> GroupKey {
        let key = GroupKey { run: run.to_owned(), engine: engine.to_owned() };
        match self.group(now, &key) {
            Some(_) => key,
            None => GroupKey::other(),
        }
    }

    /// Adds what was observed of a group at `now`. A group that has expired since it was resolved is resolved anew.
    pub fn observe(&mut self, now: Duration, key: &GroupKey, statistics: &SufficientStatistics) {
        match self.group(now, key) {
            Some(group) => group.window.observe(now, statistics),
            None => self.other.observe(now, statistics),
        }
    }

    /// Every group's window at `now`, `other` first, then by name.
    #[must_use]
    pub fn snapshot(&self, now: Duration) -> Vec<(GroupKey, SufficientStatistics)> {
        let groups = self.groups.iter().map(|(key, group)| (key.clone(), group.window.snapshot(now)));
        std::iter::once((GroupKey::other(), self.other.snapshot(now))).chain(groups).collect()
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

    /// The group of its own that `key` has or can get; `None` stands for `other`.
    fn group(&mut self, now: Duration, key: &GroupKey) -> Option<&mut Group> {
        if *key == GroupKey::other() || (self.groups.len() >= self.config.max_groups && !self.groups.contains_key(key))
        {
            return None;
        }
        let group = self.groups.entry(key.clone()).or_insert_with(|| Group {
            window: SlidingWindow::new(self.config.window, self.config.slices),
            last_seen: now,
        });
        group.last_seen = group.last_seen.max(now);
        Some(group)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn monitor(max_groups: usize) -> Monitor {
        Monitor::new(MonitorConfig { window: 60 * SECOND, slices: 6, max_groups, idle_expiry: 100 * SECOND })
    }

    fn key(run: &str, engine: &str) -> GroupKey {
        GroupKey { run: run.into(), engine: engine.into() }
    }

    fn tokens(tokens: u64) -> SufficientStatistics {
        SufficientStatistics { tokens, ..SufficientStatistics::default() }
    }

    fn counts(monitor: &Monitor, now: Duration) -> Vec<(GroupKey, u64)> {
        monitor.snapshot(now).into_iter().map(|(key, statistics)| (key, statistics.tokens)).collect()
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
                let known: Vec<_> = monitor.snapshot(now).into_iter().map(|(key, _)| key).collect();
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
