//! Newline-delimited JSON: each line is a verification of its own. Bad lines do not stop good ones.

use std::future::Future;
use std::sync::Arc;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use plumbline_store::Packed;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use utoipa::ToSchema;

use super::{PREFERENCE_APPLIED, RESPOND_ASYNC, Reply, Request, Wishes, accept, answer};
use crate::body::{Line, LineDefaults, RequestLimits, read_line};
use crate::ledger::Accepted;
use crate::middleware::ScoredTokens;
use crate::problem::{Code, Problem, ProblemDocument};
use crate::state::{AppState, Resident, loading};
use crate::trace::{self, Value};
use crate::verify::{Terms, VerificationResponse, compute, defect};

/// Lines of one request that are worked on at a time: enough to fill batches.
const SCORED_AT_ONCE: usize = 64;
/// Lines of one request that wait for their commit at a time: one commit takes all of them.
const ACCEPTED_AT_ONCE: usize = 512;

/// What became of one line.
#[derive(ToSchema)]
#[schema(as = LineResult)]
#[expect(dead_code, reason = "describes what `LineOutcome::json` writes in the OpenAPI document")]
pub(crate) struct LinesResponse<'a> {
    /// Its number in the body, from 1. Empty lines are none, but count.
    line: u64,
    /// The HTTP status that it would have had alone: 200 answered, 202 accepted, else it was refused.
    #[schema(example = 200)]
    status: u16,
    /// Its result.
    #[schema(nullable = false)]
    verification: Option<VerificationResponse<'a>>,
    /// Whether the result was stored before.
    #[schema(nullable = false)]
    replayed: Option<bool>,
    /// Of an accepted line: the id of its verification.
    #[schema(nullable = false)]
    id: Option<String>,
    /// Of an accepted line: `queued` or `running`.
    #[schema(nullable = false)]
    state: Option<String>,
    /// Of a line that was refused for now: seconds after which it may be sent again.
    #[schema(nullable = false)]
    retry_after: Option<u64>,
    /// Why it was refused. Pointers point into the line.
    #[schema(nullable = false)]
    problem: Option<ProblemDocument<'a>>,
}

/// A line that was read.
struct ReadLine {
    number: u64,
    /// With its native body if it is to be accepted.
    read: Result<(Request, Option<Packed>), Problem>,
}

/// What became of a line.
enum LineOutcome {
    Answered(Reply),
    Accepted(Accepted),
    Refused(Problem),
}

/// Answers a body of lines: line by line, or with the states of what was accepted.
///
/// # Errors
/// 422 for more lines than are taken, 500 for a defect. What is wrong with a line stands in its own result.
pub(crate) async fn lines(
    state: &Arc<AppState>,
    resident: &Resident,
    bytes: Vec<u8>,
    defaults: LineDefaults,
    wishes: Wishes,
    terms: Terms,
    request_id: &str,
) -> Result<Response, Problem> {
    let (limits, most) = (resident.limits.clone(), state.config.max_lines_per_request);
    let respond_async = wishes.respond_async;
    let turn = state.bodies.turn(bytes.len()).await;
    let read = compute(true, move || {
        let _turn = turn;
        read_all(&bytes, &defaults, &wishes, &limits, most)
    });
    let read = trace::stage("parse", read).await??;
    trace::describe(|| vec![("plumbline.lines", Value::Count(read.len() as u64))]);
    if respond_async {
        let outcomes = each(state, read, ACCEPTED_AT_ONCE, |state, request, body| async move {
            let body = body.ok_or_else(|| defect(&"a line to be accepted has no body"))?;
            accept(&state, &request, body).await.map(LineOutcome::Accepted)
        });
        return Ok(accepted(&outcomes.await?, request_id));
    }
    let outcomes = each(state, read, SCORED_AT_ONCE, |state, request, _| async move {
        let resident = state.loaded().ok_or_else(loading)?;
        answer(&state, resident, request, &terms).await.map(LineOutcome::Answered)
    });
    Ok(answered(&outcomes.await?, request_id))
}

/// Reads all lines. CPU-bound.
fn read_all(
    bytes: &[u8],
    defaults: &LineDefaults,
    wishes: &Wishes,
    limits: &RequestLimits,
    most: usize,
) -> Result<Vec<ReadLine>, Problem> {
    let lines = || {
        let numbered = bytes.split(|byte| *byte == b'\n').zip(1u64..);
        numbered.filter(|(line, _)| !line.iter().all(u8::is_ascii_whitespace))
    };
    let count = lines().count();
    if count > most {
        return Err(Problem::new(Code::TooManyLines, format!("the body has {count} lines, the limit is {most}")));
    }
    if count == 0 {
        return Err(Problem::new(Code::EmptySequences, "the body has no line"));
    }
    let read = |(line, number): (&[u8], u64)| {
        let key = wishes.key.as_ref().map(|key| format!("{key}#{number}"));
        let read = read_line(line, number, defaults, limits).map(|Line { verification, body }| {
            let packed = wishes.respond_async.then(|| Packed::new(&body));
            (Request::new(verification, key), packed)
        });
        ReadLine { number, read }
    };
    Ok(lines().map(read).collect())
}

