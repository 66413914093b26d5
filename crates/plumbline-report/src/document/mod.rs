//! The report as data: exactly what `report.json` holds, and what every other form is made from. The schema is described in
//! `docs/report.md`.

mod brief;
mod build;
mod glossary;
mod shown;
mod views;

use std::collections::BTreeMap;

use plumbline_core::{ReferenceInfo, SkipCounts};
use plumbline_divergence::{Finding, FloorBucket, Interval, Metrics, Verdict, VerdictLevels};
use serde::Serialize;
use serde_json::{Map, Value};

pub(crate) use self::build::build;
pub(crate) use self::glossary::{GLOSSARY, MetricName};
pub(crate) use self::shown::ShownSequence;
pub(crate) use self::views::{GridView, ProfileView, Views};
use crate::collector::SequenceRow;
use crate::facts::InputFacts;
use crate::limits::CollectorLimits;

/// Raised when a field changes its meaning or goes away; a new field does not raise it.
pub(crate) const SCHEMA_VERSION: u32 = 1;

/// Printed beside signed numbers.
pub(crate) const SIGN: &str = "reference_logprob - engine_logprob, in nats";

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Document {
    pub(crate) schema: &'static str,
    pub(crate) schema_version: u32,
    pub(crate) plumbline_version: &'static str,
    pub(crate) title: String,
    pub(crate) created_at: String,
    pub(crate) command: Option<String>,
    pub(crate) log_ratio_sign: &'static str,
    pub(crate) verdict: Verdict,
    pub(crate) verdict_reason: String,
    /// Compared tokens of all engines.
    pub(crate) tokens: u64,
    pub(crate) sequences: u64,
    pub(crate) reference: ReferenceInfo,
    pub(crate) noise_floor: Option<FloorDocument>,
    pub(crate) verdict_levels: VerdictLevels,
    /// Causes of the whole.
    pub(crate) diagnosis: Vec<Finding>,
    pub(crate) engines: Vec<EngineDocument>,
    pub(crate) cross: Vec<CrossDocument>,
    pub(crate) inputs: Vec<InputFacts>,
    pub(crate) notes: Vec<String>,
    /// What was sampled or left out, and how.
    pub(crate) sampling: Vec<String>,
    pub(crate) limits: CollectorLimits,
    pub(crate) glossary: &'static [MetricName],
}

/// The reference's own noise.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FloorDocument {
    pub(crate) used_head: &'static str,
    pub(crate) tokens: u64,
    pub(crate) sequences: u64,
    pub(crate) mae: Option<f64>,
    pub(crate) rmse: Option<f64>,
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
    /// Standard error of the level as a fraction of it.
    pub(crate) relative_error: Option<f64>,
    pub(crate) by_entropy: Vec<FloorBucket>,
}

/// One engine.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct EngineDocument {
    pub(crate) engine: String,
    pub(crate) verdict: Verdict,
    pub(crate) verdict_reason: String,
    pub(crate) metrics: Metrics,
    /// 95 % intervals by metric.
    pub(crate) intervals: BTreeMap<&'static str, Option<Interval>>,
    /// What a faithful bf16 engine would show on these tokens, by metric.
    pub(crate) floor: BTreeMap<&'static str, f64>,
    /// The metric over its floor.
    pub(crate) floor_multiples: BTreeMap<&'static str, f64>,
    /// `exact`, `histogram` (to 2 %) or `none`.
    pub(crate) quantiles: &'static str,
    pub(crate) skipped: SkipCounts,
    /// Sequences by verdict.
    pub(crate) verdicts: BTreeMap<&'static str, u64>,
    pub(crate) not_scored: BTreeMap<String, u64>,
    /// Sequences by their likeliest cause.
    pub(crate) causes: BTreeMap<&'static str, u64>,
    /// Causes of the engine as a whole.
    pub(crate) diagnosis: Vec<Finding>,
    pub(crate) facts: Map<String, Value>,
    pub(crate) workers: Vec<LabelDocument>,
    pub(crate) policy_versions: Vec<LabelDocument>,
    pub(crate) views: Views,
    pub(crate) sequences: SequencesDocument,
    pub(crate) longest: Option<ShownSequence>,
    pub(crate) typical: Option<ShownSequence>,
    pub(crate) worst: Option<ShownSequence>,
}

impl EngineDocument {
    /// The shown sequences that there are, with their names; one that is several of them appears once for each.
    pub(crate) fn shown(&self) -> impl Iterator<Item = (&'static str, &ShownSequence)> {
        let each = [("longest", &self.longest), ("typical", &self.typical), ("worst", &self.worst)];
        each.into_iter().filter_map(|(name, shown)| Some((name, shown.as_ref()?)))
    }
}

/// Rows of sequences.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SequencesDocument {
    /// Observed ones.
    pub(crate) total: u64,
    /// Whether `rows` are a sample of them.
    pub(crate) sampled: bool,
    pub(crate) rows: Vec<SequenceRow>,
}

/// Sums of one worker or policy version.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LabelDocument {
    /// `null` = pooled: further ones than are kept apart.
    pub(crate) name: Option<String>,
    pub(crate) sequences: u64,
    pub(crate) tokens: u64,
    pub(crate) mae_logprob: Option<f64>,
    pub(crate) mae_logprob_ci95: Option<Interval>,
    pub(crate) log_ratio_mean: Option<f64>,
    pub(crate) kl_k3: Option<f64>,
    pub(crate) noise_floor_multiple: Option<f64>,
    pub(crate) noise_floor_multiple_ci95: Option<Interval>,
}

/// One engine's samples scored by another.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CrossDocument {
    pub(crate) sampled_by: String,
    pub(crate) scored_by: String,
    pub(crate) metrics: Metrics,
    pub(crate) intervals: BTreeMap<&'static str, Option<Interval>>,
    pub(crate) note: Option<String>,
}
