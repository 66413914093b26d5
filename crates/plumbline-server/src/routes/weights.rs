//! `POST /update_weights_from_disk` and `GET /get_weight_version`: SGLang's bodies, so that a trainer which updates its
//! engines only adds one address to its list.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::body::{MAX_NAME_CHARS, MediaType, Received, check_headers, receive};
use crate::problem::{Code, Problem, ProblemDocument};
use crate::state::{AppState, loading};
use crate::weights::directory_version;

/// Bytes of a request at most.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// Which checkpoint to load. Fields that SGLang knows and that are not listed here are accepted and mean nothing: there is no
/// cache to flush, and running requests are neither paused nor aborted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(remote = "Self")]
pub(super) struct UpdateRequest {
    /// Folder with `config.json` and safetensors, or with a PEFT adapter for the model that was started with, inside a
    /// `weights_root`. A relative path is looked for in each root.
    #[schema(value_type = String, example = "/checkpoints/step_42")]
    model_path: PathBuf,
    /// The version's name. Missing = the number at the end of the folder's name, or the whole name.
    #[schema(value_type = Option<String>, example = "42")]
    weight_version: Option<Version>,
    /// Only safetensors are loaded: `auto`, `safetensors` or missing.
    load_format: Option<String>,
}

plumbline_core::objects_only!(UpdateRequest);

/// A string, or a number that stands for one.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Version {
    Text(String),
    Number(u64),
}

/// What became of it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UpdateResponse {
    /// Whether the checkpoint is the current version now. If not, the earlier one goes on serving.
    success: bool,
    /// What was loaded, or why not.
    message: String,
    /// Always 0: no request is paused.
    num_paused_requests: u64,
}

/// The current version.
#[derive(Serialize, ToSchema)]
pub(super) struct WeightVersionResponse {
    /// Version that rollouts without a `policy_version` are scored with.
    weight_version: String,
}

/// Loads a checkpoint and makes it the current version of the reference.
///
/// Loads beside the current version and swaps between two batches; what was admitted before is scored with the version that
/// it was admitted for. Answers when the swap is done. The update goes on if the client leaves.
#[utoipa::path(
    post,
    path = "/update_weights_from_disk",
    tag = "weights",
    request_body = UpdateRequest,
    responses(
        (status = 200, description = "The version is current", body = UpdateResponse),
        (status = 400, description = "Refused; the earlier version goes on serving", body = UpdateResponse),
        (status = 401, description = "API key required", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "Too large", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "Not JSON", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Loading, shutting down or failed", body = ProblemDocument, content_type = "application/problem+json")
    )
)]
pub(super) async fn update(
    State(state): State<Arc<AppState>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    check_headers(&headers, &[MediaType::Json], MAX_BODY_BYTES)?;
    state.resident()?;
    let Received { bytes, room: _room } = receive(&state, &headers, body, MAX_BODY_BYTES).await?;
    let (path, version) = match parse(&bytes) {
        Ok(request) => request,
        Err(message) => return Ok(refused(message)),
    };
    let weights = state.weights.clone();
    let shown = format!("{} is current as version {version:?}", path.display());
    // On a task of its own: a client that leaves must not leave an update half done.
    let updated = tokio::spawn(async move { weights.update(&path, &version).await }).await;
    match updated {
        Ok(Ok(_)) => Ok(respond(StatusCode::OK, true, shown)),
        Ok(Err(error)) => Ok(refused(error.to_string())),
        Err(error) => Err(Problem::internal(Code::Internal, "the update failed; see the server's log", &error)),
    }
}

/// The current version of the reference's weights.
#[utoipa::path(
    get,
    path = "/get_weight_version",
    tag = "weights",
    responses(
        (status = 200, body = WeightVersionResponse),
        (status = 401, description = "API key required", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Loading, shutting down or failed", body = ProblemDocument, content_type = "application/problem+json")
    )
)]
pub(super) async fn version(State(state): State<Arc<AppState>>) -> Result<Json<WeightVersionResponse>, Problem> {
    state.resident()?;
    let current = state.scheduler.reference().ok_or_else(loading)?;
    Ok(Json(WeightVersionResponse { weight_version: current.policy_version.clone() }))
}

/// The path and the version's name, or what is wrong with the request.
fn parse(bytes: &[u8]) -> Result<(PathBuf, String), String> {
    let request: UpdateRequest =
        serde_json::from_slice(bytes).map_err(|error| format!("the body is not usable: {error}"))?;
    if let Some(format) = request.load_format.filter(|format| !["auto", "safetensors"].contains(&format.as_str())) {
        return Err(format!("load_format {format:?} is not supported, only safetensors are loaded"));
    }
    if request.model_path.as_os_str().is_empty() {
        return Err("model_path must not be empty".into());
    }
    let version = match request.weight_version {
        Some(Version::Text(text)) => text,
        Some(Version::Number(number)) => number.to_string(),
        None => default_version(&request.model_path)?,
    };
    let usable =
        !version.is_empty() && version.chars().count() <= MAX_NAME_CHARS && !version.chars().any(char::is_control);
    if !usable {
        return Err(format!("weight_version must have 1 to {MAX_NAME_CHARS} characters and no control characters"));
    }
    Ok((request.model_path, version))
}

fn default_version(path: &Path) -> Result<String, String> {
    directory_version(path).ok_or_else(|| format!("weight_version is missing and {} has no name", path.display()))
}

fn refused(message: String) -> Response {
    respond(StatusCode::BAD_REQUEST, false, message)
}

fn respond(status: StatusCode, success: bool, message: String) -> Response {
    (status, Json(UpdateResponse { success, message, num_paused_requests: 0 })).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sglangs_body_is_understood_and_the_rest_of_it_means_nothing() {
        let body = r#"{"model_path":"/c/step_7","load_format":null,"weight_version":"v7","flush_cache":true,
            "abort_all_requests":false,"is_async":false,"torch_empty_cache":false,"keep_pause":false}"#;
        assert_eq!(parse(body.as_bytes()), Ok(("/c/step_7".into(), "v7".into())));
        let parsed = |body: &str| parse(body.as_bytes()).map(|(_, version)| version);
        assert_eq!(parsed(r#"{"model_path":"/c/step_7","weight_version":null}"#), Ok("7".into()));
        assert_eq!(parsed(r#"{"model_path":"/c/step_7/","weight_version":12,"load_format":"auto"}"#), Ok("12".into()));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let error = |body: &str| parse(body.as_bytes()).unwrap_err();
        assert!(error("{").contains("not usable"));
        assert!(error("{}").contains("model_path"));
        assert!(error(r#"["/c","7"]"#).contains("an object"));
        assert!(error(r#"{"model_path":""}"#).contains("model_path"));
        assert!(error(r#"{"model_path":"/"}"#).contains("weight_version is missing"));
        assert!(error(r#"{"model_path":"/c","weight_version":""}"#).contains("weight_version"));
        assert!(error(r#"{"model_path":"/c","weight_version":"a\nb"}"#).contains("control"));
        assert!(error(r#"{"model_path":"/c","load_format":"pt"}"#).contains("\"pt\""));
    }
}
