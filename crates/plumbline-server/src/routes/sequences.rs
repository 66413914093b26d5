//! `GET /v1/runs/{run}/sequences` and `GET /v1/sequences/{id}`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use plumbline_core::{SkipReason, TokenId};
use plumbline_divergence::{Metrics, TokenComparison};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::name::Name;
use crate::evidence_view;
use crate::ledger;
use crate::openapi::MetricsDocument;
use crate::problem::{Code, Problem, ProblemDocument};
use crate::sequences::{SortKey, StoredSequence};
use crate::state::AppState;
use crate::timestamp::rfc3339;
use crate::verify::{FindingResponse, SIGN};

/// Sequences of one answer at most, and where nothing is said.
const MAX_LIMIT: usize = 256;
const DEFAULT_LIMIT: usize = 20;
/// Worst tokens that are listed.
const WORST_TOKENS: usize = 10;

/// Which sequences, in which order.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct SequencesQuery {
    /// What to sort by. Missing = `kl_k3`.
    #[serde(default)]
    #[param(inline)]
    sort: Sort,
    /// Missing = `desc`.
    #[serde(default)]
    #[param(inline)]
    order: Order,
    /// Sequences of the answer at most, 1 to 256. Missing = 20.
    #[param(minimum = 1, maximum = 256)]
    limit: Option<usize>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Sort {
    #[default]
    KlK3,
    Mae,
    Length,
    Time,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Order {
    #[default]
    Desc,
    Asc,
}

/// Sequences of a run that are kept.
#[derive(Serialize, ToSchema)]
pub(super) struct SequencesResponse {
    /// The run.
    run: String,
    /// In the order asked for. With a data dir all are kept as long as retention has them, else the worst, the longest and the
    /// latest ones.
    sequences: Vec<SequenceSummaryResponse>,
}

/// One sequence without its tokens.
#[derive(Serialize, ToSchema)]
#[schema(as = StoredSequence)]
pub(super) struct SequenceSummaryResponse {
    /// The server's id, for `/v1/sequences/{id}`.
    id: String,
    /// The sender's id.
    sequence_id: String,
    /// The run; `other` beyond the limit of runs.
    run: String,
    /// The engine, as sent.
    engine: String,
    /// The worker, as sent.
    #[schema(required = true)]
    worker: Option<String>,
    /// Version of the weights that scored it; null if several did.
    #[schema(required = true)]
    policy_version: Option<String>,
    /// When it was answered.
    #[schema(format = DateTime)]
    at: String,
    /// Completion tokens.
    length: usize,
    /// The verdict.
    #[schema(example = "consistent")]
    verdict: &'static str,
    /// What the verdict rests on, for people.
    verdict_reason: String,
    /// Over its compared tokens.
    #[schema(value_type = MetricsDocument)]
    metrics: Metrics,
    /// The likeliest cause, where it was diagnosed since the server started and something beyond noise was found.
    #[schema(required = true)]
    cause: Option<&'static str>,
}

/// One sequence, token by token.
#[derive(Serialize, ToSchema)]
#[schema(as = StoredSequenceWithTokens)]
pub(super) struct SequenceResponse {
    #[serde(flatten)]
    summary: SequenceSummaryResponse,
    /// The sign convention of the log ratios.
    #[schema(example = "reference_logprob - engine_logprob, in nats")]
    log_ratio_sign: &'static str,
    /// Its causes, the likeliest first; empty where nothing beyond noise was found, null where it was not diagnosed since the
    /// server started (or that is no longer known).
    #[schema(required = true)]
    diagnosis: Option<Vec<FindingResponse<'static>>>,
    /// One per completion token; none where retention has removed them.
    tokens: Vec<TokenResponse>,
    /// Indices of the compared tokens with the largest |d|, at most ten, the largest first.
    worst_tokens: Vec<usize>,
}

/// One completion token.
#[derive(Serialize, ToSchema)]
#[schema(as = StoredToken)]
pub(super) struct TokenResponse {
    /// Its id.
    id: TokenId,
    /// Its text: all texts, one behind the other, are the completion's. Empty for a token that only begins a character, and for
    /// an id that the tokenizer does not know; absent where the model has no tokenizer files.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    text: Option<String>,
    /// The engine's logprob; null where it gave none or no number.
    #[schema(required = true)]
    engine_logprob: Option<f64>,
    /// The reference's in the same mode; null without context.
    #[schema(required = true)]
    reference_logprob: Option<f64>,
    /// Reference minus engine; null where either is missing or no logprob.
    #[schema(required = true)]
    log_ratio: Option<f64>,
    /// exp(log ratio), the exponent limited to +-20.
    #[schema(required = true)]
    importance_ratio: Option<f64>,
    /// Of the reference's next-token distribution at temperature 1, in nats.
    #[schema(required = true)]
    entropy: Option<f64>,
    /// Number of tokens that the reference prefers; 0 = its own first choice.
    #[schema(required = true)]
    rank: Option<u32>,
    /// Why it enters no sum (`masked`, `sentinel`, ...); null if it does.
    #[schema(required = true)]
    skipped: Option<&'static str>,
}

/// The worst, longest or latest sequences of a run.
#[utoipa::path(
    get,
    path = "/v1/runs/{run}/sequences",
    tag = "runs",
    params(("run" = String, Path, description = "Name of the run"), SequencesQuery),
    responses(
        (status = 200, body = SequencesResponse),
        (status = 401, description = "API key required", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "No such run", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "Invalid query", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Loading, shutting down or failed", body = ProblemDocument, content_type = "application/problem+json")
    )
)]
pub(super) async fn list(
    State(state): State<Arc<AppState>>,
    Name(run): Name,
    query: Result<Query<SequencesQuery>, QueryRejection>,
) -> Result<Json<SequencesResponse>, Problem> {
    let resident = state.resident()?;
    let Query(query) = query.map_err(|error| Problem::new(Code::InvalidValue, error.body_text()))?;
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Problem::new(Code::InvalidValue, format!("limit is {limit}, must be from 1 to {MAX_LIMIT}")));
    }
    let key = match query.sort {
        Sort::KlK3 => SortKey::KlK3,
        Sort::Mae => SortKey::Mae,
        Sort::Length => SortKey::Length,
        Sort::Time => SortKey::Time,
    };
    let sequences = ledger::list(&state, &run, key, query.order == Order::Desc, limit).await?;
    if sequences.is_empty() && resident.divergence.view(&run).is_empty() {
        return Err(super::runs::not_found(&run));
    }
    Ok(Json(SequencesResponse {
        run,
        sequences: sequences.iter().map(|one| SequenceSummaryResponse::of(one, &state)).collect(),
    }))
}