/// Works on all lines, some at a time, and gives their outcomes in order. Dropping the future cancels what has not started.
async fn each<F: Future<Output = Result<LineOutcome, Problem>> + Send + 'static>(
    state: &Arc<AppState>,
    lines: Vec<ReadLine>,
    at_once: usize,
    work: impl Fn(Arc<AppState>, Request, Option<Packed>) -> F,
) -> Result<Vec<(u64, LineOutcome)>, Problem> {
    let room = Arc::new(Semaphore::new(at_once));
    let (mut outcomes, mut tasks) = (Vec::with_capacity(lines.len()), JoinSet::new());
    for ReadLine { number, read } in lines {
        match read {
            Err(problem) => outcomes.push((number, LineOutcome::Refused(problem))),
            Ok((request, body)) => {
                let own = Arc::clone(&room).acquire_owned().await.map_err(|error| defect(&error))?;
                let work = work(Arc::clone(state), request, body);
                tasks.spawn(trace::carried(async move {
                    let outcome = work.await.unwrap_or_else(LineOutcome::Refused);
                    drop(own);
                    (number, outcome)
                }));
            }
        }
    }
    while let Some(outcome) = tasks.join_next().await {
        outcomes.push(outcome.map_err(|error| defect(&error))?);
    }
    outcomes.sort_by_key(|(number, _)| *number);
    Ok(outcomes)
}

fn answered(outcomes: &[(u64, LineOutcome)], request_id: &str) -> Response {
    let mut body = Vec::new();
    let mut tokens = 0;
    for (number, outcome) in outcomes {
        outcome.write(*number, request_id, &mut body);
        body.push(b'\n');
        if let LineOutcome::Answered(reply) = outcome {
            tokens += reply.scored_tokens;
        }
    }
    let mut response = ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response();
    response.extensions_mut().insert(ScoredTokens(tokens));
    response
}

/// 202 if anything was accepted; else there is nothing to come back for.
fn accepted(outcomes: &[(u64, LineOutcome)], request_id: &str) -> Response {
    let queued = outcomes.iter().filter(|(_, outcome)| outcome.status() == StatusCode::ACCEPTED).count();
    let mut body = format!("{{\"accepted\":{queued},\"lines\":[").into_bytes();
    for (index, (number, outcome)) in outcomes.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        outcome.write(*number, request_id, &mut body);
    }
    body.extend(b"]}");
    let status = if queued > 0 { StatusCode::ACCEPTED } else { StatusCode::OK };
    let mut response = (status, [(header::CONTENT_TYPE, "application/json")], body).into_response();
    response.headers_mut().insert(PREFERENCE_APPLIED, HeaderValue::from_static(RESPOND_ASYNC));
    response
}

impl LineOutcome {
    fn status(&self) -> StatusCode {
        match self {
            Self::Answered(_) | Self::Accepted(Accepted::Answer(_)) => StatusCode::OK,
            Self::Accepted(Accepted::Queued(_)) => StatusCode::ACCEPTED,
            Self::Refused(problem) => problem.code.status(),
        }
    }

    /// Appends [`LinesResponse`]. Results and problems are JSON already; ids are made here, of letters and digits.
    fn write(&self, number: u64, request_id: &str, to: &mut Vec<u8>) {
        to.extend(format!("{{\"line\":{number},\"status\":{}", self.status().as_u16()).bytes());
        match self {
            Self::Answered(Reply { json, replayed, .. }) => {
                to.extend(format!(",\"replayed\":{replayed},\"verification\":").bytes());
                to.extend(json);
            }
            Self::Accepted(Accepted::Answer(json)) => {
                to.extend(b",\"replayed\":true,\"verification\":");
                to.extend(json);
            }
            Self::Accepted(Accepted::Queued(existing)) => {
                to.extend(format!(",\"id\":\"{}\",\"state\":\"{}\"", existing.id, existing.state.as_str()).bytes());
            }
            Self::Refused(problem) => {
                if let Some(cause) = &problem.internal {
                    tracing::error!(code = problem.code.as_str(), line = number, cause, "a line failed");
                }
                if let Some(after) = problem.retry_after_seconds() {
                    to.extend(format!(",\"retry_after\":{after}").bytes());
                }
                to.extend(b",\"problem\":");
                to.extend(problem.document("/v1/verifications", request_id));
            }
        }
        to.push(b'}');
    }
}
