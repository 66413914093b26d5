//! `POST /v1/verifications`: the way of a request from its bytes to its answer.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use plumbline_core::{Rollout, ScoringSequence};
use plumbline_scheduler::{ScoreError, SubmitError, Ticket};

use crate::body::{RequestLimits, Verification, VerificationRequest, check_headers, parse, receive, resolve};
use crate::middleware::ScoredTokens;
use crate::problem::{Code, Problem, ProblemDocument};
use crate::state::{AppState, draining, loading, reference_failed};
use crate::verification::{VerificationResponse, answer};

/// Bodies up to this are parsed in place: well below a millisecond, less than handing them over is worth.
const INLINE_BYTES: usize = 64 * 1024;

/// Answers of up to so many tokens are computed in place, for the same reason.
const INLINE_TOKENS: usize = 2048;

/// Scores rollouts and compares.
///
/// Re-scores the sampled tokens on the reference and compares with the engine's logprobs. Nothing is truncated, clipped
/// or dropped: tokens that enter no sum are counted under `skipped`.
#[utoipa::path(
    post,
    path = "/v1/verifications",
    tag = "verification",
    request_body = VerificationRequest,
    responses(
        (status = 200, body = VerificationResponse),
        (status = 400, description = "Not JSON", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "API key required", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "Policy version not resident", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "Too large", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "Neither JSON nor unencoded", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "Invalid fields, with pointers", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Queue full; see Retry-After", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 500, description = "Internal error", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Loading or shutting down; see Retry-After", body = ProblemDocument, content_type = "application/problem+json")
    )
)]
pub(super) async fn create(
    State(state): State<Arc<AppState>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    check_headers(&headers, state.config.max_body_bytes)?;
    // Before the body is read: a server that takes no work need not receive it.
    let resident = state.resident()?;
    let bytes = receive(body, state.config.max_body_bytes, state.drain.clone()).await?;

    let limits = resident.limits.clone();
    let heavy = bytes.len() > INLINE_BYTES;
    let (verification, work) = compute(heavy, move || prepare(&bytes, &limits)).await??;
    let tokens: usize = work.iter().map(ScoringSequence::forward_tokens).sum();
    let ticket = admit(&state, work)?;
    let outcomes = ticket.wait().await.map_err(|ScoreError::Stopped| draining())?;

    let info = Arc::clone(&resident.info);
    let levels = state.config.verdict_levels();
    let (run, engine) = (verification.run.clone(), verification.engine.clone());
    let answer = compute(tokens > INLINE_TOKENS, move || answer(&verification, outcomes, &info, &levels)).await??;
    // No await between here and the answer: what is counted was answered.
    resident.divergence.observe(&run, &engine, &answer.observation);
    let mut response = ([(header::CONTENT_TYPE, "application/json")], answer.json).into_response();
    response.extensions_mut().insert(ScoredTokens(tokens));
    Ok(response)
}

/// Runs CPU-bound work, off the async workers if it is heavy.
async fn compute<T: Send + 'static>(heavy: bool, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    if !heavy {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|error| defect(&error))
}

fn defect(cause: &impl ToString) -> Problem {
    Problem::internal(Code::Internal, "the request failed; see the server's log", cause)
}

fn prepare(bytes: &[u8], limits: &RequestLimits) -> Result<(Verification, Vec<ScoringSequence>), Problem> {
    let verification = resolve(parse(bytes)?, limits)?;
    let work = verification
        .rollouts
        .iter()
        .map(Rollout::scoring_sequence)
        .collect::<Result<Vec<_>, _>>()
        // Validation refuses these modes with a pointer before it comes to this.
        .map_err(|error| defect(&error))?;
    Ok((verification, work))
}

fn admit(state: &AppState, work: Vec<ScoringSequence>) -> Result<Ticket, Problem> {
    state.scheduler.submit(work).map_err(|refused| {
        let detail = refused.to_string();
        match refused {
            SubmitError::Loading => loading(),
            SubmitError::Draining => draining(),
            SubmitError::Failed { reason } => reference_failed(&reason),
            SubmitError::QueueFull { retry_after, .. } => {
                Problem::new(Code::QueueFull, detail).retry_after(retry_after)
            }
            SubmitError::TooLarge { .. } => {
                Problem::new(Code::RequestTooLarge, format!("{detail}; send fewer sequences at a time"))
            }
            SubmitError::SequenceTooLong { index, .. } => {
                Problem::field(Code::SequenceTooLong, format!("/sequences/{index}/completion_token_ids"), detail)
            }
        }
    })
}
