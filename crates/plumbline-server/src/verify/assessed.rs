//! From scored rollouts to an answer: comparison, metrics, verdicts.

use std::sync::Arc;
use std::time::SystemTime;

use plumbline_core::{LogprobsMode, ReferenceInfo, Rollout, SkipCounts, TokenScores};
use plumbline_divergence::{
    Diagnosis, FloorCurve, Judgement, Metrics, SequenceComparison, SequenceSummary, SufficientStatistics,
    TokenEvidence, Verdict, VerdictLevels, compare, importance_weights,
};
use plumbline_scheduler::SequenceOutcome;
use uuid::Uuid;

use super::response::{
    FindingResponse, ReferenceSummary, SIGN, SequenceResponse, TokensResponse, VerificationResponse,
};
use crate::body::Verification;
use crate::diagnosis::{Case, CaseFloor, CaseSequence, NotDiagnosed};
use crate::floors::NoiseFloors;
use crate::problem::{Code, FieldError, Problem};
use crate::sequences::StoredSequence;

/// An answer that is ready to be sent.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The verification's id.
    pub(crate) id: String,
    /// As it is worded while everything counts and is stored.
    pub(crate) json: Vec<u8>,
    /// What was asked.
    pub(crate) verification: Verification,
    /// Its sequences, in the order of the request.
    pub(crate) sequences: Vec<AnsweredSequence>,
    /// Tokens that the reference scored for it.
    pub(crate) scored_tokens: usize,
}

/// What one sequence adds where it is counted.
#[derive(Debug)]
pub(crate) struct AnsweredSequence {
    /// For counters and monitor.
    pub(crate) summary: SequenceSummary,
    /// For those who look at it later; without the name under which its run is kept.
    pub(crate) stored: StoredSequence,
}

/// A verification whose sequences are compared and judged.
#[derive(Debug)]
pub(super) struct Assessed {
    verification: Verification,
    scored: Vec<ScoredRollout>,
    comparisons: Vec<SequenceComparison>,
    /// Of each sequence.
    statistics: Vec<SufficientStatistics>,
    metrics: Vec<Metrics>,
    judgements: Vec<Judgement>,
    /// The server's ids of the sequences.
    ids: Vec<String>,
}

