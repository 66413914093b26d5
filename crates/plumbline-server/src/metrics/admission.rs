//! Who gets in, who is dropped, and what the reference's failures cost.

use std::time::Duration;

use plumbline_scheduler::{Class, DropReason, SubmitError};
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use super::names::{self, Described};
use super::service::{counter, gauge, histogram, registered};

/// Metrics of admission and of the model thread's restarts. Every series exists from the start.
#[derive(Clone, Debug)]
pub(super) struct AdmissionMetrics {
    queue_tokens: IntGaugeVec,
    queue_sequences: IntGaugeVec,
    wait_seconds: HistogramVec,
    refused: IntCounterVec,
    dropped_sequences: IntCounterVec,
    dropped_tokens: IntCounterVec,
    panics: IntCounter,
    quarantined: IntGauge,
    restarts: IntCounter,
    restart_seconds: Histogram,
    pub(super) version_wait_tokens: IntGauge,
}

impl AdmissionMetrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let gauges =
            |(name, help): Described| registered(registry, IntGaugeVec::new(Opts::new(name, help), &["class"])?);
        let counters = |(name, help): Described, labels: &[&str]| {
            registered(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let (name, help) = names::CLASS_WAIT_SECONDS;
        let options = HistogramOpts::new(name, help).buckets(names::SECONDS_BUCKETS.to_vec());
        let metrics = Self {
            queue_tokens: gauges(names::CLASS_QUEUE_TOKENS)?,
            queue_sequences: gauges(names::CLASS_QUEUE_SEQUENCES)?,
            wait_seconds: registered(registry, HistogramVec::new(options, &["class"])?)?,
            refused: counters(names::ADMISSION_REFUSED, &["class", "reason"])?,
            dropped_sequences: counters(names::SEQUENCES_DROPPED, &["reason"])?,
            dropped_tokens: counters(names::TOKENS_DROPPED, &["reason"])?,
            panics: counter(registry, names::MODEL_PANICS)?,
            quarantined: gauge(registry, names::QUARANTINED)?,
            restarts: counter(registry, names::MODEL_RESTARTS)?,
            restart_seconds: histogram(registry, names::MODEL_RESTART_SECONDS, &names::SECONDS_BUCKETS)?,
            version_wait_tokens: gauge(registry, names::VERSION_WAIT_TOKENS)?,
        };
        for class in Class::ALL.map(Class::as_str) {
            metrics.queue_tokens.get_metric_with_label_values(&[class])?;
            metrics.queue_sequences.get_metric_with_label_values(&[class])?;
            metrics.wait_seconds.get_metric_with_label_values(&[class])?;
            for reason in names::REFUSAL_REASONS {
                metrics.refused.get_metric_with_label_values(&[class, reason])?;
            }
        }
        for reason in DropReason::ALL.map(DropReason::as_str) {
            metrics.dropped_sequences.get_metric_with_label_values(&[reason])?;
            metrics.dropped_tokens.get_metric_with_label_values(&[reason])?;
        }
        Ok(metrics)
    }

    pub(super) fn queue_of(&self, class: Class, tokens: usize, sequences: usize) {
        self.queue_tokens.with_label_values(&[class.as_str()]).set(tokens as i64);
        self.queue_sequences.with_label_values(&[class.as_str()]).set(sequences as i64);
    }

    pub(super) fn waited(&self, class: Class, wait: Duration) {
        self.wait_seconds.with_label_values(&[class.as_str()]).observe(wait.as_secs_f64());
    }

    pub(super) fn refused(&self, class: Class, error: &SubmitError) {
        let reason = match error {
            SubmitError::QueueFull { .. } => "queue_full",
            SubmitError::TooSlow { .. } => "too_slow",
            SubmitError::Quarantined { .. } => "quarantined",
            SubmitError::Loading
            | SubmitError::Restarting { .. }
            | SubmitError::Draining
            | SubmitError::Failed { .. }
            | SubmitError::VersionUnavailable { .. } => "unavailable",
            SubmitError::TooLarge { .. } | SubmitError::SequenceTooLong { .. } => "invalid",
        };
        self.refused.with_label_values(&[class.as_str(), reason]).inc();
    }

    pub(super) fn dropped(&self, reason: DropReason, sequences: usize, tokens: usize) {
        self.dropped_sequences.with_label_values(&[reason.as_str()]).inc_by(sequences as u64);
        self.dropped_tokens.with_label_values(&[reason.as_str()]).inc_by(tokens as u64);
    }

    pub(super) fn panicked(&self, quarantined: usize) {
        self.panics.inc();
        self.quarantined.set(quarantined as i64);
    }

    pub(super) fn restarted(&self, took: Option<Duration>) {
        match took {
            None => self.restarts.inc(),
            Some(took) => self.restart_seconds.observe(took.as_secs_f64()),
        }
    }
}
