//! How the service itself is doing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use plumbline_core::{ModelError, ReferenceInfo};
use plumbline_scheduler::{BatchObservation, Class, DropReason, Observer, Residents, SubmitError};
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::Collector,
};

use super::admission::AdmissionMetrics;
use super::names::{self, Described};
use crate::floor::FloorState;
use crate::listen::Closing;
use crate::reload::Credential;

/// Metrics of requests, queue, batches and the process.
#[derive(Clone, Debug)]
pub(crate) struct ServiceMetrics {
    queue_tokens: IntGauge,
    queue_limit_tokens: IntGauge,
    queue_sequences: IntGauge,
    queue_wait_seconds: Histogram,
    batch_tokens: Histogram,
    batch_sequences: Histogram,
    batches_failed: IntCounter,
    batch_splits: IntCounter,
    oom_backoffs: IntCounter,
    prefix_tokens_saved: IntCounter,
    forward_seconds: Histogram,
    head_seconds: Histogram,
    cancelled_sequences: IntCounter,
    cancelled_tokens: IntCounter,
    admission: AdmissionMetrics,
    request_seconds: HistogramVec,
    requests_in_flight: IntGauge,
    requests_cancelled: IntCounter,
    connections: IntGauge,
    connections_closed: IntCounterVec,
    event_streams: IntGauge,
    body_bytes: IntGauge,
    credential_reloads: IntCounterVec,
    weight_swaps: IntCounter,
    weight_failures: IntCounter,
    weight_load_seconds: Histogram,
    versions: IntGauge,
    weight_bytes: IntGauge,
    reference_info: IntGaugeVec,
    aside_seconds: Histogram,
    floor_state: IntGaugeVec,
    diagnoses_waiting: IntGauge,
    diagnoses_dropped: IntCounter,
    diagnosis_tokens: IntCounter,
    /// Labels of the one series of `reference_info`.
    shown_reference: Arc<Mutex<Option<[String; 5]>>>,
}

