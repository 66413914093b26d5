//! Tests of whole reports.

mod bounded;
mod collecting;
mod forms;
mod origin;
mod table;

use plumbline_core::{LogprobsMode, ModelLimits, ReferenceInfo, Rollout, Sampling, SkipCounts, SkipReason};
use plumbline_divergence::{
    Cause, Finding, Judgement, SequenceComparison, SufficientStatistics, TokenComparison, VerdictLevels,
};
use serde_json::Value;

use crate::{Collector, CollectorLimits, Facts, Observed, Report, TokenText};

pub(crate) fn reference() -> ReferenceInfo {
    ReferenceInfo {
        model: "tiny".into(),
        family: "qwen3".into(),
        policy_version: "2".into(),
        dtype: "f32".into(),
        head_dtype: "f32".into(),
        device: "cpu".into(),
        parameters: 1_970_000,
        weight_bytes: 7_880_000,
        eos_token_ids: vec![0],
        limits: ModelLimits { vocab_size: 2048, max_positions: 2048 },
    }
}

pub(crate) fn facts() -> Facts {
    Facts::new("a test", "2026-01-01T00:00:00Z", reference())
}

pub(crate) fn token(engine: f64, reference: f64) -> TokenComparison {
    TokenComparison {
        token_id: 7,
        engine: Some(engine),
        reference: Some(reference),
        entropy: Some(-engine),
        rank: Some(0),
        eos_probability: Some(0.1),
        skipped: SkipReason::of_value(Some(engine)),
    }
}

pub(crate) fn comparison(id: &str, tokens: Vec<TokenComparison>) -> SequenceComparison {
    let mut skipped = SkipCounts::default();
    tokens.iter().filter_map(|token| token.skipped).for_each(|reason| skipped.add(reason));
    SequenceComparison { id: id.into(), tokens, skipped, eos_probability: None }
}

/// `tokens` tokens with this `d`, of which every other one has the opposite sign.
pub(crate) fn even(id: &str, tokens: usize, delta: f64) -> SequenceComparison {
    let each = |index: usize| {
        token(
            -1.0 - index as f64 * 1e-3,
            -1.0 - index as f64 * 1e-3 + if index.is_multiple_of(2) { delta } else { -delta },
        )
    };
    comparison(id, (0..tokens).map(each).collect())
}

pub(crate) fn finding(cause: Cause, evidence: &str) -> Finding {
    Finding { cause, explained: Some(0.9), residual_floor_multiple: Some(1.1), evidence: evidence.into() }
}

/// A sequence with everything that belongs to it.
pub(crate) struct Sequence {
    pub(crate) engine: String,
    pub(crate) worker: Option<String>,
    pub(crate) comparison: SequenceComparison,
    pub(crate) statistics: SufficientStatistics,
    pub(crate) judgement: Judgement,
    pub(crate) findings: Vec<Finding>,
    pub(crate) rollout: Option<Rollout>,
}

impl Sequence {
    pub(crate) fn new(engine: &str, comparison: SequenceComparison) -> Self {
        let mut statistics = SufficientStatistics::default();
        statistics.observe_sequence(&comparison);
        let judgement = VerdictLevels::default().judge(&statistics);
        let (engine, findings) = (engine.to_owned(), Vec::new());
        Self { engine, worker: None, comparison, statistics, judgement, findings, rollout: None }
    }

    pub(crate) fn with_prompt(mut self, prompt: Vec<u32>) -> Self {
        self.rollout = Some(Rollout {
            id: self.comparison.id.clone(),
            prompt_token_ids: prompt,
            completion_token_ids: self.comparison.tokens.iter().map(|token| token.token_id).collect(),
            logprobs: self.comparison.tokens.iter().map(|token| token.engine).collect(),
            loss_mask: None,
            sampling: Sampling::default(),
            logprobs_mode: LogprobsMode::Raw,
            finish_reason: Some("stop".into()),
            policy_version: None,
            weight_versions: Vec::new(),
        });
        self
    }

    pub(crate) fn observed(&self) -> Observed<'_> {
        Observed {
            engine: &self.engine,
            worker: self.worker.as_deref(),
            policy_version: Some("2"),
            group: None,
            rollout: self.rollout.as_ref(),
            comparison: &self.comparison,
            statistics: &self.statistics,
            judgement: &self.judgement,
            findings: &self.findings,
            stored_id: Some("seq_1"),
        }
    }
}

pub(crate) fn collected(sequences: &[Sequence]) -> Collector {
    let mut collector = Collector::new(CollectorLimits::default());
    sequences.iter().for_each(|sequence| collector.observe(&sequence.observed()));
    collector
}

pub(crate) fn json(report: &Report) -> Value {
    serde_json::from_slice(&report.json().unwrap()).unwrap()
}

/// Every id has the same text.
#[derive(Debug)]
pub(crate) struct Always(pub(crate) &'static str);

impl TokenText for Always {
    fn pieces(&self, token_ids: &[u32]) -> Vec<String> {
        vec![self.0.to_owned(); token_ids.len()]
    }
}
