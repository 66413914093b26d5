//! `GET /v1/events`: what changes, as server-sent events.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::Response;
use prometheus::IntGauge;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use utoipa::ToSchema;

use crate::problem::{Code, Problem, ProblemDocument};
use crate::state::AppState;
use crate::streamed::streamed;

/// Between two looks at what has changed, and so between two events.
const INTERVAL: Duration = Duration::from_secs(1);
/// Between two signs of life where nothing changes: proxies close what is silent, often after 30 s.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Age at which a stream ends and the client comes again: a key that was taken away stops working.
const LIFETIME: Duration = Duration::from_secs(600);
/// Names of runs in one event.
const MAX_RUNS: usize = 64;
/// Pieces of a stream that wait for its client: two, and the two that are said at a drain.
const WAITING: usize = 4;
/// How soon to try again where there are too many streams.
const FULL_RETRY: Duration = Duration::from_secs(30);

/// What an event `update` says.
#[derive(Serialize, ToSchema)]
pub(super) struct LiveUpdate {
    server: ServerStatus,
    /// Runs of which something is new since the stream's event before, by name; none in the first one.
    runs: Vec<String>,
    /// Further runs have changed: look at all.
    more: bool,
}

/// The server as people look at it.
#[derive(Clone, PartialEq, Serialize, ToSchema)]
pub(super) struct ServerStatus {
    /// `ready`, `loading`, `restarting`, `draining` or `reference_failed`.
    #[schema(example = "ready")]
    status: &'static str,
    /// Why it is not ready.
    #[schema(required = true)]
    detail: Option<String>,
    /// Version of Plumbline.
    version: &'static str,
    /// State of the store, as in `/readyz`.
    #[schema(example = "ok")]
    store: &'static str,
    /// Why the store is not well.
    #[schema(required = true)]
    store_reason: Option<String>,
    /// Name of the reference; null until it is loaded.
    #[schema(required = true)]
    model: Option<String>,
    /// Current version of its weights.
    #[schema(required = true)]
    policy_version: Option<String>,
    /// As in `/v1/reference`.
    #[schema(required = true)]
    noise_floor_state: Option<&'static str>,
    /// Tokens that wait to be scored.
    queue_tokens: usize,
    /// Sequences that wait to be scored.
    queue_sequences: usize,
    /// Tokens that may wait.
    max_queue_tokens: usize,
}

impl ServerStatus {
    fn of(state: &AppState) -> Self {
        let problem = state.resident().err();
        let reference = state.scheduler.reference();
        let (queue_tokens, queue_sequences) = state.scheduler.queued();
        Self {
            status: problem.as_ref().map_or("ready", |problem| problem.code.as_str()),
            detail: problem.map(|problem| problem.detail.into_owned()),
            version: env!("CARGO_PKG_VERSION"),
            store: state.ledger.state_name(),
            store_reason: state.ledger.state().and_then(|state| state.reason().map(str::to_owned)),
            model: reference.as_ref().map(|reference| reference.model.clone()),
            policy_version: reference.map(|reference| reference.policy_version.clone()),
            noise_floor_state: state.metrics.floor_state().map(|state| state.as_str()),
            queue_tokens,
            queue_sequences,
            max_queue_tokens: state.config.max_queue_tokens,
        }
    }
}

/// The state of the server and the names of the runs of which something is new, as server-sent events.
///
/// An event `update` at once, and then whenever something has changed, at most one a second: whoever is told that a run has changed
/// asks for what he looks at. Where nothing changes a comment comes every 15 seconds. An event `end` says why the stream ends:
/// `draining`, or `expired` after ten minutes; come again then. It works in every state of the server, while the reference loads too.
#[utoipa::path(
    get,
    path = "/v1/events",
    tag = "runs",
    responses(
        (status = 200, description = "The data of each event `update` is as described", body = LiveUpdate, content_type = "text/event-stream"),
        (status = 401, description = "API key required", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Too many streams are open (max_event_streams)", body = ProblemDocument, content_type = "application/problem+json")
    )
)]
pub(super) async fn stream(State(state): State<Arc<AppState>>) -> Result<Response, Problem> {
    let permit = Arc::clone(&state.event_streams).try_acquire_owned().map_err(|_| {
        let most = state.config.max_event_streams;
        Problem::new(Code::TooManyStreams, format!("{most} streams of live updates are open already"))
            .retry_after(FULL_RETRY)
    })?;
    // A few events wait for a client that is slow; what happens meanwhile is in the next one.
    let (sender, pieces) = mpsc::channel(WAITING);
    let seat = Seat::new(permit, state.metrics.event_streams().clone());
    tokio::spawn(async move {
        let _seat = seat;
        run(&state, &sender).await;
    });
    let mut response = Response::new(streamed(pieces));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    // nginx and those who follow it would hold events back.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

/// Counts an open stream.
struct Seat {
    _permit: OwnedSemaphorePermit,
    gauge: IntGauge,
}

impl Seat {
    fn new(permit: OwnedSemaphorePermit, gauge: IntGauge) -> Self {
        gauge.inc();
        Self { _permit: permit, gauge }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

/// Sends events until the client leaves, the server drains or the stream is old.
async fn run(state: &AppState, sender: &mpsc::Sender<io::Result<Bytes>>) {
    let (born, mut drain) = (Instant::now(), state.drain.clone());
    let (mut seen, mut shown, mut spoke) = (state.live.now(), None, born);
    loop {
        let (server, changes) = (ServerStatus::of(state), state.live.since(seen, MAX_RUNS));
        let draining = *drain.borrow();
        let changed = shown.as_ref() != Some(&server) || changes.number != seen;
        let text = if changed {
            seen = changes.number;
            shown = Some(server.clone());
            event("update", &LiveUpdate { server, runs: changes.runs, more: changes.more })
        } else if spoke.elapsed() >= HEARTBEAT {
            Some(Bytes::from_static(b": nothing new\n\n"))
        } else {
            None
        };
        if let Some(text) = text {
            spoke = Instant::now();
            if send(sender, text, draining, &mut drain).await.is_err() {
                return;
            }
        }
        let reason = if draining { Some("draining") } else { (born.elapsed() >= LIFETIME).then_some("expired") };
        if let Some(reason) = reason {
            if let Some(text) = event("end", &serde_json::json!({ "reason": reason })) {
                let _ = send(sender, text, draining, &mut drain).await;
            }
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = sender.closed() => return,
            // Once more, to say so. A closed channel means that the server is gone.
            _ = drain.wait_for(|draining| *draining) => {}
        }
    }
}

/// One piece of the stream. Whoever takes nothing does not keep the server from ending.
async fn send(
    sender: &mpsc::Sender<io::Result<Bytes>>,
    text: Bytes,
    draining: bool,
    drain: &mut tokio::sync::watch::Receiver<bool>,
) -> Result<(), ()> {
    if draining {
        return sender.try_send(Ok(text)).map_err(|_| ());
    }
    tokio::select! {
        sent = sender.send(Ok(text)) => sent.map_err(|_| ()),
        _ = drain.wait_for(|draining| *draining) => Ok(()),
    }
}

/// An event as it stands in the stream; `None` if its data cannot be written down, which is a defect.
fn event(name: &str, data: &impl Serialize) -> Option<Bytes> {
    // JSON has no line breaks of its own.
    let json = serde_json::to_string(data).inspect_err(|error| tracing::error!(%error, "an event cannot be written"));
    Some(format!("event: {name}\ndata: {}\n\n", json.ok()?).into())
}