impl ServiceMetrics {
    /// Registers everything. `routes` are the known ones, whose series exist from now on.
    ///
    /// # Errors
    /// A name that the registry already has.
    pub(crate) fn register<'a>(
        registry: &Registry,
        routes: impl IntoIterator<Item = &'a str>,
    ) -> prometheus::Result<Self> {
        let seconds = |described| histogram(registry, described, &names::SECONDS_BUCKETS);
        let (name, help) = names::REQUEST_SECONDS;
        let options = HistogramOpts::new(name, help).buckets(names::SECONDS_BUCKETS.to_vec());
        let request_seconds = registered(registry, HistogramVec::new(options, &["route", "status"])?)?;
        for route in routes {
            request_seconds.get_metric_with_label_values(&[route, "200"])?;
        }
        let (name, help) = names::REFERENCE_INFO;
        let reference_info = registered(registry, IntGaugeVec::new(Opts::new(name, help), &names::REFERENCE_LABELS)?)?;
        let (name, help) = names::FLOOR_STATE;
        let floor_state = registered(registry, IntGaugeVec::new(Opts::new(name, help), &["state"])?)?;
        for state in FloorState::ALL {
            floor_state.get_metric_with_label_values(&[state.as_str()])?;
        }
        let closings = Closing::ALL.map(|reason| [reason.as_str()]);
        let reloads =
            Credential::ALL.map(|credential| ["applied", "refused"].map(|outcome| [credential.as_str(), outcome]));
        let reloads = reloads.concat();
        register_build_info(registry)?;
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(Self {
            queue_tokens: gauge(registry, names::QUEUE_TOKENS)?,
            queue_limit_tokens: gauge(registry, names::QUEUE_LIMIT_TOKENS)?,
            queue_sequences: gauge(registry, names::QUEUE_SEQUENCES)?,
            queue_wait_seconds: seconds(names::QUEUE_WAIT_SECONDS)?,
            batch_tokens: histogram(registry, names::BATCH_TOKENS, &names::BATCH_TOKENS_BUCKETS)?,
            batch_sequences: histogram(registry, names::BATCH_SEQUENCES, &names::BATCH_SEQUENCES_BUCKETS)?,
            batches_failed: counter(registry, names::BATCHES_FAILED)?,
            batch_splits: counter(registry, names::BATCH_SPLITS)?,
            oom_backoffs: counter(registry, names::OOM_BACKOFFS)?,
            prefix_tokens_saved: counter(registry, names::PREFIX_TOKENS_SAVED)?,
            forward_seconds: seconds(names::FORWARD_SECONDS)?,
            head_seconds: seconds(names::HEAD_SECONDS)?,
            cancelled_sequences: counter(registry, names::CANCELLED_SEQUENCES)?,
            cancelled_tokens: counter(registry, names::CANCELLED_TOKENS)?,
            admission: AdmissionMetrics::register(registry)?,
            request_seconds,
            requests_in_flight: gauge(registry, names::REQUESTS_IN_FLIGHT)?,
            requests_cancelled: counter(registry, names::REQUESTS_CANCELLED)?,
            connections: gauge(registry, names::CONNECTIONS)?,
            connections_closed: counters(registry, names::CONNECTIONS_CLOSED, &["reason"], &closings)?,
            event_streams: gauge(registry, names::EVENT_STREAMS)?,
            body_bytes: gauge(registry, names::BODY_BYTES)?,
            credential_reloads: counters(registry, names::CREDENTIAL_RELOADS, &["credential", "outcome"], &reloads)?,
            weight_swaps: counter(registry, names::WEIGHT_SWAPS)?,
            weight_failures: counter(registry, names::WEIGHT_FAILURES)?,
            weight_load_seconds: seconds(names::WEIGHT_LOAD_SECONDS)?,
            versions: gauge(registry, names::REFERENCE_VERSIONS)?,
            weight_bytes: gauge(registry, names::WEIGHT_BYTES)?,
            reference_info,
            aside_seconds: seconds(names::ASIDE_SECONDS)?,
            floor_state,
            diagnoses_waiting: gauge(registry, names::DIAGNOSES_WAITING)?,
            diagnoses_dropped: counter(registry, names::DIAGNOSES_DROPPED)?,
            diagnosis_tokens: counter(registry, names::DIAGNOSIS_TOKENS)?,
            shown_reference: Arc::default(),
        })
    }

    /// Names the resident reference; the series of an earlier one goes.
    pub(crate) fn set_reference(&self, info: &ReferenceInfo) {
        let labels =
            [&info.model, &info.dtype, &info.head_dtype, &info.device, &info.policy_version].map(String::clone);
        let mut shown = self.shown_reference.lock().unwrap_or_else(PoisonError::into_inner);
        // The new one first: no scrape must find none.
        self.reference_info.with_label_values(&labels).set(1);
        if let Some(earlier) = shown.replace(labels.clone()).filter(|earlier| *earlier != labels) {
            // It was set under this lock, so it is there.
            let _ = self.reference_info.remove_label_values(&earlier.each_ref().map(String::as_str));
        }
    }

    /// How far the noise floor of the current version is.
    pub(crate) fn set_floor_state(&self, state: FloorState) {
        for other in FloorState::ALL {
            self.floor_state.with_label_values(&[other.as_str()]).set(i64::from(other == state));
        }
    }

    /// How far the noise floor of the current version is; `None` before the reference is resident.
    pub(crate) fn floor_state(&self) -> Option<FloorState> {
        FloorState::ALL.into_iter().find(|state| self.floor_state.with_label_values(&[state.as_str()]).get() == 1)
    }

    /// How many tokens may wait: what the queue's length is to be compared with.
    pub(crate) fn queue_limit(&self, tokens: usize) {
        self.queue_limit_tokens.set(i64::try_from(tokens).unwrap_or(i64::MAX));
    }

    /// So many requests wait to be diagnosed.
    pub(crate) fn diagnoses_waiting(&self, waiting: usize) {
        self.diagnoses_waiting.set(waiting as i64);
    }

    /// A suspicious request will not be diagnosed.
    pub(crate) fn diagnosis_dropped(&self) {
        self.diagnoses_dropped.inc();
    }

    /// So many tokens were scored again for a diagnosis.
    pub(crate) fn diagnosis_probed(&self, tokens: usize) {
        self.diagnosis_tokens.inc_by(tokens as u64);
    }

    /// A checkpoint has become the current version.
    pub(crate) fn weights_loaded(&self, took: Duration) {
        self.weight_load_seconds.observe(took.as_secs_f64());
    }

    /// A checkpoint was refused.
    pub(crate) fn weights_refused(&self) {
        self.weight_failures.inc();
    }

    /// So many more tokens wait for a version of the weights.
    pub(crate) fn version_wait_tokens(&self, more: i64) {
        self.admission.version_wait_tokens.add(more);
    }

    /// The gauge of bytes that bodies hold.
    pub(crate) fn body_bytes(&self) -> IntGauge {
        self.body_bytes.clone()
    }

    /// So many connections are open.
    pub(crate) fn connections(&self, open: usize) {
        self.connections.set(open as i64);
    }

    /// The server closed or refused a connection.
    pub(crate) fn connection_closed(&self, reason: Closing) {
        self.connections_closed.with_label_values(&[reason.as_str()]).inc();
    }

    /// The gauge of open streams of live updates.
    pub(crate) fn event_streams(&self) -> &IntGauge {
        &self.event_streams
    }

    /// A file of credentials has changed.
    pub(crate) fn credential_reloaded(&self, credential: Credential, applied: bool) {
        let outcome = if applied { "applied" } else { "refused" };
        self.credential_reloads.with_label_values(&[credential.as_str(), outcome]).inc();
    }

    /// An answered request.
    pub(crate) fn request(&self, route: &str, status: u16, took: Duration) {
        self.request_seconds.with_label_values(&[route, &status.to_string()]).observe(took.as_secs_f64());
    }

    /// Counts a request as in flight while the guard lives, and as cancelled if it is dropped unanswered.
    pub(crate) fn in_flight(&self, counted: bool) -> InFlight {
        if counted {
            self.requests_in_flight.inc();
        }
        InFlight {
            gauge: counted.then(|| self.requests_in_flight.clone()),
            cancelled: Some(self.requests_cancelled.clone()),
        }
    }
}

