//! `POST /v1/verifications`, answered at once or accepted for later, and `GET /v1/verifications/{id}`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, State, rejection::QueryRejection};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use plumbline_scheduler::Class;
use plumbline_store::{JobState, Packed, VerificationRow};
use serde::Serialize;
use utoipa::ToSchema;

use super::name::Name;
use crate::body::LineDefaults;
use crate::body::{MediaType, Received, VerificationRequest, check_headers, parse, receive, resolve};
use crate::intake::{LinesResponse, PREFERENCE_APPLIED, RESPOND_ASYNC, Reply, Request, Wishes, accept, answer, lines};
use crate::ledger::{Accepted, JOB_RETRY, answer_in, read, unavailable};
use crate::middleware::{RequestId, ScoredTokens};
use crate::problem::{Code, Problem, ProblemDocument};
use crate::state::{AppState, Resident};
use crate::timestamp::rfc3339;
use crate::trace::{self, Value};
use crate::verify::{INLINE_BYTES, Terms, VerificationResponse, compute, tokens_of};

/// Says that an answer was stored before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// A verification that was accepted.
#[derive(Serialize, ToSchema)]
pub(super) struct AcceptedResponse<'a> {
    /// Its id, for `/v1/verifications/{id}`.
    #[schema(example = "ver_0197f3c5c8d87e6fa6a1c3e1f0c0a001")]
    id: &'a str,
    /// `queued` or `running`.
    #[schema(example = "queued")]
    state: &'static str,
}

/// A verification and how far it is.
#[derive(ToSchema)]
#[schema(as = VerificationState)]
#[expect(dead_code, reason = "describes what `document` writes in the OpenAPI document")]
pub(super) struct StateResponse<'a> {
    /// Its id.
    id: String,
    /// The run.
    run: String,
    /// The engine.
    engine: String,
    /// `queued`, `running`, `done` or `failed`.
    #[schema(example = "done")]
    state: String,
    /// When it was accepted.
    #[schema(format = DateTime)]
    created_at: String,
    /// When its state changed last.
    #[schema(format = DateTime)]
    updated_at: String,
    /// How often it was begun.
    attempts: u32,
    /// Of a verification that is done; null where retention has removed it.
    #[schema(nullable)]
    result: VerificationResponse<'a>,
    /// Of one that failed: why.
    #[schema(nullable = false)]
    problem: Option<ProblemDocument<'a>>,
}

/// Scores rollouts and compares.
///
/// Re-scores the sampled tokens on the reference and compares with the engine's logprobs. Nothing is truncated, clipped
/// or dropped: tokens that enter no sum are counted under `skipped`.
///
/// The same request again (the same `Idempotency-Key`, or the same content) gets the stored answer and counts nothing twice. With
/// `Prefer: respond-async` the answer is 202 as soon as the request is on disk. A body of `application/x-ndjson` has one rollout a
/// line, each of which is a verification of its own; bad lines do not stop good ones.
#[utoipa::path(
    post,
    path = "/v1/verifications",
    tag = "verification",
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "The sender's name for the request: with the same key and content it may be sent again. 1 to 255 printable ASCII characters"),
        ("Prefer" = Option<String>, Header, description = "`respond-async`: accept the request and answer later"),
        ("Plumbline-Priority" = Option<String>, Header, description = "`interactive` (answered soon or refused at once), `standard` or `bulk`"),
        ("Plumbline-Timeout" = Option<f64>, Header, description = "Seconds in which the answer is wanted; what has not started by then is dropped"),
        LineDefaults
    ),
    request_body(content(
        (VerificationRequest = "application/json"),
        (String = "application/x-ndjson")
    )),
    responses(
        (status = 200, description = "The result; of NDJSON one line for each line", content(
            (VerificationResponse = "application/json"),
            (LinesResponse = "application/x-ndjson")
        )),
        (status = 202, description = "Accepted and on disk; see Location. Of NDJSON the state of each line", body = AcceptedResponse),
        (status = 400, description = "Not JSON, or a header that cannot be understood", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "API key required", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 408, description = "The body did not arrive in time", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "Policy version not resident", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "Too large", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "Neither JSON nor NDJSON, or an unknown content encoding", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "Invalid fields, with pointers; or a key that came with other content", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 429, description = "Queue full, or too many bodies; see Retry-After", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 500, description = "Internal error", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 501, description = "respond-async without a data dir", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Loading, shutting down, or the store is in trouble; see Retry-After", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 504, description = "The time of Plumbline-Timeout is over", body = ProblemDocument, content_type = "application/problem+json")
    )
)]
pub(super) async fn create(
    State(state): State<Arc<AppState>>,
    id: axum::Extension<RequestId>,
    defaults: Result<Query<LineDefaults>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let media = check_headers(&headers, &[MediaType::Json, MediaType::Ndjson], state.config.max_body_bytes)?;
    let wishes = Wishes::of(&headers)?;
    let otherwise = match media {
        MediaType::Json if !wishes.respond_async => state.config.sync_priority.into(),
        _ => Class::Bulk,
    };
    let terms = Terms::of(&headers, otherwise)?;
    if wishes.respond_async {
        terms.fit_accepted_work()?;
    }
    let Query(defaults) = defaults.map_err(|error| Problem::new(Code::InvalidValue, error.body_text()))?;
    // Before the body is read: a server that takes no work need not receive it.
    let resident = state.resident()?;
    if wishes.respond_async {
        state.ledger.needed_store()?;
    }
    // The room is held until the answer is made: what was read of the body lives as long.
    let Received { bytes, room: _room } =
        trace::stage("receive", receive(&state, &headers, body, state.config.max_body_bytes)).await?;
    match media {
        MediaType::Json => one(&state, resident, bytes, wishes, &terms).await,
        MediaType::Ndjson => lines(&state, resident, bytes, defaults, wishes, terms, id.as_str()).await,
    }
}

