//! One run and engine as the API shows it.

use std::collections::BTreeMap;
use std::time::Duration;

use plumbline_core::{SkipCounts, TokenText};
use plumbline_divergence::{
    Cause, DriftEvent, DriftRecord, DriftState, DriftUnit, GroupView, Interval, Metrics, NamedPoint, PointSums,
    PooledSums, TimePoint, Verdict, VerdictLevels,
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::evidence_view::EvidenceResponse;
use crate::openapi::{MetricsWithIntervalsDocument, SkippedDocument};
use crate::verify::FindingResponse;

/// Turns a time in a view into a time of day.
pub(crate) type At<'a> = dyn Fn(Duration) -> String + 'a;

/// Levels above which verdicts get worse, as configured (`docs/noise-floor.md`).
#[derive(Serialize, ToSchema)]
#[schema(as = VerdictLevels)]
pub(crate) struct VerdictLevelsResponse {
    /// Fewer compared tokens than this are `insufficient`.
    min_tokens: u64,
    /// Multiple of the noise floor above which it is `suspect`,
    floor_suspect: f64,
    /// and `divergent`.
    floor_divergent: f64,
    /// Standard errors by which a multiple has to be above 1 to count.
    significance: f64,
    /// Mean |d| in nats up to which a multiple does not count.
    mae_negligible: f64,
    /// Where no noise floor is known: mean |d| in nats above which it is `suspect`,
    mae_suspect: f64,
    /// and `divergent`.
    mae_divergent: f64,
    /// Where no noise floor is known: mean k3 in nats above which it is `suspect`.
    kl_k3_suspect: f64,
    /// Mean k3 in nats above which it is `divergent`.
    kl_k3_divergent: f64,
}

impl VerdictLevelsResponse {
    pub(crate) fn of(levels: &VerdictLevels) -> Self {
        let VerdictLevels {
            min_tokens,
            floor_suspect,
            floor_divergent,
            significance,
            mae_negligible,
            mae_suspect,
            mae_divergent,
            kl_k3_suspect,
            kl_k3_divergent,
        } = *levels;
        Self {
            min_tokens,
            floor_suspect,
            floor_divergent,
            significance,
            mae_negligible,
            mae_suspect,
            mae_divergent,
            kl_k3_suspect,
            kl_k3_divergent,
        }
    }
}

/// One engine of a run.
#[derive(Serialize, ToSchema)]
#[schema(as = RunEngine)]
pub(crate) struct EngineResponse {
    /// Its name.
    pub(crate) engine: String,
    /// Time of its first sequence.
    #[schema(format = DateTime)]
    first_seen_at: String,
    /// Time of its last sequence.
    #[schema(format = DateTime)]
    last_seen_at: String,
    /// On the sliding window.
    #[schema(example = "consistent")]
    verdict: &'static str,
    /// What the verdict rests on, for people.
    verdict_reason: String,
    /// Metrics of the sliding window with their intervals. Quantiles and Spearman need single values and are null.
    #[schema(value_type = MetricsWithIntervalsDocument)]
    metrics: MetricsWithIntervals,
    /// Mean |d| in nats that a faithful bf16 engine would show on the tokens of the window; null: not measured.
    #[schema(required = true)]
    noise_floor: Option<f64>,
    /// Everything since the first sequence.
    totals: TotalsResponse,
    /// Where the drift detector stands; null for `other`, where streams mix.
    #[schema(required = true)]
    drift: Option<DriftResponse>,
    /// The latest 32 changes of level, oldest first.
    drift_events: Vec<DriftEventResponse>,
    /// By time, at most 120 stretches of equal length, oldest first; stretches without a sequence are left out.
    trend: Vec<TrendPoint>,
    /// By version of the weights that scored, the latest 64 in order of appearance.
    policy_versions: Vec<NamedPointResponse>,
    /// Sequences of earlier versions; null if there are none.
    #[schema(required = true)]
    earlier_policy_versions: Option<PointResponse>,
    /// By worker, the first 64 in order of appearance.
    workers: Vec<NamedPointResponse>,
    /// Sequences of further workers; null if there are none.
    #[schema(required = true)]
    other_workers: Option<PointResponse>,
    /// Diagnosed sequences by the cause that was ranked first; only causes that were seen.
    diagnosis: BTreeMap<&'static str, u64>,
    /// Causes of the run as a whole, the likeliest first, from its latest 4096 to 8192 sequences: what its diagnosed sequences
    /// have in common, and what one worker or cached prompts have that the others have not. Empty: nothing beyond noise was
    /// found.
    causes: Vec<FindingResponse<'static>>,
    /// Where the differences of these sequences are.
    token_evidence: EvidenceResponse,
}

/// Metrics and the 95 % intervals of those that are means, clustered by sequence, as `{key}_ci95`.
#[derive(Serialize)]
pub(crate) struct MetricsWithIntervals {
    #[serde(flatten)]
    metrics: Metrics,
    #[serde(flatten)]
    intervals: BTreeMap<&'static str, Option<Interval>>,
}

impl MetricsWithIntervals {
    pub(crate) fn of(sums: &PooledSums) -> Self {
        Self { metrics: Metrics::of_statistics(&sums.statistics), intervals: sums.clusters.intervals() }
    }
}

/// Sums since the first sequence.
#[derive(Serialize, ToSchema)]
#[schema(as = RunTotals)]
pub(crate) struct TotalsResponse {
    /// The verdict on them.
    #[schema(example = "consistent")]
    verdict: &'static str,
    /// What it rests on, for people.
    verdict_reason: String,
    /// Metrics with their intervals.
    #[schema(value_type = MetricsWithIntervalsDocument)]
    metrics: MetricsWithIntervals,
    /// Tokens that enter no sum, by reason.
    #[schema(value_type = SkippedDocument)]
    skipped: SkipCounts,
    /// Sequences by verdict.
    verdicts: BTreeMap<&'static str, u64>,
}

/// Where a drift detector stands.
#[derive(Serialize, ToSchema)]
#[schema(as = Drift)]
pub(crate) struct DriftResponse {
    /// Evidence of a change relative to what raises an alarm: 0 = none, 1 and above = alarm.
    score: f64,
    /// The alarm, while it lasts.
    #[schema(required = true)]
    alarm: Option<DriftEventResponse>,
    /// Level that new sequences are compared with; null while it is being learned.
    #[schema(required = true)]
    level: Option<f64>,
    /// What levels are measured in: `noise_floors` (multiples) or `nats`; null before the first sequence.
    #[schema(value_type = Option<String>, required = true, example = "noise_floors")]
    unit: Option<DriftUnit>,
    /// Sequences that are still needed to learn the level.
    learning: u64,
}

/// A change of level.
#[derive(Serialize, ToSchema)]
#[schema(as = DriftEvent)]
pub(crate) struct DriftEventResponse {
    /// `up` (away from the reference) or `down`.
    #[schema(value_type = String, example = "up")]
    direction: plumbline_divergence::DriftDirection,
    /// `step`, `version_steps` (again and again where the policy version changes) or `creep` (grows with uptime).
    #[schema(value_type = String, example = "step")]
    kind: plumbline_divergence::DriftKind,
    /// Estimated time of the first sequence after the change.
    #[schema(format = DateTime)]
    began_at: String,
    /// Number of that sequence since the engine's first one, which has number 0.
    began_sequence: u64,
    /// Its policy version.
    #[schema(required = true)]
    policy_version: Option<String>,
    /// Whether the change began with that version's first sequence.
    at_version_change: bool,
    /// When it was seen.
    #[schema(format = DateTime)]
    seen_at: String,
    /// Number of the sequence with which it was seen.
    seen_sequence: u64,
    /// Level before, in `unit`.
    level_before: f64,
    /// `noise_floors` or `nats`.
    #[schema(value_type = String, example = "noise_floors")]
    unit: DriftUnit,
    /// Level after over level before.
    size: f64,
    /// When the alarm was over; null while it lasts.
    #[schema(format = DateTime, required = true)]
    ended_at: Option<String>,
}

/// A few sums of a set of sequences.
#[derive(Serialize, ToSchema)]
#[schema(as = TrendSums)]
pub(crate) struct PointResponse {
    /// Sequences with at least one compared token.
    sequences: u64,
    /// Compared tokens.
    tokens: u64,
    /// Mean |d| in nats.
    #[schema(required = true)]
    mae_logprob: Option<f64>,
    /// Its 95 % interval, clustered by sequence.
    #[schema(value_type = Option<IntervalDocument>, required = true)]
    mae_logprob_ci95: Option<Interval>,
    /// Mean d in nats, signed.
    #[schema(required = true)]
    log_ratio_mean: Option<f64>,
    /// k3 estimate of KL(engine || reference) in nats.
    #[schema(required = true)]
    kl_k3: Option<f64>,
    /// Mean |d| as a multiple of the noise floor.
    #[schema(required = true)]
    noise_floor_multiple: Option<f64>,
    /// Its 95 % interval, clustered by sequence.
    #[schema(value_type = Option<IntervalDocument>, required = true)]
    noise_floor_multiple_ci95: Option<Interval>,
}

/// A 95 % confidence interval.
#[derive(ToSchema)]
#[schema(as = Interval)]
#[expect(dead_code, reason = "describes plumbline_divergence::Interval in the OpenAPI document")]
pub(crate) struct IntervalDocument {
    /// Lower end.
    low: f64,
    /// Upper end.
    high: f64,
}

/// One stretch of time.
#[derive(Serialize, ToSchema)]
pub(crate) struct TrendPoint {
    /// Its beginning.
    #[schema(format = DateTime)]
    from: String,
    /// Its end.
    #[schema(format = DateTime)]
    to: String,
    #[serde(flatten)]
    sums: PointResponse,
}

/// What was observed under one name.
#[derive(Serialize, ToSchema)]
#[schema(as = NamedTrendSums)]
pub(crate) struct NamedPointResponse {
    /// The version or worker; null for sequences that several versions scored.
    #[schema(required = true)]
    name: Option<String>,
    /// Time of the first sequence.
    #[schema(format = DateTime)]
    first_seen_at: String,
    /// Time of the last sequence.
    #[schema(format = DateTime)]
    last_seen_at: String,
    #[serde(flatten)]
    sums: PointResponse,
}

impl EngineResponse {
    /// The view with its verdict.
    pub(crate) fn of(view: GroupView, levels: &VerdictLevels, text: Option<&dyn TokenText>, at: &At<'_>) -> Self {
        let judgement = levels.judge(&view.window.statistics);
        let of_all = levels.judge(&view.totals.statistics);
        let verdicts = Verdict::ALL.into_iter().map(Verdict::as_str).zip(view.verdicts).collect();
        let named =
            |points: Vec<NamedPoint>| points.into_iter().map(|point| NamedPointResponse::of(point, at)).collect();
        let rest = |sums: PointSums| (sums.sequences > 0).then(|| PointResponse::of(&sums));
        Self {
            engine: view.key.engine,
            first_seen_at: at(view.first_seen),
            last_seen_at: at(view.last_seen),
            verdict: judgement.verdict.as_str(),
            verdict_reason: judgement.reason,
            noise_floor: view.window.statistics.noise_floor(),
            metrics: MetricsWithIntervals::of(&view.window),
            totals: TotalsResponse {
                verdict: of_all.verdict.as_str(),
                verdict_reason: of_all.reason,
                metrics: MetricsWithIntervals::of(&view.totals),
                skipped: view.skipped,
                verdicts,
            },
            drift: view.drift.map(|state| DriftResponse::of(state, at)),
            drift_events: view.events.into_iter().map(|record| DriftEventResponse::of(record, at)).collect(),
            trend: view.timeline.into_iter().map(|point| TrendPoint::of(&point, at)).collect(),
            policy_versions: named(view.versions),
            earlier_policy_versions: rest(view.earlier_versions),
            workers: named(view.workers),
            other_workers: rest(view.other_workers),
            diagnosis: Cause::ALL
                .map(Cause::as_str)
                .into_iter()
                .filter_map(|cause| Some((cause, *view.diagnoses.get(cause)?)))
                .collect(),
            token_evidence: EvidenceResponse::of(&view.evidence, text),
            causes: view.causes.into_iter().map(FindingResponse::from).collect(),
        }
    }
}

impl DriftResponse {
    fn of(state: DriftState, at: &At<'_>) -> Self {
        let lasting = |event: DriftEvent| DriftEventResponse::of(DriftRecord { event, ended_at: None }, at);
        Self {
            score: state.score,
            alarm: state.alarm.map(lasting),
            level: state.level,
            unit: state.unit,
            learning: state.learning,
        }
    }
}

impl DriftEventResponse {
    fn of(DriftRecord { event, ended_at }: DriftRecord, at: &At<'_>) -> Self {
        Self {
            direction: event.direction,
            kind: event.kind,
            began_at: at(event.began_at),
            began_sequence: event.began_sequence,
            policy_version: event.policy_version,
            at_version_change: event.at_version_change,
            seen_at: at(event.seen_at),
            seen_sequence: event.seen_sequence,
            level_before: event.level_before,
            unit: event.unit,
            size: event.size,
            ended_at: ended_at.map(at),
        }
    }
}

impl PointResponse {
    fn of(sums: &PointSums) -> Self {
        Self {
            sequences: sums.sequences,
            tokens: sums.tokens,
            mae_logprob: sums.mae_logprob(),
            mae_logprob_ci95: sums.mae_logprob_ci95(),
            log_ratio_mean: sums.log_ratio_mean(),
            kl_k3: sums.kl_k3(),
            noise_floor_multiple: sums.noise_floor_multiple(),
            noise_floor_multiple_ci95: sums.noise_floor_multiple_ci95(),
        }
    }
}

impl TrendPoint {
    fn of(point: &TimePoint, at: &At<'_>) -> Self {
        Self { from: at(point.from), to: at(point.to), sums: PointResponse::of(&point.sums) }
    }
}

impl NamedPointResponse {
    fn of(point: NamedPoint, at: &At<'_>) -> Self {
        Self {
            first_seen_at: at(point.first_seen),
            last_seen_at: at(point.last_seen),
            sums: PointResponse::of(&point.sums),
            name: point.name,
        }
    }
}
