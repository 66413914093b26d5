//! `GET /v1/alerts`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::alerts::{Alert, AlertName};
use crate::problem::ProblemDocument;
use crate::state::AppState;
use crate::verify::SIGN;

/// What fires, what was resolved lately, and who is told.
#[derive(Serialize, ToSchema)]
pub(super) struct AlertsResponse {
    /// The sign convention of every log ratio.
    #[schema(example = "reference_logprob - engine_logprob, in nats")]
    log_ratio_sign: &'static str,
    /// What is watched: the alerts' names and severities.
    watched: Vec<WatchedResponse>,
    /// What fires.
    firing: Vec<AlertResponse>,
    /// What was resolved, the latest first; at most 256.
    resolved: Vec<AlertResponse>,
    /// Who is told.
    receivers: Vec<ReceiverResponse>,
}

/// Something that is watched.
#[derive(Serialize, ToSchema)]
#[schema(as = WatchedAlert)]
pub(super) struct WatchedResponse {
    /// The label `alertname`.
    #[schema(example = "PlumblineDivergenceDrift")]
    alertname: &'static str,
    /// The label `severity`.
    #[schema(example = "warning")]
    severity: &'static str,
}

/// One alert.
#[derive(Serialize, ToSchema)]
#[schema(as = Alert)]
pub(super) struct AlertResponse {
    /// `firing` or `resolved`.
    #[schema(example = "firing")]
    status: &'static str,
    /// Of its labels, as Alertmanager has it.
    #[schema(example = "5f2ba2b7c1d3a0e9")]
    fingerprint: String,
    /// Who it is about: `alertname`, `severity` and, of a run, `run`, `engine` and `model_name`.
    labels: BTreeMap<String, String>,
    /// What is said of it: `summary`, `description` and numbers, `cause` if one was found; resolved: `resolution`.
    annotations: BTreeMap<String, String>,
    /// Where to look; empty without `external_url`.
    generator_url: String,
    /// When it began to fire.
    #[schema(format = DateTime)]
    starts_at: String,
    /// When it was over; null while it fires.
    #[schema(format = DateTime, required = true)]
    ends_at: Option<String>,
}

/// One receiver.
#[derive(Serialize, ToSchema)]
#[schema(as = AlertReceiver)]
pub(super) struct ReceiverResponse {
    /// Its name.
    name: String,
    /// `alertmanager` or `webhook`.
    #[schema(example = "webhook")]
    kind: &'static str,
    /// Scheme, host and port of its address.
    #[schema(example = "https://alerts.example.com")]
    origin: String,
    /// Notifications that wait for it.
    waiting: usize,
    /// When it took one last, since the start of the service.
    #[schema(format = DateTime, required = true)]
    delivered_at: Option<String>,
    /// Why the last try failed; null after one that did not.
    #[schema(required = true)]
    error: Option<String>,
}

impl From<Alert> for AlertResponse {
    fn from(alert: Alert) -> Self {
        Self {
            status: alert.status(),
            fingerprint: alert.fingerprint(),
            starts_at: alert.starts_at.rfc3339(),
            ends_at: alert.ends_at.map(|at| at.rfc3339()),
            labels: alert.labels,
            annotations: alert.annotations,
            generator_url: alert.generator_url,
        }
    }
}

/// What fires, what was resolved lately, and who is told.
#[utoipa::path(
    get,
    path = "/v1/alerts",
    tag = "operation",
    responses(
        (status = 200, body = AlertsResponse),
        (status = 401, description = "API key required", body = ProblemDocument, content_type = "application/problem+json")
    )
)]
pub(super) async fn list(State(state): State<Arc<AppState>>) -> Json<AlertsResponse> {
    let (firing, resolved) = state.alerts.all();
    let list = |alerts: Vec<Alert>| alerts.into_iter().map(AlertResponse::from).collect();
    let receivers = state.alerts.receivers().into_iter().map(|(receiver, waiting, own)| ReceiverResponse {
        origin: receiver.origin(),
        name: receiver.name,
        kind: receiver.kind.as_str(),
        waiting,
        delivered_at: own.delivered_at.map(|at| at.rfc3339()),
        error: own.error,
    });
    let watched =
        AlertName::WATCHED.map(|name| WatchedResponse { alertname: name.as_str(), severity: name.severity() });
    Json(AlertsResponse {
        log_ratio_sign: SIGN,
        watched: watched.into(),
        firing: list(firing),
        resolved: list(resolved),
        receivers: receivers.collect(),
    })
}