/// One body of JSON.
async fn one(
    state: &Arc<AppState>,
    resident: &Resident,
    bytes: Vec<u8>,
    wishes: Wishes,
    terms: &Terms,
) -> Result<Response, Problem> {
    let limits = resident.limits.clone();
    let heavy = bytes.len() > INLINE_BYTES;
    let Wishes { key, respond_async } = wishes;
    let turn = state.bodies.turn(bytes.len()).await;
    let parsed = compute(heavy, move || {
        let _turn = turn;
        let request = Request::new(resolve(parse(&bytes)?, &limits)?, key);
        Ok::<_, Problem>((request, respond_async.then(|| Packed::new(&bytes))))
    });
    let (request, packed) = trace::stage("parse", parsed).await??;
    trace::describe(|| {
        let verification = &request.verification;
        vec![
            ("plumbline.run", Value::Text(verification.run.clone())),
            ("plumbline.engine", Value::Text(verification.engine.clone())),
            ("plumbline.sequences", Value::Count(verification.rollouts.len() as u64)),
            ("plumbline.tokens", Value::Count(tokens_of(verification) as u64)),
        ]
    });
    let Some(packed) = packed else {
        return Ok(answered(answer(state, resident, request, terms).await?));
    };
    match accept(state, &request, packed).await? {
        Accepted::Answer(json) => Ok(answered(Reply { json, replayed: true, scored_tokens: 0 })),
        Accepted::Queued(existing) => {
            trace::describe(|| vec![("plumbline.verification_id", Value::Text(existing.id.clone()))]);
            let body = AcceptedResponse { id: &existing.id, state: existing.state.as_str() };
            let mut response = (StatusCode::ACCEPTED, axum::Json(body)).into_response();
            let location = HeaderValue::from_str(&format!("/v1/verifications/{}", existing.id));
            let headers = response.headers_mut();
            // Ids are made here, of letters and digits.
            headers.extend(location.ok().map(|location| (header::LOCATION, location)));
            headers.insert(PREFERENCE_APPLIED, HeaderValue::from_static(RESPOND_ASYNC));
            headers.insert(header::RETRY_AFTER, retry_after());
            Ok(response)
        }
    }
}

fn answered(reply: Reply) -> Response {
    let mut response = ([(header::CONTENT_TYPE, "application/json")], reply.json).into_response();
    if reply.replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response.extensions_mut().insert(ScoredTokens(reply.scored_tokens));
    response
}

fn retry_after() -> HeaderValue {
    HeaderValue::from(JOB_RETRY.max(Duration::from_secs(1)).as_secs())
}

/// How far a verification is, and its result.
///
/// Kept are those that were accepted (`Prefer: respond-async`) and those that were answered at once, as long as retention has it.
#[utoipa::path(
    get,
    path = "/v1/verifications/{id}",
    tag = "verification",
    params(("id" = String, Path, description = "Id of the verification")),
    responses(
        (status = 200, description = "Its state; with Retry-After while it is queued or running", body = StateResponse),
        (status = 401, description = "API key required", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "No such verification, or no longer kept", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "The store is in trouble", body = ProblemDocument, content_type = "application/problem+json")
    )
)]
pub(super) async fn show(State(state): State<Arc<AppState>>, Name(id): Name) -> Result<Response, Problem> {
    let not_found = || {
        Problem::new(Code::VerificationNotFound, format!("there is no verification {id:?}, or it is no longer kept"))
    };
    // Whether or not work is taken: what was accepted can be asked for.
    let store = state.ledger.store().ok_or_else(not_found)?;
    let own = id.clone();
    let found = read(store, move |reader| {
        let Some(row) = reader.verification(&own)? else { return Ok(None) };
        let result = answer_in(row.response.as_ref(), &row.new)?;
        Ok(Some((row, result)))
    });
    let (row, result) = found.await.map_err(|error| unavailable(&error))?.ok_or_else(not_found)?;
    let waits = matches!(row.state, JobState::Queued | JobState::Running);
    let body = document(&row, result.as_deref())?;
    let mut response = ([(header::CONTENT_TYPE, "application/json")], body).into_response();
    if waits {
        response.headers_mut().insert(header::RETRY_AFTER, retry_after());
    }
    Ok(response)
}

/// The row as [`StateResponse`]. Result and problem are JSON already.
fn document(row: &VerificationRow, result: Option<&[u8]>) -> Result<Vec<u8>, Problem> {
    #[derive(Serialize)]
    struct Head<'a> {
        id: &'a str,
        run: &'a str,
        engine: &'a str,
        state: &'static str,
        created_at: String,
        updated_at: String,
        attempts: u32,
    }
    let head = Head {
        id: &row.id,
        run: &row.run,
        engine: &row.engine,
        state: row.state.as_str(),
        created_at: rfc3339(row.created_at),
        updated_at: rfc3339(row.updated_at),
        attempts: row.attempts,
    };
    let mut json = serde_json::to_vec(&head).map_err(|error| crate::verify::defect(&error))?;
    let mut add = |key: &str, value: &[u8]| {
        json.pop();
        json.extend(format!(",\"{key}\":").bytes());
        json.extend(value);
        json.push(b'}');
    };
    if row.state == JobState::Done {
        add("result", result.unwrap_or(b"null"));
    }
    if let Some(problem) = &row.problem {
        add("problem", problem);
    }
    Ok(json)
}
