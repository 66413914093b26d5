//! `GET /v1/runs` and `GET /v1/runs/{run}`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use plumbline_divergence::{GroupView, SufficientStatistics, TimePoint, VerdictLevels};
use serde::Serialize;
use utoipa::ToSchema;

use super::name::Name;
use crate::ledger;
use crate::metrics::DivergenceMetrics;
use crate::problem::{Code, Problem, ProblemDocument};
use crate::run_view::{EngineResponse, VerdictLevelsResponse};
use crate::state::AppState;
use crate::timestamp::rfc3339;
use crate::verify::{SIGN, compute};

/// All runs that were seen recently.
#[derive(Serialize, ToSchema)]
pub(super) struct RunsResponse {
    /// By name. A run without a sequence for `label_idle_seconds` is forgotten; beyond `max_label_sets` pairs of run and engine,
    /// further ones share the run `other`.
    runs: Vec<RunSummary>,
}

/// One run in the list.
#[derive(Serialize, ToSchema)]
pub(super) struct RunSummary {
    /// Its name.
    run: String,
    /// Its engines, by name.
    engines: Vec<EngineSummary>,
}

/// One engine of a run in the list.
#[derive(Serialize, ToSchema)]
pub(super) struct EngineSummary {
    /// Its name.
    engine: String,
    /// Time of its first sequence.
    #[schema(format = DateTime)]
    first_seen_at: String,
    /// Time of its last sequence.
    #[schema(format = DateTime)]
    last_seen_at: String,
    /// Compared tokens since then.
    tokens: u64,
    /// Sequences with at least one compared token since then.
    sequences: u64,
    /// On the sliding window.
    #[schema(example = "consistent")]
    verdict: &'static str,
    /// What the verdict rests on, for people.
    verdict_reason: String,
    /// Mean |d| of the window in nats.
    #[schema(required = true)]
    mae_logprob: Option<f64>,
    /// The same as a multiple of the noise floor.
    #[schema(required = true)]
    noise_floor_multiple: Option<f64>,
    /// Evidence of a change relative to what raises an alarm, 1 and above = alarm; null for `other`, where streams mix.
    #[schema(required = true)]
    drift_score: Option<f64>,
    /// The same of everything since its first sequence.
    since_start: SinceStart,
    /// The latest 30 stretches of time with a sequence, oldest first.
    trend: ShortTrend,
}

/// Of everything since an engine's first sequence.
#[derive(Serialize, ToSchema)]
pub(super) struct SinceStart {
    /// The verdict.
    #[schema(example = "consistent")]
    verdict: &'static str,
    /// What it rests on, for people.
    verdict_reason: String,
    /// Mean |d| in nats.
    #[schema(required = true)]
    mae_logprob: Option<f64>,
    /// The same as a multiple of the noise floor.
    #[schema(required = true)]
    noise_floor_multiple: Option<f64>,
}

/// A trend in few words: one value for each stretch of time. Numbers have five digits.
#[derive(Serialize, ToSchema)]
pub(super) struct ShortTrend {
    /// When it began.
    #[schema(format = DateTime)]
    from: Vec<String>,
    /// Mean |d| in nats.
    mae_logprob: Vec<Option<f64>>,
    /// The same as a multiple of the noise floor.
    noise_floor_multiple: Vec<Option<f64>>,
}

/// One run.
#[derive(Serialize, ToSchema)]
pub(super) struct RunResponse {
    /// Its name.
    run: String,
    /// The sign convention of every log ratio.
    #[schema(example = "reference_logprob - engine_logprob, in nats")]
    log_ratio_sign: &'static str,
    /// Length of the sliding windows in seconds.
    window_seconds: u64,
    /// Above which levels verdicts get worse.
    verdict_levels: VerdictLevelsResponse,
    /// State of the store, as in `/readyz`. While it is neither `ok` nor `none`, not everything that is counted is stored.
    #[schema(example = "ok")]
    store: &'static str,
    /// Its engines, by name.
    engines: Vec<EngineResponse>,
}

/// Runs and their engines.
#[utoipa::path(
    get,
    path = "/v1/runs",
    tag = "runs",
    responses(
        (status = 200, body = RunsResponse),
        (status = 401, description = "API key required", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Loading, shutting down or failed", body = ProblemDocument, content_type = "application/problem+json")
    )
)]
pub(super) async fn list(State(state): State<Arc<AppState>>) -> Result<Json<RunsResponse>, Problem> {
    let divergence = &state.resident()?.divergence;
    let runs = summaries(divergence, &state.config.verdict_levels());
    Ok(Json(RunsResponse { runs: runs.into_iter().map(|(run, engines)| RunSummary { run, engines }).collect() }))
}

