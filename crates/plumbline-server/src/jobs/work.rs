//! One job.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use plumbline_store::{Job, Packed, Pending, Started, StoreError};
use tracing::Instrument;

use crate::body::{parse, resolve};
use crate::intake::Request;
use crate::ledger::{Settled, Target, settle};
use crate::problem::{Code, Problem};
use crate::state::{AppState, loading};
use crate::trace::{self, Trace, TraceContext, Value};
use crate::verify::{Terms, compute, verify};

/// How often a job is begun at most. It is begun again when the process ended during it; one that ends the process must not do so
/// for ever.
const MAX_ATTEMPTS: u32 = 20;
/// Between two tries, where nobody says how long to wait.
const INTERVAL: Duration = Duration::from_secs(1);

/// How a job ended.
enum End {
    /// It is answered, and stored.
    Answered,
    /// It never will be.
    Failed(Problem),
    /// The server drains: the next start goes on with it.
    Later,
}

/// Works on a job until it is answered, has failed or the server drains. In the log it goes by its id, and it is a trace of its own:
/// the request with which it was accepted may be long over.
pub(super) async fn work(state: &Arc<AppState>, job: Job) {
    let listened = trace::is_listened_to();
    let own = Arc::new(Trace::new(TraceContext::new(listened), listened));
    let (trace_id, span_id) = (own.context().trace_id_hex(), own.context().span_id_hex());
    let span = tracing::info_span!("job", request_id = job.id, trace_id, span_id);
    let id = job.id.clone();
    let failed = trace::within(Arc::clone(&own), work_on(state, job)).instrument(span).await;
    own.describe(vec![("plumbline.verification_id", Value::Text(id))]);
    trace::end(&own, "verification".into(), failed);
}

/// Whether it failed.
async fn work_on(state: &Arc<AppState>, job: Job) -> bool {
    let Some(store) = state.ledger.store() else { return false };
    let start = insist(state, || store.start(&job.id)).await;
    // None: it is no longer queued. A request for the same content may have answered it.
    let Some(Some(Started { attempts, request })) = start else { return false };
    let end = if attempts > MAX_ATTEMPTS {
        let detail = format!("the server ended {MAX_ATTEMPTS} times while it worked on this");
        End::Failed(Problem::new(Code::GaveUp, detail))
    } else {
        answered(state, &job, request).await
    };
    let outcome = match end {
        End::Answered => "done",
        End::Later => {
            if let Err(error) = store.requeue(&job.id).await {
                // It is queued again at the next start anyway.
                tracing::debug!(id = job.id, %error, "a job stays marked as running");
            }
            return false;
        }
        End::Failed(problem) => {
            tracing::warn!(id = job.id, run = job.run, code = problem.code.as_str(), detail = %problem.detail,
                cause = problem.internal, "an accepted verification failed");
            let path = format!("/v1/verifications/{}", job.id);
            let document = problem.document(&path, &job.id);
            if insist(state, || store.fail(&job.id, document.clone(), SystemTime::now())).await.is_none() {
                return true;
            }
            "failed"
        }
    };
    state.ledger.metrics.job(outcome);
    outcome == "failed"
}

/// Tries a write until it succeeds; `None` when the server drains before that.
async fn insist<T>(state: &AppState, write: impl Fn() -> Pending<T>) -> Option<T> {
    loop {
        match write().await {
            Ok(value) => return Some(value),
            Err(error) => tracing::warn!(%error, "an accepted verification cannot be written to the store yet"),
        }
        if drained(state, INTERVAL).await {
            return None;
        }
    }
}

/// Waits, or less long if the server drains; whether it does.
async fn drained(state: &AppState, wait: Duration) -> bool {
    let mut drain = state.drain.clone();
    tokio::select! {
        biased;
        _ = drain.wait_for(|draining| *draining) => true,
        () = tokio::time::sleep(wait) => false,
    }
}

async fn answered(state: &Arc<AppState>, job: &Job, packed: Packed) -> End {
    loop {
        let problem = match attempt(state, job, &packed).await {
            Ok(Settled::Answer(_)) => return End::Answered,
            Ok(Settled::Ended) => return End::Later,
            // A job is taken by nobody but itself.
            Ok(Settled::Taken(_)) => return End::Later,
            Err(problem) => problem,
        };
        // Not the job's fault: the queue is full, or nothing is taken now.
        if !matches!(problem.code.status().as_u16(), 429 | 503) {
            return End::Failed(problem);
        }
        let told = problem.retry_after.unwrap_or(INTERVAL);
        let draining = match problem.code.status().as_u16() {
            429 => drained_in_line(state, told).await,
            _ => drained(state, told).await,
        };
        if draining {
            return End::Later;
        }
    }
}

/// Waits as [`drained`], but no longer than others are before it: a job sees for itself when the queue is empty, while those who
/// were told when to come back may have gone for good.
async fn drained_in_line(state: &AppState, told: Duration) -> bool {
    let until = Instant::now() + told;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if drained(state, left.min(INTERVAL)).await {
            return true;
        }
        let (waiting, _) = state.scheduler.queued();
        if waiting == 0 || left <= INTERVAL {
            return false;
        }
    }
}

async fn attempt(state: &Arc<AppState>, job: &Job, packed: &Packed) -> Result<Settled, Problem> {
    let resident = state.loaded().ok_or_else(loading)?;
    let (packed, limits) = (packed.clone(), resident.limits.clone());
    let request = compute(true, move || {
        let body = packed.open().map_err(|error| unreadable(&error))?;
        Ok::<_, Problem>(Request::new(resolve(parse(&body)?, &limits)?, None))
    });
    let Request { verification, identity } = request.await??;
    let claim = state.ledger.claim(&identity).await;
    let answer = verify(state, resident, verification, job.id.clone(), &Terms::bulk()).await?;
    settle(state, answer, identity, Target::Job, claim).await
}

fn unreadable(error: &StoreError) -> Problem {
    Problem::internal(Code::Internal, "the accepted request cannot be read from the store", error)
}
