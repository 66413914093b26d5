//! `GET /v1/reference`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use plumbline_core::TokenId;
use serde::Serialize;
use utoipa::ToSchema;

use super::noise_floor::NoiseFloorResponse;
use crate::floor::FloorState;
use crate::problem::{Problem, ProblemDocument};
use crate::state::{AppState, loading};

/// The resident reference.
#[derive(Serialize, ToSchema)]
pub(super) struct ReferenceResponse {
    /// Its name.
    model: String,
    /// `model_type` of its configuration.
    #[schema(example = "qwen3")]
    family: String,
    /// Current version of its weights.
    policy_version: String,
    /// Versions that rollouts can be scored with, oldest first.
    policy_versions: Vec<String>,
    /// Memory of all resident weights, in bytes, on all devices together.
    weight_bytes: u64,
    /// dtype of the decoder body.
    #[schema(example = "f32")]
    dtype: String,
    /// dtype in which the lm_head multiplies.
    #[schema(example = "f32")]
    head_dtype: String,
    /// Where it runs; `cuda:0,1` if several devices each hold a copy.
    #[schema(example = "cpu")]
    device: String,
    /// Number of weights.
    parameters: u64,
    /// Ids that end a sequence.
    eos_token_ids: Vec<TokenId>,
    /// What can be sent.
    limits: LimitsResponse,
    /// Measured scoring speed over recent batches; null before the first.
    #[schema(required = true)]
    tokens_per_second: Option<f64>,
    /// Divergence that a faithful bf16 engine of this model would show; null: not measured.
    #[schema(required = true)]
    noise_floor: Option<NoiseFloorResponse>,
    /// How far the noise floor of the current version is: `off`, `measuring`, `waiting` (for traffic to measure it on),
    /// `sampled` (known from text sampled from the reference), `traffic` (known from recent traffic), `unsupported` (the
    /// reference cannot simulate a bf16 engine) or `failed`.
    #[schema(example = "traffic")]
    noise_floor_state: &'static str,
}

/// Limits of the model and of the server.
#[derive(Serialize, ToSchema)]
pub(super) struct LimitsResponse {
    /// Token ids must be below.
    vocab_size: usize,
    /// Positions that the model has.
    max_positions: usize,
    /// Tokens of one sequence, prompt and completion.
    max_sequence_tokens: usize,
    /// Sequences of one request.
    max_sequences_per_request: usize,
    /// Bytes of one request body.
    max_body_bytes: usize,
    /// Tokens of one forward over several sequences.
    max_batch_tokens: usize,
    /// Tokens that may wait.
    max_queue_tokens: usize,
}

/// The resident model, its version and its limits.
#[utoipa::path(
    get,
    path = "/v1/reference",
    tag = "verification",
    responses(
        (status = 200, body = ReferenceResponse),
        (status = 401, description = "API key required", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Loading, shutting down or failed", body = ProblemDocument, content_type = "application/problem+json")
    )
)]
pub(super) async fn show(State(state): State<Arc<AppState>>) -> Result<Json<ReferenceResponse>, Problem> {
    let resident = state.resident()?;
    let (residents, config) = (state.scheduler.residents(), &state.config);
    let info = residents.current().ok_or_else(loading)?;
    Ok(Json(ReferenceResponse {
        model: info.model.clone(),
        family: info.family.clone(),
        policy_version: info.policy_version.clone(),
        policy_versions: residents.kept().iter().map(|info| info.policy_version.clone()).collect(),
        weight_bytes: residents.weight_bytes(),
        dtype: info.dtype.clone(),
        head_dtype: info.head_dtype.clone(),
        device: info.device.clone(),
        parameters: info.parameters,
        eos_token_ids: info.eos_token_ids.clone(),
        limits: LimitsResponse {
            vocab_size: info.limits.vocab_size,
            max_positions: info.limits.max_positions,
            max_sequence_tokens: resident.limits.model.max_positions,
            max_sequences_per_request: config.max_sequences_per_request,
            max_body_bytes: config.max_body_bytes,
            max_batch_tokens: config.max_batch_tokens,
            max_queue_tokens: config.max_queue_tokens,
        },
        tokens_per_second: state.scheduler.tokens_per_second(),
        noise_floor: state.floors.of(&info.policy_version).as_deref().map(NoiseFloorResponse::of),
        noise_floor_state: state.metrics.floor_state().unwrap_or(FloorState::Measuring).as_str(),
    }))
}
