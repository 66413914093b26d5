//! The running service: start, load, serve, drain.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use plumbline_scheduler::{DrainOutcome, SchedulerState};
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch as watched};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::access::Access;
use crate::alerts::{Alerting, Alerts};
use crate::config::Config;
use crate::credentials::Credentials;
use crate::floor::keep_measured;
use crate::jobs;
use crate::ledger::{Ledger, RowError};
use crate::listen::{ConnectionLimits, listen};
use crate::metrics::{AlertMetrics, LedgerMetrics, ServiceMetrics};
use crate::middleware::Gate;
use crate::routes;
use crate::state::AppState;
use crate::weights::{ReferenceSource, WatchConfig, Weights, watch};

/// How often the server looks whether the reference still lives.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// Why the service ended without being told to, or not as it should.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address would be open to everybody.
    #[error("refusing to serve on {address}: {reason}")]
    Open {
        /// The listener's address.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
    /// API keys cannot be used.
    #[error("cannot use the API keys of {place}: {reason}")]
    ApiKeys {
        /// The file or the variable.
        place: String,
        /// Why; never a key.
        reason: String,
    },
    /// The certificate or its key cannot be used.
    #[error("cannot serve with TLS from {} and {}: {reason}", certificate.display(), key.display())]
    Tls {
        /// The file with the certificate.
        certificate: PathBuf,
        /// The file with its key.
        key: PathBuf,
        /// Why; nothing of the key.
        reason: String,
    },
    /// Receivers of alerts, their secrets or what they are told cannot be used.
    #[error("cannot use {key}: {reason}")]
    Alerts {
        /// The key of the configuration.
        key: &'static str,
        /// Why; never a secret.
        reason: String,
    },
    /// There is nobody to be told.
    #[error("there is no receiver of alerts{}", name.as_ref().map(|name| format!(" called {name:?}")).unwrap_or_default())]
    NoReceiver {
        /// The name that was asked for.
        name: Option<String>,
    },
    /// The listener or the model thread could not be set up, or accepting connections failed.
    #[error("cannot serve: {0}")]
    Io(#[from] io::Error),
    /// Metrics collide: a defect.
    #[error("cannot register metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The store of the data dir cannot be opened or read; the error names the file.
    #[error("cannot use the store: {0}")]
    Store(#[from] plumbline_store::StoreError),
    /// The store holds what this version cannot read.
    #[error("cannot use the store: {0}; `plumbline db check` says more")]
    Damaged(String),
    /// The OpenAPI document cannot be written: a defect.
    #[error("cannot describe the API: {0}")]
    OpenApi(serde_json::Error),
    /// The reference could not be loaded, or cannot score any more.
    #[error("the reference failed: {reason}")]
    Reference {
        /// What the loader or the model thread said.
        reason: String,
    },
    /// Not everything admitted was answered in time.
    #[error("drain limit of {limit_seconds} s passed with {unanswered}")]
    DrainTimedOut {
        /// The configured limit.
        limit_seconds: u64,
        /// What was left.
        unanswered: String,
    },
}

impl From<RowError> for ServerError {
    fn from(error: RowError) -> Self {
        match error {
            RowError::Store(error) => Self::Store(error),
            other => Self::Damaged(other.to_string()),
        }
    }
}

/// Runs the service until `shutdown` resolves, then drains: readiness fails, new work gets 503, everything admitted is
/// answered, all within `drain_seconds`.
///
/// Listens at once; the reference is loaded on the model's thread while `/livez` and `/readyz` already answer.
///
/// # Errors
/// [`ServerError`]. If the reference cannot be loaded or dies, the service ends instead of living on as a zombie.
pub async fn serve<S>(
    config: Config,
    listener: TcpListener,
    source: ReferenceSource,
    shutdown: S,
) -> Result<(), ServerError>
where
    S: Future<Output = ()> + Send,
{
    let address = listener.local_addr()?;
    if let Some(reason) = config.refuses(address) {
        return Err(ServerError::Open { address, reason });
    }
    let limit_seconds = config.drain_seconds;
    let limits = ConnectionLimits::of(&config);
    let App { state, router, drain, mut credentials } = build(config, source)?;

    let (close, closed) = oneshot::channel::<()>();
    let scheme = if credentials.tls.is_some() { "https" } else { "http" };
    let followed = credentials.follow(&state);
    let server = listen(listener, router, limits, credentials.tls, state.metrics.clone(), async {
        // A dropped sender means that `serve` is over, which closes too.
        let _ = closed.await;
    });
    let mut server = tokio::spawn(server);
    tracing::info!(%address, scheme, "listening");

    let alerting = Alerting::start(&state).await;
    let limit = Duration::from_secs(limit_seconds);
    let broken = tokio::select! {
        result = &mut server => Some(result.map_or_else(|error| Err(ServerError::Io(io::Error::other(error))), Ok)),
        error = run(&state) => Some(Err(error)),
        () = followed => Some(Err(ServerError::Io(io::Error::other("following the credentials ended")))),
        () = shutdown => None,
    };
    if let Some(ended) = broken {
        alerting.end(&state, limit, true).await;
        return ended;
    }

    tracing::info!(limit_seconds, "draining");
    // Nobody listens if no handler runs any more; then nobody needs to be told.
    let _ = drain.send(true);
    let drained = drained(&state, limit_seconds, server, close);
    let (drained, ()) = tokio::join!(drained, alerting.end(&state, limit, false));
    drained?;
    close_store(&state).await
}

/// Answers what was admitted, stores it and lets the answers be taken, within the limit.
async fn drained(
    state: &Arc<AppState>,
    limit_seconds: u64,
    server: JoinHandle<()>,
    close: oneshot::Sender<()>,
) -> Result<(), ServerError> {
    let deadline = Instant::now() + Duration::from_secs(limit_seconds);
    let timed_out = |unanswered| Err(ServerError::DrainTimedOut { limit_seconds, unanswered });
    if let DrainOutcome::TimedOut { sequences } = state.scheduler.drain(Duration::from_secs(limit_seconds)).await {
        return timed_out(format!("{sequences} sequences not scored"));
    }
    // Everything is scored; what is left is to store and to write the answers.
    if tokio::time::timeout_at(deadline, state.jobs.idle()).await.is_err() {
        return timed_out("accepted verifications under way; the next start goes on with them".into());
    }
    let _ = close.send(());
    match tokio::time::timeout_at(deadline, server).await {
        Ok(result) => result.map_err(|error| ServerError::Io(io::Error::other(error))),
        Err(_) => timed_out("connections whose answers were not taken".into()),
    }
}

/// Writes what the store has not written yet.
async fn close_store(state: &Arc<AppState>) -> Result<(), ServerError> {
    let Some(store) = state.ledger.store().cloned() else { return Ok(()) };
    tokio::task::spawn_blocking(move || store.close()).await.map_err(io::Error::other)?.map_err(ServerError::Store)
}

/// Takes note of the loaded reference and watches it. Returns only with what went wrong.
async fn run(state: &Arc<AppState>) -> ServerError {
    let info = match state.scheduler.ready().await {
        Ok(info) => info,
        Err(error) => return ServerError::Reference { reason: error.to_string() },
    };
    tracing::info!(model = info.model, policy_version = info.policy_version, device = info.device, "loaded");
    // Off the async workers: it may have a long past to read, while probes are answered.
    let own = Arc::clone(state);
    let known = tokio::task::spawn_blocking(move || own.set_resident(&info).map(|_| ())).await;
    match known.map_err(io::Error::other) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return error,
        Err(error) => return ServerError::Io(error),
    }
    let Some(resident) = state.loaded() else {
        return ServerError::Reference { reason: "the resident reference is not known".into() };
    };
    tokio::spawn(jobs::run(Arc::clone(state)));
    let (config, store) = (&state.config, |version: &str, floor| state.floors.set(version, floor));
    tokio::select! {
        () = keep_measured(&state.scheduler, config, &resident.recent, &state.metrics, store) => {
            ServerError::Reference { reason: "measuring the noise floor ended".into() }
        }
        error = watch_reference(state) => error,
        () = follow(state) => ServerError::Reference { reason: "following the weights ended".into() },
    }
}

/// Loads the checkpoints that appear in the watched folder, if there is one. Never returns.
async fn follow(state: &AppState) {
    let config = &state.config;
    let Some(folder) = config.weights_watch.clone() else { return std::future::pending().await };
    let config = WatchConfig {
        folder,
        marker: config.weights_marker.clone(),
        interval: Duration::from_secs(config.weights_poll_seconds),
        keep: config.keep_versions,
    };
    watch(state.weights.clone(), config).await;
}

/// Returns only with what went wrong.
async fn watch_reference(state: &AppState) -> ServerError {
    loop {
        tokio::time::sleep(WATCH_INTERVAL).await;
        if let SchedulerState::Failed { reason } = state.scheduler.state() {
            return ServerError::Reference { reason: reason.to_string() };
        }
    }
}

/// The parts of a service that is not listening yet.
pub(crate) struct App {
    pub(crate) state: Arc<AppState>,
    pub(crate) router: Router,
    /// Sending `true` makes handlers refuse new work.
    pub(crate) drain: watched::Sender<bool>,
    pub(crate) credentials: Credentials,
}

/// Puts the service together and starts loading the reference.
pub(crate) fn build(config: Config, source: ReferenceSource) -> Result<App, ServerError> {
    let credentials = Credentials::load(&config)?;
    let gate = Gate { keys: credentials.keys.clone(), access: Access::of(&config) };
    let (router, openapi) = routes::routes(gate.access);
    let registry = Registry::new();
    let metrics = ServiceMetrics::register(&registry, openapi.paths.paths.keys().map(String::as_str))?;
    metrics.queue_limit(config.max_queue_tokens);
    let alerts = Alerts::new(&config, AlertMetrics::register(&registry)?, &credentials.alerts)
        .map_err(|(key, reason)| ServerError::Alerts { key, reason })?;
    let ledger = Ledger::open(&config, LedgerMetrics::register(&registry)?)?;
    let openapi = Bytes::from(serde_json::to_vec(&openapi).map_err(ServerError::OpenApi)?);
    let (versions, facts) = (source.versions.clone(), source.facts.clone());
    let scheduler = source.scheduler(config.scheduler(), Arc::new(metrics.clone()))?;
    let (drain, draining) = watched::channel(false);
    let weights = Weights::new(scheduler.clone(), metrics.clone(), &config.all_weights_roots(), versions);
    let state = AppState::new(config, scheduler, registry, metrics, weights, ledger, alerts, openapi, draining);
    let state = Arc::new(state.with_facts(facts));
    let router = routes::app(router, &state, gate);
    Ok(App { state, router, drain, credentials })
}