/// One sequence, token by token.
#[utoipa::path(
    get,
    path = "/v1/sequences/{id}",
    tag = "runs",
    params(("id" = String, Path, description = "The server's id of the sequence")),
    responses(
        (status = 200, body = SequenceResponse),
        (status = 401, description = "API key required", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "No such sequence, or no longer kept", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Loading, shutting down or failed", body = ProblemDocument, content_type = "application/problem+json")
    )
)]
pub(super) async fn show(
    State(state): State<Arc<AppState>>,
    Name(id): Name,
) -> Result<Json<SequenceResponse>, Problem> {
    let resident = state.resident()?;
    let sequence = ledger::get(&state, &id).await?.ok_or_else(|| {
        Problem::new(Code::SequenceNotFound, format!("there is no sequence {id:?}, or it is no longer kept"))
    })?;
    let tokens = &sequence.comparison.tokens;
    let mut texts = resident.text.as_deref().map(|text| {
        let ids: Vec<TokenId> = tokens.iter().map(|token| token.token_id).collect();
        evidence_view::texts(text, sequence.last_of_prompt, &ids).into_iter()
    });
    let text = || texts.as_mut().and_then(Iterator::next);
    Ok(Json(SequenceResponse {
        summary: SequenceSummaryResponse::of(&sequence, &state),
        diagnosis: state
            .findings
            .of(&sequence.id)
            .map(|found| found.iter().cloned().map(FindingResponse::from).collect()),
        log_ratio_sign: SIGN,
        worst_tokens: worst(tokens),
        tokens: tokens
            .iter()
            .zip(std::iter::repeat_with(text))
            .map(|(token, text)| TokenResponse::of(token, text))
            .collect(),
    }))
}

/// Indices of the tokens with the largest differences.
fn worst(tokens: &[TokenComparison]) -> Vec<usize> {
    let size = |index: &usize| tokens[*index].compared().map_or(0.0, |(engine, reference)| (reference - engine).abs());
    let mut compared: Vec<usize> = (0..tokens.len()).filter(|index| tokens[*index].compared().is_some()).collect();
    compared.sort_by(|a, b| size(b).total_cmp(&size(a)));
    compared.truncate(WORST_TOKENS);
    compared
}

impl SequenceSummaryResponse {
    fn of(stored: &StoredSequence, state: &AppState) -> Self {
        let findings = state.findings.of(&stored.id);
        Self {
            id: stored.id.clone(),
            sequence_id: stored.comparison.id.clone(),
            run: stored.run.clone(),
            engine: stored.engine.clone(),
            worker: stored.worker.clone(),
            policy_version: stored.policy_version.clone(),
            at: rfc3339(stored.at),
            length: stored.length,
            verdict: stored.verdict.as_str(),
            verdict_reason: stored.verdict_reason.clone(),
            metrics: stored.metrics.clone(),
            cause: findings.and_then(|found| Some(found.first()?.cause.as_str())),
        }
    }
}

impl TokenResponse {
    fn of(token: &TokenComparison, text: Option<String>) -> Self {
        Self {
            id: token.token_id,
            text,
            engine_logprob: token.engine.filter(|engine| engine.is_finite()),
            reference_logprob: token.reference,
            log_ratio: token.log_ratio(),
            importance_ratio: token.importance_ratio(),
            entropy: token.entropy,
            rank: token.rank,
            skipped: token.skipped.map(SkipReason::as_str),
        }
    }
}
