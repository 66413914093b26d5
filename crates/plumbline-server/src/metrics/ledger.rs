//! How the store is doing, and what waits in it.

use std::sync::{Arc, Mutex, PoisonError};

use plumbline_store::{ErrorKind, Statistics, Store, StoreState};
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::names::{self, Described};
use super::service::{counter, registered};

/// State where there is no store.
const NO_STORE: &str = "none";

/// Metrics of what is kept. Every series exists from the start, with or without a store.
#[derive(Clone, Debug)]
pub(crate) struct LedgerMetrics {
    /// Requests that were answered from what is kept.
    pub(crate) requests_repeated: IntCounter,
    /// Sequences that were scored again and not counted again.
    pub(crate) sequences_repeated: IntCounter,
    /// Answers that were sent without being stored.
    pub(crate) unstored: IntCounter,
    jobs: IntGaugeVec,
    jobs_finished: IntCounterVec,
    state: IntGaugeVec,
    errors: IntCounterVec,
    bytes: IntGaugeVec,
    rows: IntGaugeVec,
    removed: IntCounterVec,
    waiting_writes: IntGauge,
    writes: IntCounter,
    commits: IntCounter,
    /// What the counters of the store stood at when they were shown last.
    shown: Arc<Mutex<Shown>>,
}

#[derive(Clone, Debug, Default)]
struct Shown {
    errors: [u64; ErrorKind::ALL.len()],
    removed: [u64; 3],
    writes: u64,
    commits: u64,
}

impl LedgerMetrics {
    /// Registers everything.
    ///
    /// # Errors
    /// A name that the registry already has.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let gauges = |(name, help): Described, label: &str| {
            registered(registry, IntGaugeVec::new(Opts::new(name, help), &[label])?)
        };
        let counters = |(name, help): Described, label: &str| {
            registered(registry, IntCounterVec::new(Opts::new(name, help), &[label])?)
        };
        let (name, help) = names::STORE_WAITING_WRITES;
        let repeated = counters(names::REPEATED, "what")?;
        let metrics = Self {
            requests_repeated: repeated.with_label_values(&["request"]),
            sequences_repeated: repeated.with_label_values(&["sequence"]),
            unstored: counter(registry, names::UNSTORED)?,
            jobs: gauges(names::JOBS, "state")?,
            jobs_finished: counters(names::JOBS_FINISHED, "outcome")?,
            state: gauges(names::STORE_STATE, "state")?,
            errors: counters(names::STORE_ERRORS, "kind")?,
            bytes: gauges(names::STORE_BYTES, "part")?,
            rows: gauges(names::STORE_ROWS, "table")?,
            removed: counters(names::STORE_REMOVED, "what")?,
            waiting_writes: registered(registry, IntGauge::new(name, help)?)?,
            writes: counter(registry, names::STORE_WRITES)?,
            commits: counter(registry, names::STORE_COMMITS)?,
            shown: Arc::default(),
        };
        for outcome in ["done", "failed"] {
            metrics.jobs_finished.get_metric_with_label_values(&[outcome])?;
        }
        metrics.show(None);
        Ok(metrics)
    }

    /// A job has ended.
    pub(crate) fn job(&self, outcome: &str) {
        self.jobs_finished.with_label_values(&[outcome]).inc();
    }

    /// Brings everything up to date with the store, if there is one.
    pub(crate) fn show(&self, store: Option<&Store>) {
        let own = store.map(Store::state);
        let name = own.as_ref().map_or(NO_STORE, StoreState::as_str);
        for state in StoreState::NAMES.into_iter().chain([NO_STORE]) {
            self.state.with_label_values(&[state]).set(i64::from(state == name));
        }
        let statistics = store.map(Store::statistics).unwrap_or_default();
        let set = |family: &IntGaugeVec, label: &str, value: u64| {
            family.with_label_values(&[label]).set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&self.jobs, "queued", statistics.queued);
        set(&self.jobs, "running", statistics.running);
        set(&self.bytes, "file", statistics.file_bytes);
        set(&self.bytes, "wal", statistics.wal_bytes);
        set(&self.bytes, "content", statistics.content_bytes);
        set(&self.rows, "sequences", statistics.sequences);
        set(&self.rows, "tokens", statistics.token_rows);
        self.waiting_writes.set(i64::try_from(statistics.waiting_writes).unwrap_or(i64::MAX));
        self.count(&statistics);
    }

    fn count(&self, statistics: &Statistics) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for ((kind, now), before) in ErrorKind::ALL.into_iter().zip(statistics.errors).zip(&mut shown.errors) {
            self.errors.with_label_values(&[kind.as_str()]).inc_by(grown(before, now));
        }
        let removed = [
            ("sequences", statistics.removed_sequences),
            ("tokens", statistics.removed_token_rows),
            ("answers", statistics.removed_responses),
        ];
        for ((what, now), before) in removed.into_iter().zip(&mut shown.removed) {
            self.removed.with_label_values(&[what]).inc_by(grown(before, now));
        }
        self.writes.inc_by(grown(&mut shown.writes, statistics.writes));
        self.commits.inc_by(grown(&mut shown.commits, statistics.commits));
    }
}

/// By how much a monotone count has grown since it was looked at last.
fn grown(before: &mut u64, now: u64) -> u64 {
    let by = now.saturating_sub(*before);
    *before = now.max(*before);
    by
}
