//! What is kept of one run and engine.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use plumbline_core::SkipCounts;
use serde::{Deserialize, Serialize};

use super::evidence::TokenEvidence;
use super::points::{Keep, NamedPoint, PointSums, Split, TimePoint, Timeline};
use super::{GroupKey, GroupSummary, MonitorConfig};
use crate::window::Merge;
use crate::{
    ClusteredSums, DriftDetector, DriftEvent, DriftSample, DriftState, DriftUpdate, Finding, RunDiagnosis, RunSequence,
    SlidingWindow, SufficientStatistics, Verdict,
};

/// Policy versions of a group that are kept apart: the latest ones.
const VERSIONS: usize = 64;
/// Workers of a group that are kept apart: the first ones.
const WORKERS: usize = 64;
/// Drift events of a group that are kept: the latest ones.
const EVENTS: usize = 32;
/// Sequences of one generation. Causes and evidence are of this one and of the one before: a worker that was mended is not
/// blamed for ever.
const GENERATION: u64 = 4096;

/// One answered sequence, as a monitor sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SequenceSummary {
    /// The statistics of exactly this sequence, with the noise floor if one is known.
    pub statistics: SufficientStatistics,
    /// Its tokens that enter no sum.
    pub skipped: SkipCounts,
    /// Its verdict; `None` counts nowhere.
    pub verdict: Option<Verdict>,
    /// Version of the weights that scored it.
    pub policy_version: Option<String>,
    /// Who sampled it.
    pub worker: Option<String>,
    /// Tokens of its prompt that the engine took from its prefix cache, if it said so.
    pub cached_tokens: Option<usize>,
    /// Where its differences are.
    pub evidence: TokenEvidence,
}

/// Statistics and the sums behind their intervals.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PooledSums {
    /// Pooled over all tokens.
    pub statistics: SufficientStatistics,
    /// By sequence.
    pub clusters: ClusteredSums,
}

impl PooledSums {
    /// Adds the statistics of exactly one sequence.
    pub fn observe(&mut self, sequence: &SufficientStatistics) {
        self.statistics.merge(sequence);
        self.clusters.observe_cluster(sequence);
    }
}

impl Merge for PooledSums {
    fn merge(&mut self, other: &Self) {
        self.statistics.merge(&other.statistics);
        self.clusters.merge(&other.clusters);
    }
}

/// Everything of a run and engine since its first sequence, in sums: what can be kept for ever.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupTotals {
    /// Over the compared tokens.
    pub sums: PooledSums,
    /// Tokens that entered no sum.
    pub skipped: SkipCounts,
    /// Sequences by verdict, in the order of [`Verdict::ALL`].
    pub verdicts: [u64; Verdict::ALL.len()],
}

impl GroupTotals {
    /// Adds exactly one sequence. A verdict of `None` counts nowhere.
    pub fn observe(&mut self, statistics: &SufficientStatistics, skipped: &SkipCounts, verdict: Option<Verdict>) {
        self.skipped.merge(skipped);
        let index = verdict.and_then(|own| Verdict::ALL.iter().position(|verdict| *verdict == own));
        if let Some(count) = index.and_then(|index| self.verdicts.get_mut(index)) {
            *count += 1;
        }
        if statistics.tokens > 0 {
            self.sums.observe(statistics);
        }
    }
}

/// The likeliest cause of what is found in a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LikeliestCause {
    /// Its code.
    pub cause: &'static str,
    /// What speaks for it, for people.
    pub evidence: String,
}

/// A change that was detected, and how it went on.
#[derive(Clone, Debug, PartialEq)]
pub struct DriftRecord {
    /// The change; kind and size as they were judged last.
    pub event: DriftEvent,
    /// When the alarm was over; `None` while it lasts.
    pub ended_at: Option<Duration>,
}

