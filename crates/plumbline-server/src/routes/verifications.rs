//! `POST /v1/verifications`: the way of a request from its bytes to its answer.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use plumbline_core::ScoringSequence;
use plumbline_divergence::Diagnosis;
use plumbline_scheduler::{ScoreError, SubmitError, Ticket};

use crate::body::{
    MediaType, Origin, Received, Verification, VerificationRequest, check_headers, parse, receive, resolve,
};
use crate::diagnosis::{Case, CaseFloor, NotDiagnosed, Room};
use crate::middleware::ScoredTokens;
use crate::problem::{Code, Problem, ProblemDocument};
use crate::state::{AppState, Resident, draining, loading, reference_failed};
use crate::verification::{Assessed, VerificationResponse};
use crate::weights::{Availability, Wanted, available};

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
        (status = 408, description = "The body did not arrive in time", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "Policy version not resident", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "Too large", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "Not JSON, or an unknown content encoding", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "Invalid fields, with pointers", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Queue full, or too many bodies; see Retry-After", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 500, description = "Internal error", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Loading or shutting down; see Retry-After", body = ProblemDocument, content_type = "application/problem+json")
    )
)]
pub(super) async fn create(
    State(state): State<Arc<AppState>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    check_headers(&headers, &[MediaType::Json], state.config.max_body_bytes)?;
    // Before the body is read: a server that takes no work need not receive it.
    let resident = state.resident()?;
    // The room is held until the answer is made: what was read of the body lives as long.
    let Received { bytes, room: _room } = receive(&state, &headers, body, state.config.max_body_bytes).await?;

    let limits = resident.limits.clone();
    let heavy = bytes.len() > INLINE_BYTES;
    let turn = state.bodies.turn(bytes.len()).await;
    let work = move || {
        let _turn = turn;
        resolve(parse(&bytes)?, &limits)
    };
    let verification = compute(heavy, work).await??;
    wait_for_versions(&state, &verification.wanted).await?;
    let (verification, work) = compute(heavy, move || scoring_sequences(verification)).await??;
    let tokens: usize = work.iter().map(ScoringSequence::forward_tokens).sum();
    let ticket = admit(&state, &verification, work)?;
    let outcomes = ticket.wait().await.map_err(|ScoreError::Stopped| draining())?;

    let (levels, floors) = (state.config.verdict_levels(), state.floors.clone());
    let heavy = tokens > INLINE_TOKENS;
    let assessed = compute(heavy, move || Assessed::new(verification, outcomes, &levels, &floors)).await??;
    let (assessed, diagnosis) = diagnosed(&state, resident, assessed, heavy).await?;
    let (assessed, answer) = compute(heavy, move || {
        let answer = assessed.answer(diagnosis.as_ref());
        (assessed, answer)
    })
    .await?;
    let (verification, answer) = (assessed.verification(), answer?);
    // No await between here and the answer: what is counted was answered.
    let group = resident.divergence.observe(&verification.run, &verification.engine, &answer.observation);
    state.sequences.add(answer.sequences, &group.run);
    resident.recent.add(&verification.rollouts);
    let mut response = ([(header::CONTENT_TYPE, "application/json")], answer.json).into_response();
    response.extensions_mut().insert(ScoredTokens(tokens));
    Ok(response)
}

/// Has the causes of what is suspicious looked for: at once if the request asks for them, else some time.
async fn diagnosed(
    state: &AppState,
    resident: &Resident,
    assessed: Assessed,
    heavy: bool,
) -> Result<(Assessed, Option<Result<Diagnosis, NotDiagnosed>>), Problem> {
    if !assessed.is_suspicious() {
        return Ok((assessed, None));
    }
    let asked = assessed.verification().include_diagnosis;
    // Before anything is copied: most of it would be in vain while everything is suspicious.
    match resident.diagnoses.room(asked) {
        Room::Some => {}
        Room::Full => return Ok((assessed, asked.then_some(Err(NotDiagnosed::Full)))),
        Room::Off => return Ok((assessed, None)),
    }
    let floors = state.floors.clone();
    let (assessed, case) = compute(heavy, move || {
        let floor = |version: &str| match floors.of(version) {
            Some(measured) => CaseFloor::Measured(measured),
            None => CaseFloor::Published,
        };
        let case = assessed.case(floor);
        let case = if asked { case } else { case.map(Case::trimmed_to_be_offered) };
        (assessed, case)
    })
    .await?;
    let Some(case) = case else { return Ok((assessed, None)) };
    if asked {
        return Ok((assessed, Some(resident.diagnoses.ask(case).await)));
    }
    resident.diagnoses.offer(case);
    Ok((assessed, None))
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

/// Waits for versions of the weights that the policy has and the reference does not have yet.
async fn wait_for_versions(state: &AppState, wanted: &[Wanted]) -> Result<(), Problem> {
    let mut drain = state.drain.clone();
    let found = tokio::select! {
        found = available(&state.scheduler, wanted, state.version_patience()) => found,
        _ = drain.wait_for(|draining| *draining) => return Err(draining()),
    };
    let Err((Wanted { version, pointer }, why)) = found else { return Ok(()) };
    let residents = state.scheduler.residents();
    let kept: Vec<_> = residents.kept().iter().map(|info| info.policy_version.as_str()).collect();
    let detail = match why {
        Availability::Past => format!("policy version {version:?} is no longer resident, {kept:?} are"),
        _ if state.weights.can_follow() => {
            format!("policy version {version:?} did not become resident in time, {kept:?} are")
        }
        _ => format!("policy version {version:?} is not resident, {kept:?} are"),
    };
    Err(Problem::field(Code::PolicyVersionUnavailable, pointer, detail))
}

/// The work for each rollout, in order; a rollout that several versions sampled has several pieces.
fn scoring_sequences(verification: Verification) -> Result<(Verification, Vec<ScoringSequence>), Problem> {
    let mut work = Vec::with_capacity(verification.rollouts.len());
    for rollout in &verification.rollouts {
        // Validation refuses modes that cannot be reproduced with a pointer before it comes to this.
        work.extend(rollout.scoring_sequences().map_err(|error| defect(&error))?);
    }
    Ok((verification, work))
}

/// What a piece of the work was read from: a rollout has one for each version of the weights that sampled it.
fn origin_of(verification: &Verification, piece: usize) -> Option<&Origin> {
    let pieces = verification.rollouts.iter().zip(&verification.origins);
    pieces.flat_map(|(rollout, origin)| rollout.versions().into_iter().map(move |_| origin)).nth(piece)
}

fn admit(state: &AppState, verification: &Verification, work: Vec<ScoringSequence>) -> Result<Ticket, Problem> {
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
            // It left between the look and the submit.
            SubmitError::VersionUnavailable { .. } => Problem::new(Code::PolicyVersionUnavailable, detail),
            SubmitError::SequenceTooLong { index, .. } => {
                let pointer = origin_of(verification, index).map(|origin| origin.pointer("/completion_token_ids"));
                Problem::field(Code::SequenceTooLong, pointer.unwrap_or_default(), detail)
            }
        }
    })
}
