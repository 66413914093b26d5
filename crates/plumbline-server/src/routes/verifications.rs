//! `POST /v1/verifications`: the way of a request from its bytes to its answer.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};

use crate::body::{VerificationRequest, check_headers, parse, receive, resolve};
use crate::metrics::Observation;
use crate::middleware::ScoredTokens;
use crate::problem::{Problem, ProblemDocument};
use crate::state::{AppState, Resident};
use crate::verify::{Answer, AnsweredSequence, INLINE_BYTES, Terms, VerificationResponse, compute, new_id, verify};

/// Scores rollouts and compares.
///
/// Re-scores the sampled tokens on the reference and compares with the engine's logprobs. Nothing is truncated, clipped
/// or dropped: tokens that enter no sum are counted under `skipped`.
#[utoipa::path(
    post,
    path = "/v1/verifications",
    tag = "verification",
    params(
        ("Plumbline-Priority" = Option<String>, Header, description = "`interactive` (answered soon or refused at once), `standard` or `bulk`"),
        ("Plumbline-Timeout" = Option<f64>, Header, description = "Seconds in which the answer is wanted; what has not started by then is dropped")
    ),
    request_body = VerificationRequest,
    responses(
        (status = 200, body = VerificationResponse),
        (status = 400, description = "Not JSON, or a header that cannot be understood", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "API key required", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "Policy version not resident", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "Too large", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "Neither JSON nor unencoded", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "Invalid fields, with pointers", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Queue full; see Retry-After", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 500, description = "Internal error", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Loading or shutting down; see Retry-After", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 504, description = "The time of Plumbline-Timeout is over", body = ProblemDocument, content_type = "application/problem+json")
    )
)]
pub(super) async fn create(
    State(state): State<Arc<AppState>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    check_headers(&headers, state.config.max_body_bytes)?;
    let terms = Terms::of(&headers, state.config.sync_priority.into())?;
    // Before the body is read: a server that takes no work need not receive it.
    let resident = state.resident()?;
    let bytes = receive(body, state.config.max_body_bytes, state.drain.clone()).await?;

    let limits = resident.limits.clone();
    let heavy = bytes.len() > INLINE_BYTES;
    let verification = compute(heavy, move || resolve(parse(&bytes)?, &limits)).await??;
    let answer = verify(&state, resident, verification, new_id(), &terms).await?;
    // No await between here and the answer: what is counted was answered.
    let (json, tokens) = count(&state, resident, answer);
    let mut response = ([(header::CONTENT_TYPE, "application/json")], json).into_response();
    response.extensions_mut().insert(ScoredTokens(tokens));
    Ok(response)
}

/// Takes what an answer adds into counters, monitor and the sequences that are kept.
fn count(state: &AppState, resident: &Resident, answer: Answer) -> (Vec<u8>, usize) {
    let Answer { json, verification, sequences, scored_tokens } = answer;
    let mut observation = Observation::default();
    let mut stored = Vec::with_capacity(sequences.len());
    for AnsweredSequence { summary, stored: sequence } in sequences {
        observation.add(&sequence.comparison, summary);
        stored.push(sequence);
    }
    let group = resident.divergence.observe(&verification.run, &verification.engine, &observation);
    state.sequences.add(stored, &group.run);
    resident.recent.add(&verification.rollouts);
    (json, scored_tokens)
}