impl Assessed {
    /// Compares, measures and judges. CPU-bound.
    ///
    /// # Errors
    /// 500 if the reference failed on a sequence, naming it. Then nothing of the request counts.
    pub(super) fn new(
        verification: Verification,
        outcomes: Vec<SequenceOutcome>,
        levels: &VerdictLevels,
        floors: &NoiseFloors,
    ) -> Result<Self, Problem> {
        let rollouts = &verification.rollouts;
        let scored = all_scored(rollouts, outcomes)?;
        let comparisons = rollouts
            .iter()
            .zip(&scored)
            .map(|(rollout, scored)| compare(rollout, &scored.scores, &scored.reference.eos_token_ids))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| unusable(&error))?;
        let each = rollouts.iter().zip(&comparisons).zip(&scored);
        let statistics: Vec<_> = each
            .map(|((rollout, comparison), scored)| {
                let mut statistics = SufficientStatistics::default();
                let floor = floor_of(floors, rollout, &scored.reference);
                statistics.observe_sequence_with_floor(comparison, floor.as_ref());
                statistics
            })
            .collect();
        let judgements = statistics.iter().map(|statistics| levels.judge(statistics)).collect();
        let metrics = statistics
            .iter()
            .zip(&comparisons)
            .map(|(statistics, comparison)| Metrics::with_values(statistics, std::slice::from_ref(comparison)))
            .collect();
        let ids = rollouts.iter().map(|_| format!("seq_{}", Uuid::now_v7().simple())).collect();
        Ok(Self { verification, scored, comparisons, statistics, metrics, judgements, ids })
    }

    pub(super) fn verification(&self) -> &Verification {
        &self.verification
    }

    /// Whether there is anything to diagnose.
    pub(super) fn is_suspicious(&self) -> bool {
        self.judgements.iter().any(|judgement| judgement.verdict != Verdict::Consistent)
    }

    /// Copies what a diagnosis needs; `floor` finds the noise floor of a version. CPU-bound.
    pub(super) fn case(&self, floor: impl FnOnce(&str) -> CaseFloor) -> Option<Case> {
        let parts = self.verification.rollouts.iter().zip(&self.scored).zip(&self.comparisons).zip(&self.judgements);
        let parts = parts.zip(&self.verification.cached_tokens).zip(&self.ids);
        let sequences = parts.map(|(((((rollout, scored), comparison), judgement), cached_tokens), id)| CaseSequence {
            stored_id: id.clone(),
            rollout: rollout.clone(),
            scores: scored.scores.clone(),
            comparison: comparison.clone(),
            cached_tokens: *cached_tokens,
            suspicious: judgement.verdict != Verdict::Consistent,
        });
        Some(Case {
            run: self.verification.run.clone(),
            engine: self.verification.engine.clone(),
            sequences: sequences.collect(),
            floor: floor(&self.scored.first()?.reference.policy_version),
        })
    }

    /// The answer of this id, with what was found out about each sequence if that was asked for. CPU-bound.
    ///
    /// # Errors
    /// 500 if nothing was scored or the answer cannot be serialised: a defect.
    pub(super) fn answer(
        self,
        id: String,
        scored_tokens: usize,
        diagnoses: Option<&Result<Diagnosis, NotDiagnosed>>,
    ) -> Result<Answer, Problem> {
        let (verification, rollouts) = (&self.verification, &self.verification.rollouts);
        let mut skipped = SkipCounts::default();
        let mut pooled = SufficientStatistics::default();
        let (mut sequences, mut answered) = (Vec::with_capacity(rollouts.len()), Vec::with_capacity(rollouts.len()));
        let at = SystemTime::now();
        for (index, (rollout, scored)) in rollouts.iter().zip(&self.scored).enumerate() {
            let (comparison, statistics) = (&self.comparisons[index], &self.statistics[index]);
            let (metrics, judgement) = (&self.metrics[index], &self.judgements[index]);
            let policy_version = common_version(scored.references.iter());
            pooled.merge(statistics);
            skipped.merge(&comparison.skipped);
            let summary = SequenceSummary {
                statistics: statistics.clone(),
                skipped: comparison.skipped,
                verdict: Some(judgement.verdict),
                policy_version: policy_version.map(str::to_owned),
                worker: verification.worker.clone(),
                cached_tokens: verification.cached_tokens[index],
                evidence: TokenEvidence::of(
                    comparison,
                    rollout.prompt_token_ids.last().copied(),
                    verification.worker.as_deref(),
                    policy_version,
                ),
            };
            sequences.push(SequenceResponse {
                id: &rollout.id,
                verdict: judgement.verdict.as_str(),
                verdict_reason: judgement.reason.clone(),
                metrics,
                skipped: comparison.skipped,
                logprobs_mode: rollout.logprobs_mode,
                policy_version,
                tokens: verification.include_tokens.then(|| TokensResponse::of(comparison)),
                importance_weights: verification.include_importance_weights.then(|| importance_weights(comparison)),
                diagnosis: verification.include_diagnosis.then(|| match judgement.verdict {
                    Verdict::Consistent => Vec::new(),
                    _ => findings(diagnoses, index),
                }),
            });
            let stored = StoredSequence {
                id: self.ids[index].clone(),
                run: String::new(),
                engine: verification.engine.clone(),
                worker: verification.worker.clone(),
                policy_version: policy_version.map(str::to_owned),
                at,
                verdict: judgement.verdict,
                verdict_reason: judgement.reason.clone(),
                metrics: metrics.clone(),
                last_of_prompt: rollout.prompt_token_ids.last().copied(),
                length: comparison.tokens.len(),
                statistics: statistics.clone(),
                comparison: comparison.clone(),
            };
            answered.push(AnsweredSequence { summary, stored });
        }
        let references: Vec<_> = self.scored.iter().flat_map(|scored| &scored.references).collect();
        // Versions differ in nothing but their weights. Without a sequence there is no request.
        let reference = references.first().ok_or_else(|| unusable("nothing was scored"))?;
        let response = VerificationResponse {
            id: &id,
            run: &verification.run,
            engine: &verification.engine,
            reference: ReferenceSummary {
                model: &reference.model,
                policy_version: common_version(references.iter().copied()),
                dtype: &reference.dtype,
                head_dtype: &reference.head_dtype,
                device: &reference.device,
            },
            logprobs_mode: common_mode(rollouts),
            log_ratio_sign: SIGN,
            metrics: Metrics::with_values(&pooled, &self.comparisons),
            skipped,
            sequences,
            already_counted: &[],
            stored: true,
        };
        let json = serde_json::to_vec(&response)
            .map_err(|error| Problem::internal(Code::Internal, "the answer cannot be serialised", &error))?;
        Ok(Answer { id, json, verification: self.verification, sequences: answered, scored_tokens })
    }
}

