//! Divergence per run and engine: gauges over a sliding window, and the monotone sums behind them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use plumbline_core::{SkipCounts, SkipReason};
use plumbline_divergence::{
    Cause, DeltaHistogram, DriftUpdate, Finding, GroupKey, GroupSummary, GroupTotals, GroupView, LikeliestCause,
    Monitor, MonitorConfig, SequenceComparison, SequenceSummary, SufficientStatistics, Verdict,
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

/// The monitor's time: monotone, and since before the first sequence that is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: SystemTime,
    /// Time since then when the process started.
    before: Duration,
    started: Instant,
}

impl Clock {
    /// A clock that begins at `origin`, or now if that is in the future: the time of day may have been set back.
    pub(crate) fn since(origin: SystemTime) -> Self {
        let now = SystemTime::now();
        let origin = origin.min(now);
        Self { origin, before: now.duration_since(origin).unwrap_or_default(), started: Instant::now() }
    }

    fn now(&self) -> Duration {
        self.before + self.started.elapsed()
    }

    /// A time of day on this clock, never later than now.
    fn time_of_day(&self, at: SystemTime) -> Duration {
        at.duration_since(self.origin).unwrap_or_default().min(self.now())
    }
}

/// Series of every run and engine. They exist, at zero, from the moment the reference is resident.
#[derive(Debug)]
pub(crate) struct DivergenceMetrics {
    registry: Registry,
    model_name: String,
    clock: Clock,
    /// Held while counters move and while a scrape reads, so that gauges and counters of one scrape are of one moment.
    /// Never held across an await.
    monitor: Mutex<Monitor>,
    /// One that has seen nothing and has room for everything.
    empty: Monitor,
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
    pub(crate) fn register(
        registry: &Registry,
        config: MonitorConfig,
        model_name: &str,
        clock: Clock,
    ) -> prometheus::Result<Self> {
        let gauges = GAUGES.iter().map(|spec| (spec.name, spec.help, spec.label));
        let counters = COUNTERS.iter().map(|spec| (spec.name, spec.help, spec.label));
        let (name, help) = names::ABS_LOG_RATIO;
        let options = HistogramOpts::new(name, help).buckets(DeltaHistogram::BOUNDS.to_vec());
        let abs_log_ratio = HistogramVec::new(options, &GROUP_LABELS)?;
        registry.register(Box::new(abs_log_ratio.clone()))?;
        let (name, help) = names::DRIFT_SCORE;
        let drift_score = GaugeVec::new(Opts::new(name, help), &GROUP_LABELS)?;
        registry.register(Box::new(drift_score.clone()))?;
        let new = |config| Monitor::new(config).map_err(|error| prometheus::Error::Msg(error.to_string()));
        let (monitor, empty) = (new(config)?, new(MonitorConfig { max_groups: usize::MAX, ..config })?);
        let labelled = |(name, help): names::Described, label| -> prometheus::Result<IntCounterVec> {
            let family = IntCounterVec::new(Opts::new(name, help), &label_names(Some((label, ""))))?;
            registry.register(Box::new(family.clone()))?;
            Ok(family)
        };
        let metrics = Self {
            registry: registry.clone(),
            model_name: model_name.to_owned(),
            clock,
            monitor: Mutex::new(monitor),
            empty,
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
        let now = self.clock.now();
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

    /// Takes the findings of diagnosed sequences, counts them by the cause that was ranked first, and says under which names.
    pub(crate) fn hear(&self, run: &str, engine: &str, diagnosed: &[&[Finding]]) -> GroupKey {
        let now = self.clock.now();
        let mut monitor = self.lock();
        self.expire(&mut monitor, now);
        let group = monitor.resolve(now, run, engine);
        let causes: Vec<_> = diagnosed.iter().filter_map(|found| Some(found.first()?.cause.as_str())).collect();
        self.count_causes(&group, &causes);
        monitor.hear(now, &group, diagnosed);
        group
    }

    /// Shows the monitor a sequence that was answered at some time before this process began. Counters do not move: they restart
    /// as counters do. To be called in the order of the sequences, before anything is observed.
    pub(crate) fn replay(&self, at: SystemTime, run: &str, engine: &str, sequence: &SequenceSummary) {
        let now = self.clock.time_of_day(at);
        let mut monitor = self.lock();
        // As it was then: groups that had gone made room for others.
        monitor.expire(now);
        let group = monitor.resolve(now, run, engine);
        monitor.observe(now, &group, std::slice::from_ref(sequence));
    }

    /// After the last replay: gives a group the sums of everything that was ever counted, and the series of what is known exist.
    pub(crate) fn replayed(&self, totals: Vec<(GroupKey, SystemTime, GroupTotals)>) {
        let mut monitor = self.lock();
        for (group, first_seen, totals) in totals {
            monitor.set_totals(&group, self.clock.time_of_day(first_seen), totals);
        }
        let now = self.clock.now();
        monitor.expire(now);
        for group in monitor.list(now) {
            self.count(&group.key, &Observation::default());
            self.count_causes(&group.key, &[]);
        }
    }

    /// What a monitor would show of a run that this one does not know: one that sees all its sequences now, as they are told by
    /// `replay`, and gets these sums.
    pub(crate) fn recall<E>(
        &self,
        run: &str,
        totals: Vec<(GroupKey, SystemTime, GroupTotals)>,
        replay: impl FnOnce(&mut dyn FnMut(SystemTime, &str, &str, &SequenceSummary)) -> Result<(), E>,
    ) -> Result<Vec<GroupView>, E> {
        let mut monitor = self.empty.clone();
        replay(&mut |at, run, engine, sequence| {
            let now = self.clock.time_of_day(at);
            let group = monitor.resolve(now, run, engine);
            monitor.observe(now, &group, std::slice::from_ref(sequence));
        })?;
        for (group, first_seen, totals) in totals {
            let now = self.clock.time_of_day(first_seen);
            let group = monitor.resolve(now, &group.run, &group.engine);
            monitor.set_totals(&group, now, totals);
        }
        Ok(monitor.view(self.clock.now(), run))
    }

    /// The label `model_name` of every series.
    pub(crate) fn model_name(&self) -> &str {
        &self.model_name
    }

    /// What is behind the differences of a group, as far as it is known.
    pub(crate) fn likeliest_cause(&self, group: &GroupKey) -> Option<LikeliestCause> {
        self.lock().likeliest_cause(group)
    }

    /// The groups that have seen something.
    pub(crate) fn groups(&self) -> Vec<GroupSummary> {
        self.lock().list(self.clock.now())
    }

    /// Everything that is known of a run, one view per engine; empty for a run that is not known.
    pub(crate) fn view(&self, run: &str) -> Vec<GroupView> {
        self.lock().view(self.clock.now(), run)
    }

    /// The time of day of a time in a view.
    pub(crate) fn time_of(&self, since_origin: Duration) -> SystemTime {
        self.clock.origin + since_origin
    }

    /// Everything in the registry as Prometheus text, with gauges of this moment.
    ///
    /// # Errors
    /// Metrics that cannot be encoded: a defect.
    pub(crate) fn scrape(&self) -> prometheus::Result<Vec<u8>> {
        let now = self.clock.now();
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
