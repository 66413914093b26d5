//! The measured noise floor as `/v1/reference` shows it.

use plumbline_divergence::{FloorBucket, FloorHead, NoiseFloor};
use serde::Serialize;
use utoipa::ToSchema;

use crate::floors::MeasuredFloor;
use crate::timestamp::rfc3339;

/// How far simulated faithful bf16 engines of the resident model are from the reference.
#[derive(Serialize, ToSchema)]
#[schema(as = NoiseFloor)]
pub(super) struct NoiseFloorResponse {
    /// Version of the weights that it was measured of: the current one, or the last one before while that is not measured.
    policy_version: String,
    /// When it was measured.
    #[schema(format = DateTime)]
    measured_at: String,
    /// Which of the two engines multiples and verdicts use.
    #[schema(example = "bf16")]
    used_head: &'static str,
    /// Standard error of the used floor's level, as a fraction of it.
    relative_error: f64,
    /// An engine with body and lm_head in bf16; null if it was not measured.
    #[schema(required = true)]
    bf16_head: Option<HeadFloorResponse>,
    /// An engine with a bf16 body and an f32 lm_head; null if it was not measured.
    #[schema(required = true)]
    f32_head: Option<HeadFloorResponse>,
}

/// What was measured of one simulated engine, in nats.
#[derive(Serialize, ToSchema)]
#[schema(as = HeadNoiseFloor)]
pub(super) struct HeadFloorResponse {
    /// Measured tokens.
    tokens: u64,
    /// Measured sequences.
    sequences: u64,
    /// Mean |d|.
    mae: f64,
    /// Root of the mean d^2.
    rmse: f64,
    /// Median |d|, to a quarter of a decade, as the other quantiles.
    #[schema(required = true)]
    p50: Option<f64>,
    /// 90 % quantile.
    #[schema(required = true)]
    p90: Option<f64>,
    /// 99 % quantile.
    #[schema(required = true)]
    p99: Option<f64>,
    /// 99.9 % quantile.
    #[schema(required = true)]
    p999: Option<f64>,
    /// By entropy of the reference's next-token distribution.
    #[schema(value_type = Vec<FloorBucketDocument>)]
    by_entropy: Vec<FloorBucket>,
}

/// Tokens of one range of entropy.
#[derive(ToSchema)]
#[schema(as = NoiseFloorBucket)]
#[expect(dead_code, reason = "describes plumbline_divergence::FloorBucket in the OpenAPI document")]
pub(super) struct FloorBucketDocument {
    /// Entropies in nats from here,
    entropy_from: f64,
    /// to below here; null = no upper end.
    #[schema(required = true)]
    entropy_to: Option<f64>,
    /// Measured tokens.
    tokens: u64,
    /// Mean |d|; null without tokens, as below.
    #[schema(required = true)]
    mean_abs_delta: Option<f64>,
    /// Root of the mean d^2.
    #[schema(required = true)]
    rmse: Option<f64>,
    /// Median |d|.
    #[schema(required = true)]
    p50: Option<f64>,
    /// 90 % quantile.
    #[schema(required = true)]
    p90: Option<f64>,
    /// 99 % quantile.
    #[schema(required = true)]
    p99: Option<f64>,
}

impl NoiseFloorResponse {
    pub(super) fn of(measured: &MeasuredFloor) -> Self {
        let floor = &measured.floor;
        Self {
            policy_version: measured.policy_version.clone(),
            measured_at: rfc3339(measured.measured_at),
            used_head: FloorHead::USED.as_str(),
            relative_error: measured.curve.relative_error(),
            bf16_head: HeadFloorResponse::of(floor, FloorHead::Bf16),
            f32_head: HeadFloorResponse::of(floor, FloorHead::F32),
        }
    }
}

impl HeadFloorResponse {
    /// `None` where nothing was measured.
    fn of(floor: &NoiseFloor, head: FloorHead) -> Option<Self> {
        Some(Self {
            tokens: floor.tokens(head),
            sequences: floor.sequences(head),
            mae: floor.mae(head)?,
            rmse: floor.rmse(head)?,
            p50: floor.quantile(head, 0.5),
            p90: floor.quantile(head, 0.9),
            p99: floor.quantile(head, 0.99),
            p999: floor.quantile(head, 0.999),
            by_entropy: floor.buckets(head),
        })
    }
}