/// Handlers are dropped, not told, when their client leaves: only a guard sees both ends.
#[derive(Debug)]
pub(crate) struct InFlight {
    gauge: Option<IntGauge>,
    cancelled: Option<IntCounter>,
}

impl InFlight {
    /// The request was answered.
    pub(crate) fn answered(mut self) {
        self.cancelled = None;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(gauge) = &self.gauge {
            gauge.dec();
        }
        if let Some(cancelled) = &self.cancelled {
            cancelled.inc();
        }
    }
}

impl Observer for ServiceMetrics {
    fn queue(&self, tokens: usize, sequences: usize) {
        self.queue_tokens.set(tokens as i64);
        self.queue_sequences.set(sequences as i64);
    }

    fn queue_of(&self, class: Class, tokens: usize, sequences: usize) {
        self.admission.queue_of(class, tokens, sequences);
    }

    fn queue_wait(&self, class: Class, wait: Duration) {
        self.queue_wait_seconds.observe(wait.as_secs_f64());
        self.admission.waited(class, wait);
    }

    fn refused(&self, class: Class, error: &SubmitError) {
        self.admission.refused(class, error);
    }

    fn batch(&self, batch: &BatchObservation) {
        self.batch_tokens.observe(batch.tokens as f64);
        self.batch_sequences.observe(batch.sequences as f64);
        if batch.failed {
            self.batches_failed.inc();
        } else {
            self.prefix_tokens_saved.inc_by(batch.saved_tokens as u64);
            self.forward_seconds.observe(batch.timing.forward.as_secs_f64());
            self.head_seconds.observe(batch.timing.head.as_secs_f64());
        }
    }

    fn out_of_memory(&self) {
        self.oom_backoffs.inc();
    }

    fn aside(&self, elapsed: Duration) {
        self.aside_seconds.observe(elapsed.as_secs_f64());
    }

    fn swapped(&self, current: &ReferenceInfo) {
        self.weight_swaps.inc();
        self.set_reference(current);
    }

    fn residents(&self, residents: &Residents) {
        self.versions.set(residents.kept().len() as i64);
        self.weight_bytes.set(i64::try_from(residents.weight_bytes()).unwrap_or(i64::MAX));
    }

    fn dropped(&self, reason: DropReason, sequences: usize, tokens: usize) {
        self.admission.dropped(reason, sequences, tokens);
        if reason == DropReason::Disconnected {
            self.cancelled_sequences.inc_by(sequences as u64);
            self.cancelled_tokens.inc_by(tokens as u64);
        }
    }

    fn panicked(&self, quarantined: usize) {
        self.admission.panicked(quarantined);
    }

    fn restarted(&self, took: Option<Duration>) {
        self.admission.restarted(took);
    }

    fn batch_split(&self, _sequences: usize, _cause: &ModelError) {
        self.batch_splits.inc();
    }
}

/// Counters of which every series exists from now on.
fn counters<const N: usize>(
    registry: &Registry,
    (name, help): Described,
    labels: &[&str; N],
    series: &[[&str; N]],
) -> prometheus::Result<IntCounterVec> {
    let counters = registered(registry, IntCounterVec::new(Opts::new(name, help), labels)?)?;
    for values in series {
        counters.get_metric_with_label_values(values)?;
    }
    Ok(counters)
}

fn register_build_info(registry: &Registry) -> prometheus::Result<()> {
    let (name, help) = names::BUILD_INFO;
    let info = registered(registry, IntGaugeVec::new(Opts::new(name, help), &["version", "revision"])?)?;
    let revision = option_env!("BUILD_REVISION").unwrap_or("unknown");
    info.get_metric_with_label_values(&[env!("CARGO_PKG_VERSION"), revision])?.set(1);
    Ok(())
}

pub(super) fn registered<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> prometheus::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

pub(super) fn gauge(registry: &Registry, (name, help): Described) -> prometheus::Result<IntGauge> {
    registered(registry, IntGauge::new(name, help)?)
}

pub(super) fn counter(registry: &Registry, (name, help): Described) -> prometheus::Result<IntCounter> {
    registered(registry, IntCounter::new(name, help)?)
}

pub(super) fn histogram(
    registry: &Registry,
    (name, help): Described,
    buckets: &[f64],
) -> prometheus::Result<Histogram> {
    registered(registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?)
}