/// Everything that is known of one run and engine, at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupView {
    /// Which one.
    pub key: GroupKey,
    /// Time of its first sequence.
    pub first_seen: Duration,
    /// Time of its last sequence.
    pub last_seen: Duration,
    /// The sliding window.
    pub window: PooledSums,
    /// Everything since the first sequence.
    pub totals: PooledSums,
    /// Tokens that entered no sum, since the first sequence.
    pub skipped: SkipCounts,
    /// Sequences by verdict, in the order of [`Verdict::ALL`].
    pub verdicts: [u64; Verdict::ALL.len()],
    /// Where the drift detector stands; `None` for `other`, where streams mix.
    pub drift: Option<DriftState>,
    /// The latest changes, oldest first.
    pub events: Vec<DriftRecord>,
    /// By time, oldest first.
    pub timeline: Vec<TimePoint>,
    /// By policy version, in order of appearance; the latest ones.
    pub versions: Vec<NamedPoint>,
    /// Sequences of earlier versions.
    pub earlier_versions: PointSums,
    /// By worker, in order of appearance.
    pub workers: Vec<NamedPoint>,
    /// Sequences of workers beyond those.
    pub other_workers: PointSums,
    /// Diagnosed sequences by first cause.
    pub diagnoses: BTreeMap<&'static str, u64>,
    /// Ranked causes of the latest 4096 to 8192 sequences; empty = nothing beyond noise.
    pub causes: Vec<Finding>,
    /// Where the differences of these sequences are.
    pub evidence: TokenEvidence,
}

/// What is kept of one run and engine: of bounded size, whatever is sent.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) first_seen: Duration,
    pub(super) last_seen: Duration,
    window: SlidingWindow<PooledSums>,
    totals: GroupTotals,
    drift: Option<DriftDetector>,
    events: VecDeque<DriftRecord>,
    timeline: Timeline,
    versions: Split,
    workers: Split,
    diagnoses: BTreeMap<&'static str, u64>,
    /// The generation before, and the one that grows.
    recent: [Recent; 2],
}

/// What is known of some thousand sequences together.
#[derive(Clone, Debug, Default)]
struct Recent {
    sequences: u64,
    run: RunDiagnosis,
    evidence: TokenEvidence,
}

impl Group {
    /// A group that has seen nothing. `drift` is a detector that has seen nothing, if one shall watch.
    pub(super) fn new(config: &MonitorConfig, now: Duration, drift: Option<DriftDetector>) -> Self {
        Self {
            first_seen: now,
            last_seen: now,
            window: SlidingWindow::new(config.window, config.slices),
            totals: GroupTotals::default(),
            drift,
            events: VecDeque::new(),
            timeline: Timeline::new(),
            versions: Split::new(VERSIONS, Keep::Latest),
            workers: Split::new(WORKERS, Keep::First),
            diagnoses: BTreeMap::new(),
            recent: Default::default(),
        }
    }

    /// Adds sequences, in their order, and says what changed.
    pub(super) fn observe(&mut self, now: Duration, sequences: &[SequenceSummary]) -> Vec<DriftUpdate> {
        let mut sums = PooledSums::default();
        let mut updates = Vec::new();
        for sequence in sequences {
            let statistics = &sequence.statistics;
            self.totals.observe(statistics, &sequence.skipped, sequence.verdict);
            if statistics.tokens == 0 {
                continue;
            }
            sums.observe(statistics);
            self.timeline.observe(now, statistics);
            self.versions.observe(now, sequence.policy_version.as_deref(), statistics);
            if let Some(worker) = &sequence.worker {
                self.workers.observe(now, Some(worker), statistics);
            }
            self.remember(sequence);
            updates.extend(self.watch(now, sequence));
        }
        self.window.observe(now, &sums);
        updates
    }

    /// Adds one sequence to the generation that grows. Without a floor there is nothing to compare it with others by.
    fn remember(&mut self, sequence: &SequenceSummary) {
        if self.recent[1].sequences >= GENERATION {
            self.recent[0] = std::mem::take(&mut self.recent[1]);
        }
        let recent = &mut self.recent[1];
        recent.sequences += 1;
        recent.evidence.merge(&sequence.evidence);
        let statistics = &sequence.statistics;
        let Some(floor_mae) = statistics.noise_floor() else { return };
        recent.run.observe(&RunSequence {
            worker: sequence.worker.as_deref(),
            policy_version: sequence.policy_version.as_deref(),
            cached_tokens: sequence.cached_tokens,
            tokens: statistics.floor_tokens as usize,
            mae: statistics.floor_abs_delta / statistics.floor_tokens as f64,
            floor_mae,
        });
    }

    /// Shows one sequence to the drift detector.
    ///
    /// Its unit is the noise floor where one is known: that of the version that scored it. The caller sees to it that a stream,
    /// once it has a floor, keeps having one. When the first floor arrives the unit changes, and the detector learns anew.
    fn watch(&mut self, now: Duration, sequence: &SequenceSummary) -> Option<DriftUpdate> {
        let statistics = &sequence.statistics;
        let version = sequence.policy_version.as_deref();
        let sample = match statistics.noise_floor() {
            None => DriftSample::new(now, version, statistics.tokens, statistics.mae()?, None),
            Some(floor) => {
                let tokens = statistics.floor_tokens;
                DriftSample::new(now, version, tokens, statistics.floor_abs_delta / tokens as f64, Some(floor))
            }
        };
        // A mean that is not finite is no level, and a floor of 0 is none to divide by: neither says anything of drift.
        let sample = sample.ok()?;
        let update = self.drift.as_mut()?.observe(&sample)?;
        self.record(now, &update);
        Some(update)
    }

