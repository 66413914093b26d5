//! The latest policy versions in segments, in bounded memory.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::DriftSample;

/// Most segments that are kept.
const SEGMENTS: usize = 128;
/// Sequences in a segment, as long as they need not be made coarser.
const FIRST_SIZE: u64 = 8;
/// With no more versions than this in memory, segments are made coarser rather than forgotten.
const VERSIONS: u64 = 16;
/// Versions whose late sequences are recognised: workers do not switch in step.
const RECENT: usize = 8;

/// Some successive sequences of one policy version.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Segment {
    /// Number of the policy version in order of appearance.
    pub(super) version: u64,
    /// Number of the first sequence.
    pub(super) first: u64,
    pub(super) count: u64,
    pub(super) weight: f64,
    /// Sum of weighted log levels.
    pub(super) weighted_log: f64,
}

impl Segment {
    pub(super) fn new(version: u64, first: u64, weight: f64, log_level: f64) -> Self {
        Self { version, first, count: 1, weight, weighted_log: weight * log_level }
    }

    /// Adds the next sequence.
    pub(super) fn add(&mut self, weight: f64, log_level: f64) {
        self.count += 1;
        self.weight += weight;
        self.weighted_log += weight * log_level;
    }

    /// Adds the segment that follows.
    pub(super) fn merge(&mut self, next: &Self) {
        self.count += next.count;
        self.weight += next.weight;
        self.weighted_log += next.weighted_log;
    }

    /// Middle of the segment in sequences.
    pub(super) fn middle(&self) -> f64 {
        self.first as f64 + (self.count - 1) as f64 / 2.0
    }

    pub(super) fn mean_log(&self) -> f64 {
        self.weighted_log / self.weight
    }
}

/// A policy version and where it began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct VersionStart {
    pub(super) name: String,
    pub(super) sequence: u64,
    pub(super) at: Duration,
}

/// Segments, oldest first, and the latest policy versions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct History {
    size: u64,
    segments: VecDeque<Segment>,
    version: u64,
    recent: VecDeque<VersionStart>,
}

impl Default for History {
    fn default() -> Self {
        Self { size: FIRST_SIZE, segments: VecDeque::new(), version: 0, recent: VecDeque::new() }
    }
}

impl History {
    /// Segments from the policy version before that of `sequence` on, as far as they are remembered.
    pub(super) fn since_version_before(&self, sequence: u64) -> Vec<Segment> {
        let version =
            self.segments.iter().rev().find(|segment| segment.first <= sequence).map(|segment| segment.version);
        let from = version.unwrap_or(0).saturating_sub(1);
        self.segments.iter().filter(|segment| segment.version >= from).copied().collect()
    }

    /// Adds a sequence; true if it is the first of a policy version.
    pub(super) fn observe(&mut self, sample: &DriftSample<'_>, sequence: u64, weight: f64, log_level: f64) -> bool {
        let changed = self.note_version(sample, sequence);
        let (version, size) = (self.version, self.size);
        if let Some(last) = self.segments.back_mut().filter(|last| last.version == version && last.count < size) {
            last.add(weight, log_level);
            return changed;
        }
        if self.segments.len() == SEGMENTS {
            self.shrink();
        }
        self.segments.push_back(Segment::new(version, sequence, weight, log_level));
        changed
    }

    /// The version change within `distance` sequences of `sequence`, if there was one. The first version of all did not
    /// change from anything.
    pub(super) fn version_change_near(&self, sequence: u64, distance: u64) -> Option<&VersionStart> {
        self.recent
            .iter()
            .filter(|start| start.sequence > 0 && start.sequence.abs_diff(sequence) <= distance)
            .min_by_key(|start| start.sequence.abs_diff(sequence))
    }

    /// A version counts from its first sequence on; later sequences of recent versions are stragglers.
    fn note_version(&mut self, sample: &DriftSample<'_>, sequence: u64) -> bool {
        let Some(name) = sample.policy_version else { return false };
        if self.recent.iter().any(|known| known.name == name) {
            return false;
        }
        if !self.recent.is_empty() {
            self.version += 1;
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(VersionStart { name: name.to_owned(), sequence, at: sample.at });
        true
    }

    /// Makes room: twice as long segments where that keeps several for each version, else without the oldest quarter.
    fn shrink(&mut self) {
        let oldest = self.segments.front().map_or(self.version, |segment| segment.version);
        if self.version - oldest >= VERSIONS {
            self.segments.drain(..SEGMENTS / 4);
            if self.version - oldest >= 2 * VERSIONS {
                // Versions have become short beside segments.
                self.size = (self.size / 2).max(FIRST_SIZE);
            }
            return;
        }
        self.size *= 2;
        let mut merged: VecDeque<Segment> = VecDeque::with_capacity(SEGMENTS);
        for segment in self.segments.drain(..) {
            match merged.back_mut() {
                Some(last) if last.version == segment.version && last.count + segment.count <= self.size => {
                    last.merge(&segment);
                }
                _ => merged.push_back(segment),
            }
        }
        self.segments = merged;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observe(history: &mut History, sequence: u64, version: Option<&str>) -> bool {
        let sample = DriftSample::new(Duration::from_secs(sequence), version, 100, 1.0, None).unwrap();
        history.observe(&sample, sequence, 1.0, 0.5)
    }

    #[test]
    fn one_version_is_remembered_whole_in_coarser_segments() {
        let mut history = History::default();
        (0..100_000).for_each(|sequence| {
            observe(&mut history, sequence, None);
            assert!(history.segments.len() <= SEGMENTS);
        });
        assert_eq!(history.segments.iter().map(|segment| segment.count).sum::<u64>(), 100_000);
        assert_eq!(history.segments[0].first, 0);
        assert!(history.segments.len() > SEGMENTS / 4);
        assert!(history.segments.iter().all(|segment| (segment.mean_log() - 0.5).abs() < 1e-12));
    }

    #[test]
    fn of_many_versions_the_latest_are_remembered() {
        let mut history = History::default();
        (0..100_000u64).for_each(|sequence| {
            observe(&mut history, sequence, Some(&(sequence / 64).to_string()));
        });
        let oldest = history.segments[0].version;
        assert!(history.version - oldest >= VERSIONS - 4 && history.segments.len() <= SEGMENTS);
        assert!(history.segments.iter().all(|segment| segment.first / 64 == segment.version));
        assert_eq!(history.recent.len(), RECENT);
    }

    #[test]
    fn stragglers_of_a_version_are_no_version_change() {
        let mut history = History::default();
        let versions = ["41", "41", "42", "41", "42", "42"];
        let changed: Vec<_> = (0..).zip(versions).map(|(n, version)| observe(&mut history, n, Some(version))).collect();
        assert_eq!(changed, [true, false, true, false, false, false]);
        assert_eq!(history.segments.len(), 2);
        assert_eq!(history.version_change_near(4, 2).unwrap().name, "42");
        assert_eq!(history.version_change_near(0, 1), None);
        assert_eq!(history.since_version_before(5).len(), 2);
    }
}