/// What was found out about one sequence, or why nothing was.
fn findings(diagnoses: Option<&Result<Diagnosis, NotDiagnosed>>, index: usize) -> Vec<FindingResponse<'_>> {
    let unknown = |reason: String| vec![FindingResponse { cause: "unknown", explained: None, evidence: reason.into() }];
    match diagnoses {
        Some(Ok(diagnosis)) => match diagnosis.sequences.get(index) {
            Some(sequence) => sequence.findings.iter().map(FindingResponse::of).collect(),
            None => unknown("not diagnosed: the search for causes left it out".into()),
        },
        Some(Err(reason)) => unknown(reason.to_string()),
        None => unknown("not diagnosed".into()),
    }
}

/// What a faithful engine would show on a rollout: the floor of the version that scored it (the first, if several did), at the
/// temperature of its logprobs.
fn floor_of(floors: &NoiseFloors, rollout: &Rollout, reference: &ReferenceInfo) -> Option<FloorCurve> {
    Some(floors.of(&reference.policy_version)?.curve.of_rollout(rollout))
}

/// A rollout's scores and the versions that they are of.
#[derive(Debug)]
struct ScoredRollout {
    scores: TokenScores,
    /// The first of `references`.
    reference: Arc<ReferenceInfo>,
    references: Vec<Arc<ReferenceInfo>>,
}

/// Puts the pieces of each rollout together: as many outcomes as it has versions, in their order.
fn all_scored(rollouts: &[Rollout], outcomes: Vec<SequenceOutcome>) -> Result<Vec<ScoredRollout>, Problem> {
    let mut outcomes = outcomes.into_iter();
    let mut scored = Vec::with_capacity(rollouts.len());
    let (mut errors, mut causes) = (Vec::new(), Vec::new());
    for (index, rollout) in rollouts.iter().enumerate() {
        // All of its pieces are taken before any is looked at: the next rollout's come after them.
        let pieces: Vec<_> = outcomes.by_ref().take(rollout.versions().len()).collect();
        match pieces.into_iter().collect::<Result<Vec<_>, _>>() {
            Ok(pieces) => {
                let parts: Vec<_> = pieces.iter().map(|piece| &piece.scores).collect();
                let scores = rollout.join_scores(&parts).ok_or_else(|| unusable("a piece of a rollout is missing"))?;
                let references: Vec<_> = pieces.into_iter().map(|piece| piece.reference).collect();
                let first = references.first().ok_or_else(|| unusable("a rollout has no scores"))?;
                scored.push(ScoredRollout { scores, reference: Arc::clone(first), references });
            }
            Err(cause) => {
                causes.push(format!("{:?}: {cause}", rollout.id));
                let detail = format!("sequence {:?} could not be scored", rollout.id);
                errors.push(FieldError { code: Code::ScoringFailed, pointer: format!("/sequences/{index}"), detail });
            }
        }
    }
    if errors.is_empty() {
        return Ok(scored);
    }
    Err(Problem { internal: Some(causes.join("; ")), ..Problem::fields(errors) })
}

fn unusable(cause: &(impl ToString + ?Sized)) -> Problem {
    Problem::internal(Code::Internal, "the reference's scores are unusable", cause)
}

/// The version of all references, if they agree.
fn common_version<'a>(mut references: impl Iterator<Item = &'a Arc<ReferenceInfo>>) -> Option<&'a str> {
    let first = references.next()?;
    references.all(|other| other.policy_version == first.policy_version).then_some(&first.policy_version)
}

fn common_mode(rollouts: &[Rollout]) -> Option<LogprobsMode> {
    let first = rollouts.first()?.logprobs_mode;
    rollouts.iter().all(|rollout| rollout.logprobs_mode == first).then_some(first)
}