    fn record(&mut self, now: Duration, update: &DriftUpdate) {
        match update {
            DriftUpdate::Began(event) => {
                if self.events.len() == EVENTS {
                    self.events.pop_front();
                }
                self.events.push_back(DriftRecord { event: event.clone(), ended_at: None });
            }
            DriftUpdate::Ended(event) => {
                for record in self.events.iter_mut().filter(|record| record.ended_at.is_none()) {
                    record.ended_at = Some(now);
                    if record.event.seen_sequence == event.seen_sequence {
                        record.event = event.clone();
                    }
                }
            }
        }
    }

    /// Takes the findings of diagnosed sequences, the likeliest cause first.
    pub(super) fn hear(&mut self, diagnosed: &[&[Finding]]) {
        for findings in diagnosed {
            if let Some(first) = findings.first() {
                *self.diagnoses.entry(first.cause.as_str()).or_default() += 1;
            }
            self.recent[1].run.vote(findings);
        }
    }

    /// Puts the sums of everything in place of those of what was observed here, and the time of the first sequence before.
    pub(super) fn set_totals(&mut self, first_seen: Duration, totals: GroupTotals) {
        self.first_seen = self.first_seen.min(first_seen);
        self.totals = totals;
    }

    /// Whether any sequence was observed, even one without a compared token.
    pub(super) fn has_seen_something(&self) -> bool {
        self.totals.sums.statistics.tokens > 0 || self.totals.verdicts.iter().any(|count| *count > 0)
    }

    pub(super) fn likeliest_cause(&self) -> Option<LikeliestCause> {
        let [mut recent, growing] = [&self.recent[0], &self.recent[1]].map(|generation| generation.run.clone());
        recent.merge(&growing);
        if let Some(Finding { cause, evidence, .. }) = recent.findings().into_iter().next() {
            return Some(LikeliestCause { cause: cause.as_str(), evidence });
        }
        let (cause, count) = self.diagnoses.iter().max_by_key(|(_, count)| **count)?;
        let all: u64 = self.diagnoses.values().sum();
        Some(LikeliestCause { cause, evidence: format!("ranked first in {count} of {all} diagnosed sequences") })
    }

    pub(super) fn summary(&self, now: Duration, key: GroupKey) -> GroupSummary {
        let drift = self.drift.as_ref().map(DriftDetector::state);
        GroupSummary {
            key,
            first_seen: self.first_seen,
            last_seen: self.last_seen,
            tokens: self.totals.sums.statistics.tokens,
            sequences: self.totals.sums.statistics.sequences,
            window: self.window.snapshot(now).statistics,
            totals: self.totals.sums.statistics.clone(),
            recent: self.timeline.latest(GroupSummary::RECENT),
            drift_score: drift.as_ref().map(|state| state.score),
            drift_alarm: drift.and_then(|state| state.alarm),
        }
    }

    pub(super) fn view(&self, now: Duration, key: GroupKey) -> GroupView {
        let drift = self.drift.as_ref().map(DriftDetector::state);
        let mut events: Vec<_> = self.events.iter().cloned().collect();
        if let Some(alarm) = drift.as_ref().and_then(|state| state.alarm.as_ref()) {
            // The detector judges kind and size again while the alarm lasts.
            for record in events.iter_mut().filter(|record| record.event.seen_sequence == alarm.seen_sequence) {
                record.event = alarm.clone();
            }
        }
        let [mut recent, growing] = self.recent.clone();
        recent.run.merge(&growing.run);
        recent.evidence.merge(&growing.evidence);
        GroupView {
            key,
            first_seen: self.first_seen,
            last_seen: self.last_seen,
            window: self.window.snapshot(now),
            totals: self.totals.sums.clone(),
            skipped: self.totals.skipped,
            verdicts: self.totals.verdicts,
            drift,
            events,
            timeline: self.timeline.points(),
            versions: self.versions.points(),
            earlier_versions: self.versions.rest(),
            workers: self.workers.points(),
            other_workers: self.workers.rest(),
            diagnoses: self.diagnoses.clone(),
            causes: recent.run.findings(),
            evidence: recent.evidence,
        }
    }
}
