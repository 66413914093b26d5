//! What all handlers share.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Bytes;
use plumbline_core::{ReferenceInfo, TokenText};
use plumbline_divergence::diagnose;
use plumbline_probe::RecentTraffic;
use plumbline_scheduler::{Scheduler, SchedulerState};
use prometheus::Registry;
use tokio::sync::{Semaphore, watch};

use crate::alerts::Alerts;
use crate::body::{Bodies, RequestLimits};
use crate::config::Config;
use crate::diagnosis::{Diagnose, Diagnoses, Heard};
use crate::findings::Findings;
use crate::floor::FloorState;
use crate::floors::NoiseFloors;
use crate::jobs::Jobs;
use crate::ledger::{Ledger, clock, replay};
use crate::live::Live;
use crate::metrics::{DivergenceMetrics, ServiceMetrics, encode};
use crate::problem::{Code, Problem};
use crate::reports::Reports;
use crate::sequences::SequenceStore;
use crate::serve::ServerError;
use crate::verify::VersionsWaitedFor;
use crate::weights::{ResidentFacts, Weights, knowledge_of};

/// Tables of tokens that are sent at a time: each holds a row group in memory, and a connection to the store from time to time.
const TOKEN_TABLES: usize = 2;

/// How soon a client may look again while the reference loads.
const LOADING_RETRY: Duration = Duration::from_secs(2);

/// How soon a client may try again when this server is going or broken: by then another one should answer.
const GONE_RETRY: Duration = Duration::from_secs(5);

/// What all handlers share.
pub(crate) struct AppState {
    pub(crate) config: Config,
    pub(crate) scheduler: Scheduler,
    pub(crate) metrics: ServiceMetrics,
    pub(crate) weights: Weights,
    /// What bodies may take of the memory.
    pub(crate) bodies: Bodies,
    /// The noise floors that were measured.
    pub(crate) floors: NoiseFloors,
    /// What was answered and counted.
    pub(crate) ledger: Ledger,
    /// What the service tells by itself when something is wrong.
    pub(crate) alerts: Alerts,
    /// Accepted verifications that are worked on.
    pub(crate) jobs: Jobs,
    /// Recent sequences, token by token.
    pub(crate) sequences: SequenceStore,
    /// What was found out about sequences.
    pub(crate) findings: Arc<Findings>,
    /// Which runs have changed.
    pub(crate) live: Arc<Live>,
    /// Room for streams of live updates.
    pub(crate) event_streams: Arc<Semaphore>,
    /// Room for tables of tokens that are being sent.
    pub(crate) token_tables: Arc<Semaphore>,
    /// Reports of runs, made one at a time.
    pub(crate) reports: Reports,
    /// What waits for versions of the weights that are not there yet.
    pub(crate) versions_waited_for: VersionsWaitedFor,
    /// The OpenAPI document, serialised.
    pub(crate) openapi: Bytes,
    /// Turns true when the server starts to drain.
    pub(crate) drain: watch::Receiver<bool>,
    registry: Registry,
    facts: Option<ResidentFacts>,
    resident: OnceLock<Resident>,
}

/// What is known once the reference is resident, and the same for all versions of its weights.
#[derive(Debug)]
pub(crate) struct Resident {
    pub(crate) limits: RequestLimits,
    pub(crate) divergence: Arc<DivergenceMetrics>,
    pub(crate) recent: RecentTraffic,
    pub(crate) diagnoses: Diagnoses,
    /// The text of its tokens, if it has a tokenizer.
    pub(crate) text: Option<Arc<dyn TokenText>>,
}

