//! Divergence per run and engine: gauges over a sliding window, and the monotone sums behind them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use plumbline_core::{SkipCounts, SkipReason};
use plumbline_divergence::{
    Cause, DeltaHistogram, DriftUpdate, Finding, GroupKey, GroupSummary, GroupView, Monitor, MonitorConfig,
    SequenceComparison, SequenceSummary, SufficientStatistics, Verdict,
};
use prometheus::core::Collector;
use prometheus::{
    CounterVec, Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder,
};

use super::names::{self, COUNTERS, ExtraLabel, GAUGES, GROUP_LABELS};

/// What one answered request adds.
#[derive(Debug, Default)]
pub(crate) struct Observation {
    sequences: Vec<SequenceSummary>,
    abs_log_ratios: Vec<f64>,
}

impl Observation {
    /// Adds one sequence: its tokens, and its summary.
    pub(crate) fn add(&mut self, comparison: &SequenceComparison, summary: SequenceSummary) {
        let compared = comparison.tokens.iter().filter_map(|token| token.compared());
        self.abs_log_ratios.extend(compared.map(|(engine, reference)| (reference - engine).abs()));
        self.sequences.push(summary);
    }
}

/// Series of every run and engine. They exist, at zero, from the moment the reference is resident.
#[derive(Debug)]
pub(crate) struct DivergenceMetrics {
    registry: Registry,
    model_name: String,
    started: Instant,
    started_at: SystemTime,
    /// Held while counters move and while a scrape reads, so that gauges and counters of one scrape are of one moment.
    /// Never held across an await.
    monitor: Mutex<Monitor>,
    /// The family of each of [`GAUGES`].
    gauges: Vec<GaugeVec>,
    /// The family of each of [`COUNTERS`].
    counters: Vec<CounterVec>,
    drift_score: GaugeVec,
    abs_log_ratio: HistogramVec,
    skipped: IntCounterVec,
    sequences: IntCounterVec,
    diagnoses: IntCounterVec,
}

impl DivergenceMetrics {
    /// Registers everything, with the series of the group `other`.
    ///
    /// # Errors
    /// A name that the registry already has, or drift settings without meaning.
    pub(crate) fn register(registry: &Registry, config: MonitorConfig, model_name: &str) -> prometheus::Result<Self> {
        let gauges = GAUGES.iter().map(|spec| (spec.name, spec.help, spec.label));
        let counters = COUNTERS.iter().map(|spec| (spec.name, spec.help, spec.label));
        let (name, help) = names::ABS_LOG_RATIO;
        let options = HistogramOpts::new(name, help).buckets(DeltaHistogram::BOUNDS.to_vec());
        let abs_log_ratio = HistogramVec::new(options, &GROUP_LABELS)?;
        registry.register(Box::new(abs_log_ratio.clone()))?;
        let (name, help) = names::DRIFT_SCORE;
        let drift_score = GaugeVec::new(Opts::new(name, help), &GROUP_LABELS)?;
        registry.register(Box::new(drift_score.clone()))?;
        let monitor = Monitor::new(config).map_err(|error| prometheus::Error::Msg(error.to_string()))?;
        let labelled = |(name, help): names::Described, label| -> prometheus::Result<IntCounterVec> {
            let family = IntCounterVec::new(Opts::new(name, help), &label_names(Some((label, ""))))?;
            registry.register(Box::new(family.clone()))?;
            Ok(family)
        };
        let metrics = Self {
            registry: registry.clone(),
            model_name: model_name.to_owned(),
            started: Instant::now(),
            started_at: SystemTime::now(),
            monitor: Mutex::new(monitor),
            gauges: families(registry, gauges, GaugeVec::new)?,
            counters: families(registry, counters, CounterVec::new)?,
            drift_score,
            abs_log_ratio,
            skipped: labelled(names::TOKENS_SKIPPED, "reason")?,
            sequences: labelled(names::SEQUENCES, "verdict")?,
            diagnoses: labelled(names::DIAGNOSES, "cause")?,
        };
        metrics.count(&GroupKey::other(), &Observation::default());
        metrics.count_causes(&GroupKey::other(), &[]);
        Ok(metrics)
    }