fn summaries(divergence: &DivergenceMetrics, levels: &VerdictLevels) -> BTreeMap<String, Vec<EngineSummary>> {
    let at = |since_start| rfc3339(divergence.time_of(since_start));
    let mut runs: BTreeMap<String, Vec<EngineSummary>> = BTreeMap::new();
    for group in divergence.groups() {
        let judgement = levels.judge(&group.window);
        let since_start = SinceStart::of(&group.totals, levels);
        let trend = ShortTrend::of(&group.recent, &at);
        runs.entry(group.key.run).or_default().push(EngineSummary {
            engine: group.key.engine,
            first_seen_at: at(group.first_seen),
            last_seen_at: at(group.last_seen),
            tokens: group.tokens,
            sequences: group.sequences,
            verdict: judgement.verdict.as_str(),
            verdict_reason: judgement.reason,
            mae_logprob: group.window.mae(),
            noise_floor_multiple: group.window.noise_floor_multiple(),
            drift_score: group.drift_score,
            since_start,
            trend,
        });
    }
    runs.values_mut().for_each(|engines| engines.sort_by(|a, b| a.engine.cmp(&b.engine)));
    runs
}

impl SinceStart {
    fn of(totals: &SufficientStatistics, levels: &VerdictLevels) -> Self {
        let judgement = levels.judge(totals);
        Self {
            verdict: judgement.verdict.as_str(),
            verdict_reason: judgement.reason,
            mae_logprob: totals.mae(),
            noise_floor_multiple: totals.noise_floor_multiple(),
        }
    }
}

impl ShortTrend {
    fn of(points: &[TimePoint], at: &impl Fn(Duration) -> String) -> Self {
        let short = |value: f64| format!("{value:.4e}").parse().ok();
        Self {
            from: points.iter().map(|point| at(point.from)).collect(),
            mae_logprob: points.iter().map(|point| point.sums.mae_logprob().and_then(short)).collect(),
            noise_floor_multiple: points
                .iter()
                .map(|point| point.sums.noise_floor_multiple().and_then(short))
                .collect(),
        }
    }
}

/// What is known of a run: by the monitor, or by the store if the monitor has forgotten it.
pub(super) async fn views(state: &Arc<AppState>, run: &str) -> Result<Vec<GroupView>, Problem> {
    let divergence = Arc::clone(&state.resident()?.divergence);
    let views = divergence.view(run);
    if !views.is_empty() || state.ledger.store().is_none() {
        return Ok(views);
    }
    let (state, run) = (Arc::clone(state), run.to_owned());
    let recalled = compute(true, move || ledger::recall(&state.ledger, &divergence, &run)).await?;
    recalled.map_err(|error| ledger::problem(&error))
}

pub(crate) fn not_found(run: &str) -> Problem {
    Problem::new(Code::RunNotFound, format!("there is no run {run:?}, or it has been idle for too long"))
}

/// One run: metrics per engine with intervals, verdict, drift, trends by time and by policy version, workers, causes.
#[utoipa::path(
    get,
    path = "/v1/runs/{run}",
    tag = "runs",
    params(("run" = String, Path, description = "Name of the run")),
    responses(
        (status = 200, body = RunResponse),
        (status = 401, description = "API key required", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "No such run", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Loading, shutting down or failed", body = ProblemDocument, content_type = "application/problem+json")
    )
)]
pub(super) async fn show(State(state): State<Arc<AppState>>, Name(run): Name) -> Result<Json<RunResponse>, Problem> {
    let resident = state.resident()?;
    let (divergence, text) = (&resident.divergence, resident.text.as_deref());
    let levels = state.config.verdict_levels();
    let verdict_levels = VerdictLevelsResponse::of(&levels);
    let views = views(&state, &run).await?;
    if views.is_empty() {
        return Err(not_found(&run));
    }
    let at = |since_start| rfc3339(divergence.time_of(since_start));
    let mut engines: Vec<_> = views.into_iter().map(|view| EngineResponse::of(view, &levels, text, &at)).collect();
    engines.sort_by(|a, b| a.engine.cmp(&b.engine));
    let window_seconds = state.config.window_seconds;
    let store = state.ledger.state_name();
    Ok(Json(RunResponse { run, log_ratio_sign: SIGN, window_seconds, verdict_levels, store, engines }))
}