impl AppState {
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of the service, each made elsewhere and put together once"
    )]
    pub(crate) fn new(
        config: Config,
        scheduler: Scheduler,
        registry: Registry,
        metrics: ServiceMetrics,
        weights: Weights,
        ledger: Ledger,
        alerts: Alerts,
        openapi: Bytes,
        drain: watch::Receiver<bool>,
    ) -> Self {
        let versions_waited_for = VersionsWaitedFor::new(metrics.clone());
        Self {
            bodies: Bodies::new(&config, metrics.body_bytes()),
            event_streams: Arc::new(Semaphore::new(config.max_event_streams)),
            token_tables: Arc::new(Semaphore::new(TOKEN_TABLES)),
            config,
            scheduler,
            metrics,
            versions_waited_for,
            weights,
            floors: NoiseFloors::default(),
            ledger,
            alerts,
            jobs: Jobs::default(),
            sequences: SequenceStore::default(),
            findings: Arc::default(),
            live: Arc::default(),
            reports: Reports::default(),
            openapi,
            drain,
            registry,
            facts: None,
            resident: OnceLock::new(),
        }
    }

    /// The same with somebody who knows more about the model than the reference says.
    pub(crate) fn with_facts(self, facts: Option<ResidentFacts>) -> Self {
        Self { facts, ..self }
    }

    /// How long a request waits for a version of the weights that is not there yet.
    pub(crate) fn version_patience(&self) -> Duration {
        match self.weights.can_follow() {
            true => Duration::from_secs(self.config.version_wait_seconds),
            false => Duration::ZERO,
        }
    }

    /// Takes note of the resident reference, and lets the monitor see again what is stored; from now on the server is ready. Blocks.
    ///
    /// # Errors
    /// Metrics that are registered already: a defect. The thread for diagnoses cannot be started. The store cannot be read.
    pub(crate) fn set_resident(&self, info: &ReferenceInfo) -> Result<&Resident, ServerError> {
        self.set_resident_with(info, diagnose)
    }

    /// The same with another search for causes.
    pub(crate) fn set_resident_with(&self, info: &ReferenceInfo, diagnose: Diagnose) -> Result<&Resident, ServerError> {
        let clock = clock(&self.ledger)?;
        let divergence = DivergenceMetrics::register(&self.registry, self.config.monitor(), &info.model, clock)?;
        replay(&self.ledger, &divergence)?;
        let divergence = Arc::new(divergence);
        self.metrics.set_reference(info);
        self.metrics.set_floor_state(match self.config.noise_floor_tokens {
            0 => FloorState::Off,
            _ => FloorState::Measuring,
        });
        let limits = RequestLimits {
            model: self.config.sequence_limits(&info.limits),
            max_sequences: self.config.max_sequences_per_request,
        };
        let known = knowledge_of(info, self.facts.as_ref());
        let text = known.text.clone();
        let (counted, findings, live) = (Arc::clone(&divergence), Arc::clone(&self.findings), Arc::clone(&self.live));
        let heard: Heard = Box::new(move |case, diagnosis| {
            case.each_finding(diagnosis, |id, found| findings.keep(id, found));
            live.touch(&counted.hear(&case.run, &case.engine, &case.findings(diagnosis)).run);
        });
        let (scheduler, metrics) = (self.scheduler.clone(), self.metrics.clone());
        let diagnoses = Diagnoses::start(&self.config, scheduler, metrics, known, diagnose, heard)?;
        let recent = RecentTraffic::new(self.config.aside_tokens, self.config.noise_floor_tokens);
        // Set once: the scheduler loads one reference and says so once.
        Ok(self.resident.get_or_init(|| Resident { limits, divergence, recent, diagnoses, text }))
    }

    /// The resident reference, if the server takes work.
    ///
    /// # Errors
    /// 503 with the reason why it does not.
    pub(crate) fn resident(&self) -> Result<&Resident, Problem> {
        if *self.drain.borrow() {
            return Err(draining());
        }
        match self.scheduler.state() {
            SchedulerState::Loading => Err(loading()),
            SchedulerState::Restarting => Err(restarting()),
            SchedulerState::Ready => self.resident.get().ok_or_else(loading),
            SchedulerState::Draining | SchedulerState::Stopped => Err(draining()),
            SchedulerState::Failed { reason } => Err(reference_failed(&reason)),
        }
    }

    /// What is known of the reference, whether or not the server takes work; `None` until it is loaded.
    pub(crate) fn loaded(&self) -> Option<&Resident> {
        self.resident.get()
    }

    /// Everything that Prometheus scrapes, whatever the state.
    ///
    /// # Errors
    /// Metrics that cannot be encoded: a defect.
    pub(crate) fn scrape(&self) -> prometheus::Result<Vec<u8>> {
        self.ledger.metrics.show(self.ledger.store().map(|store| store.as_ref()));
        match self.resident.get() {
            Some(resident) => resident.divergence.scrape(),
            None => encode(&self.registry),
        }
    }
}

impl fmt::Debug for AppState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppState")
            .field("config", &self.config)
            .field("resident", &self.resident)
            .finish_non_exhaustive()
    }
}

/// 503 while the reference loads.
pub(crate) fn loading() -> Problem {
    Problem::new(Code::Loading, "the reference is still loading").retry_after(LOADING_RETRY)
}

/// 503 while the reference loads its weights again after a failure.
pub(crate) fn restarting() -> Problem {
    let detail = "the reference loads its weights again after a failure; what was admitted is scored afterwards";
    Problem::new(Code::Restarting, detail).retry_after(LOADING_RETRY)
}

/// 503 while the server shuts down.
pub(crate) fn draining() -> Problem {
    Problem::new(Code::Draining, "the server is shutting down and takes no new work").retry_after(GONE_RETRY)
}

/// 503 when the reference cannot score any more.
pub(crate) fn reference_failed(reason: &str) -> Problem {
    Problem::internal(Code::ReferenceFailed, "the reference cannot score; see the server's log", reason)
        .retry_after(GONE_RETRY)
}