    /// Counts an answered request, and says under which names.
    pub(crate) fn observe(&self, run: &str, engine: &str, observation: &Observation) -> GroupKey {
        let now = self.started.elapsed();
        let mut monitor = self.lock();
        self.expire(&mut monitor, now);
        let group = monitor.resolve(now, run, engine);
        self.count(&group, observation);
        self.count_causes(&group, &[]);
        for update in monitor.observe(now, &group, &observation.sequences) {
            log_drift(&group, &update);
        }
        group
    }

    /// Takes the findings of diagnosed sequences, and counts them by the cause that was ranked first.
    pub(crate) fn hear(&self, run: &str, engine: &str, diagnosed: &[&[Finding]]) {
        let now = self.started.elapsed();
        let mut monitor = self.lock();
        self.expire(&mut monitor, now);
        let group = monitor.resolve(now, run, engine);
        let causes: Vec<_> = diagnosed.iter().filter_map(|found| Some(found.first()?.cause.as_str())).collect();
        self.count_causes(&group, &causes);
        monitor.hear(now, &group, diagnosed);
    }

    /// The groups that have seen something.
    pub(crate) fn groups(&self) -> Vec<GroupSummary> {
        self.lock().list(self.started.elapsed())
    }

    /// Everything that is known of a run, one view per engine; empty for a run that is not known.
    pub(crate) fn view(&self, run: &str) -> Vec<GroupView> {
        self.lock().view(self.started.elapsed(), run)
    }

    /// The time of day of a time in a view.
    pub(crate) fn time_of(&self, since_start: Duration) -> SystemTime {
        self.started_at + since_start
    }

    /// Everything in the registry as Prometheus text, with gauges of this moment.
    ///
    /// # Errors
    /// Metrics that cannot be encoded: a defect.
    pub(crate) fn scrape(&self) -> prometheus::Result<Vec<u8>> {
        let now = self.started.elapsed();
        let mut monitor = self.lock();
        self.expire(&mut monitor, now);
        for GroupSummary { key: group, window: statistics, drift_score, .. } in monitor.gauges(now) {
            self.drift_score.with_label_values(&self.labels(&group, None)).set(drift_score.unwrap_or(f64::NAN));
            for (spec, family) in GAUGES.iter().zip(&self.gauges) {
                let value = (spec.value)(&statistics).unwrap_or(f64::NAN);
                family.with_label_values(&self.labels(&group, spec.label)).set(value);
            }
        }
        encode(&self.registry)
    }

