//! Probes and metrics.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::problem::{Code, Problem, ProblemDocument};
use crate::state::AppState;

/// State of the server.
#[derive(Serialize, ToSchema)]
pub(super) struct Status {
    /// `alive` or `ready`.
    #[schema(example = "ready")]
    status: &'static str,
    /// State of the store: `ok`, `read_only`, `full`, `corrupt`, `unavailable` or `closed`; `none` without a data dir. While it is
    /// not well, requests are answered without being stored, and none is accepted for later.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "ok")]
    store: Option<&'static str>,
    /// Why the store is not well.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    store_reason: Option<String>,
}

/// Whether the process answers at all.
#[utoipa::path(get, path = "/livez", tag = "operation", responses((status = 200, body = Status)))]
pub(super) async fn livez() -> Json<Status> {
    Json(Status { status: "alive", store: None, store_reason: None })
}

/// Whether the server takes work.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "operation",
    responses(
        (status = 200, body = Status),
        (status = 503, description = "Loading, shutting down or failed", body = ProblemDocument, content_type = "application/problem+json")
    )
)]
pub(super) async fn readyz(State(state): State<Arc<AppState>>) -> Result<Json<Status>, Problem> {
    state.resident()?;
    let store = state.ledger.state();
    Ok(Json(Status {
        status: "ready",
        store: Some(state.ledger.state_name()),
        store_reason: store.and_then(|state| state.reason().map(str::to_owned)),
    }))
}

/// The same as `/readyz`, under the name that inference engines use.
#[utoipa::path(
    get,
    path = "/health",
    tag = "operation",
    responses(
        (status = 200, body = Status),
        (status = 503, description = "Loading, shutting down or failed", body = ProblemDocument, content_type = "application/problem+json")
    )
)]
pub(super) async fn health(state: State<Arc<AppState>>) -> Result<Json<Status>, Problem> {
    readyz(state).await
}

/// Prometheus metrics.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operation",
    responses((status = 200, description = "Prometheus text format 0.0.4", content_type = "text/plain"))
)]
pub(super) async fn metrics(State(state): State<Arc<AppState>>) -> Result<Response, Problem> {
    let text =
        state.scrape().map_err(|error| Problem::internal(Code::Internal, "the metrics cannot be encoded", &error))?;
    Ok(([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response())
}