    fn lock(&self) -> MutexGuard<'_, Monitor> {
        // Sums are plain additions: a panic elsewhere cannot have left them half done in a way that matters more than
        // going without metrics.
        self.monitor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, group: &GroupKey, observation: &Observation) {
        let mut statistics = SufficientStatistics::default();
        let mut skipped = SkipCounts::default();
        for sequence in &observation.sequences {
            statistics.merge(&sequence.statistics);
            skipped.merge(&sequence.skipped);
        }
        let sums = statistics.counters();
        for ((spec, family), (field, value)) in COUNTERS.iter().zip(&self.counters).zip(sums) {
            debug_assert_eq!(spec.field, field, "COUNTERS lists the statistics in their order");
            family.with_label_values(&self.labels(group, spec.label)).inc_by(value);
        }
        let histogram = self.abs_log_ratio.with_label_values(&self.labels(group, None)).local();
        observation.abs_log_ratios.iter().for_each(|value| histogram.observe(*value));
        histogram.flush();
        for reason in SkipReason::ALL {
            let labels = self.labels(group, Some(("reason", reason.as_str())));
            self.skipped.with_label_values(&labels).inc_by(skipped.get(reason));
        }
        for verdict in Verdict::ALL {
            let count = observation.sequences.iter().filter(|own| own.verdict == Some(verdict)).count();
            let labels = self.labels(group, Some(("verdict", verdict.as_str())));
            self.sequences.with_label_values(&labels).inc_by(count as u64);
        }
    }

    fn count_causes(&self, group: &GroupKey, causes: &[&str]) {
        for cause in Cause::ALL.map(Cause::as_str) {
            let count = causes.iter().filter(|own| **own == cause).count();
            self.diagnoses.with_label_values(&self.labels(group, Some(("cause", cause)))).inc_by(count as u64);
        }
    }

    fn expire(&self, monitor: &mut Monitor, now: Duration) {
        for group in monitor.expire(now) {
            tracing::debug!(run = group.run, engine = group.engine, "removing the series of an idle run");
            // A series that does not exist (a gauge that was never scraped) needs no removal: the results do not
            // matter.
            for (spec, family) in GAUGES.iter().zip(&self.gauges) {
                let _ = family.remove_label_values(&self.labels(&group, spec.label));
            }
            for (spec, family) in COUNTERS.iter().zip(&self.counters) {
                let _ = family.remove_label_values(&self.labels(&group, spec.label));
            }
            let _ = self.drift_score.remove_label_values(&self.labels(&group, None));
            for cause in Cause::ALL.map(Cause::as_str) {
                let _ = self.diagnoses.remove_label_values(&self.labels(&group, Some(("cause", cause))));
            }
            let _ = self.abs_log_ratio.remove_label_values(&self.labels(&group, None));
            for reason in SkipReason::ALL {
                let _ = self.skipped.remove_label_values(&self.labels(&group, Some(("reason", reason.as_str()))));
            }
            for verdict in Verdict::ALL {
                let _ = self.sequences.remove_label_values(&self.labels(&group, Some(("verdict", verdict.as_str()))));
            }
        }
    }

    fn labels<'a>(&'a self, group: &'a GroupKey, extra: ExtraLabel) -> Vec<&'a str> {
        let own = [group.run.as_str(), group.engine.as_str(), self.model_name.as_str()];
        own.into_iter().chain(extra.map(|(_, value)| value)).collect()
    }
}

/// Says in the log what drift began or ended.
fn log_drift(group: &GroupKey, update: &DriftUpdate) {
    let (run, engine) = (&group.run, &group.engine);
    match update {
        DriftUpdate::Began(event) => tracing::warn!(
            run,
            engine,
            direction = ?event.direction,
            kind = ?event.kind,
            size = event.size,
            policy_version = event.policy_version,
            sequence = event.began_sequence,
            "the level of |d| changed"
        ),
        DriftUpdate::Ended(event) => {
            tracing::info!(run, engine, direction = ?event.direction, kind = ?event.kind, "a change of the level of |d| is over");
        }
    }
}

/// The registry as Prometheus text.
///
/// # Errors
/// Metrics that cannot be encoded: a defect.
pub(crate) fn encode(registry: &Registry) -> prometheus::Result<Vec<u8>> {
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text)?;
    Ok(text)
}

/// The family of each spec, in order; specs that share a name share a family.
fn families<V: Collector + Clone + 'static>(
    registry: &Registry,
    specs: impl Iterator<Item = (&'static str, &'static str, ExtraLabel)>,
    create: fn(Opts, &[&str]) -> prometheus::Result<V>,
) -> prometheus::Result<Vec<V>> {
    let mut families: Vec<(&str, V)> = Vec::new();
    for (name, help, label) in specs {
        let family = match families.iter().find(|(known, _)| *known == name) {
            Some((_, family)) => family.clone(),
            None => {
                let family = create(Opts::new(name, help), &label_names(label))?;
                registry.register(Box::new(family.clone()))?;
                family
            }
        };
        families.push((name, family));
    }
    Ok(families.into_iter().map(|(_, family)| family).collect())
}

fn label_names(extra: ExtraLabel) -> Vec<&'static str> {
    GROUP_LABELS.into_iter().chain(extra.map(|(name, _)| name)).collect()
}
