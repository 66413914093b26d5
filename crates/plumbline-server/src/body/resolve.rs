//! From a parsed request to rollouts that can be scored, or to everything that is wrong with it.

use std::collections::HashSet;

use plumbline_core::{LogprobsMode, ModelLimits, ProcessingOrder, Rollout, Sampling, VersionSpan, ViolationCode};

use super::exchanges;
use super::findings::Findings;
use super::origin::Origin;
use super::wire::{Include, SequenceRequest, VerificationRequest};
use crate::problem::{Code, Problem};
use crate::weights::Wanted;

/// What a request is held against.
#[derive(Clone, Debug)]
pub(crate) struct RequestLimits {
    /// The resident model's, tightened by the configuration.
    pub(crate) model: ModelLimits,
    pub(crate) max_sequences: usize,
}

/// A request whose every rollout can be scored.
#[derive(Debug)]
pub(crate) struct Verification {
    pub(crate) run: String,
    pub(crate) engine: String,
    /// Who sampled, if the sender said so.
    pub(crate) worker: Option<String>,
    pub(crate) rollouts: Vec<Rollout>,
    /// Of each rollout, the tokens of its prompt that the engine took from its prefix cache, if the sender said so.
    pub(crate) cached_tokens: Vec<Option<usize>>,
    /// Whether each rollout has its id from the sender, and not from its place in the request.
    pub(crate) named: Vec<bool>,
    /// What each rollout was read from.
    pub(crate) origins: Vec<Origin>,
    /// The versions of the weights that the rollouts ask for, each once.
    pub(crate) wanted: Vec<Wanted>,
    pub(crate) include_tokens: bool,
    pub(crate) include_importance_weights: bool,
    pub(crate) include_diagnosis: bool,
}

/// Validates a request and fills in what it leaves to defaults. Nothing is repaired.
///
/// # Errors
/// All offending fields (422).
pub(crate) fn resolve(request: VerificationRequest, limits: &RequestLimits) -> Result<Verification, Problem> {
    let mut findings = Findings::default();
    findings.check_name("/run", Some(&request.run));
    findings.check_name("/engine", Some(&request.engine));
    findings.check_name("/worker", request.worker.as_deref());
    findings.check_name("/policy_version", request.policy_version.as_deref());
    let shared = Shared {
        engine: request.engine,
        sampling: request.sampling,
        mode: request.logprobs_mode,
        policy_version: request.policy_version,
    };
    let read = match (request.sequences, request.exchanges) {
        (Some(sequences), None) => {
            check_count("sequence", "/sequences", sequences.count, limits, &mut findings)?;
            native(sequences.kept, &shared, &mut findings)
        }
        (None, Some(exchanges)) => {
            check_count("exchange", "/exchanges", exchanges.count, limits, &mut findings)?;
            exchanges::read(exchanges.kept, &shared, limits, &mut findings)?
        }
        (Some(_), Some(_)) => {
            let detail = "stand beside sequences: a request has either";
            findings.report(Code::InvalidValue, "/exchanges".into(), detail.into());
            Vec::new()
        }
        (None, None) => {
            let detail = "is missing, and so is exchanges: a request has one of them";
            findings.report(Code::MissingField, "/sequences".into(), detail.into());
            Vec::new()
        }
    };
    for Read { rollout, origin, .. } in &read {
        for violation in rollout.violations(&limits.model) {
            let pointer = origin.locate(violation.code, &violation.pointer);
            findings.report_once(violation.code.into(), pointer, violation.detail);
        }
    }
    let mut rollouts = Vec::with_capacity(read.len());
    let mut origins = Vec::with_capacity(read.len());
    let mut cached_tokens = Vec::with_capacity(read.len());
    let mut named = Vec::with_capacity(read.len());
    for read in read {
        named.push(read.named);
        rollouts.push(read.rollout);
        origins.push(read.origin);
        cached_tokens.push(read.cached_tokens);
    }
    check_unique(&mut findings, &rollouts, &origins);
    findings.check()?;
    let wanted = wanted(&rollouts, &origins);
    Ok(Verification {
        run: request.run,
        engine: shared.engine,
        worker: request.worker,
        rollouts,
        cached_tokens,
        named,
        origins,
        wanted,
        include_tokens: request.include.contains(&Include::Tokens),
        include_importance_weights: request.include.contains(&Include::ImportanceWeights),
        include_diagnosis: request.include.contains(&Include::Diagnosis),
    })
}

/// None at all is reported; too many end the reading, without looking at each of them: the limit is there to bound the work.
fn check_count(
    what: &str,
    pointer: &'static str,
    count: usize,
    limits: &RequestLimits,
    findings: &mut Findings,
) -> Result<(), Problem> {
    if count == 0 {
        findings.report(Code::EmptySequences, pointer.into(), format!("must have at least one {what}"));
    }
    if count > limits.max_sequences {
        let detail = format!("has {count} {what}s, the limit is {}", limits.max_sequences);
        return Err(Problem::field(Code::TooManySequences, pointer, detail));
    }
    Ok(())
}

/// Sequences as the native body has them.
fn native(sequences: Vec<SequenceRequest>, shared: &Shared, findings: &mut Findings) -> Vec<Read> {
    let mut rollouts = Vec::with_capacity(sequences.len());
    for (index, sequence) in sequences.into_iter().enumerate() {
        let origin = Origin::Sequence {
            index,
            own_id: sequence.id.is_some(),
            own_sampling: sequence.sampling.is_some(),
            own_mode: sequence.logprobs_mode.is_some(),
            own_version: sequence.policy_version.is_some(),
            shared_mode: shared.mode.is_some(),
        };
        findings.check_name(&origin.pointer("/id"), sequence.id.as_deref());
        findings.check_name(&origin.pointer("/policy_version"), sequence.policy_version.as_deref());
        for (span_index, span) in sequence.weight_versions.iter().flatten().enumerate() {
            let pointer = origin.pointer(&format!("/weight_versions/{span_index}/version"));
            findings.check_name(&pointer, Some(&span.version));
        }
        let (cached_tokens, named) = (cached(&origin, &sequence, findings), sequence.id.is_some());
        let rollout = shared.rollout(index, &origin, sequence, findings);
        rollouts.push(Read { rollout, named, origin, cached_tokens });
    }
    rollouts
}

/// How much of the prompt came from the prefix cache.
fn cached(origin: &Origin, sequence: &SequenceRequest, findings: &mut Findings) -> Option<usize> {
    let (cached, prompt) = (sequence.cached_tokens? as usize, sequence.prompt_token_ids.len());
    if cached > prompt {
        let detail = format!("is {cached}, the prompt has {prompt} tokens");
        findings.report(Code::InvalidValue, origin.pointer("/cached_tokens"), detail);
    }
    Some(cached)
}

/// A rollout as it was read from a body.
pub(super) struct Read {
    pub(super) rollout: Rollout,
    /// Whether its id is the sender's.
    pub(super) named: bool,
    pub(super) origin: Origin,
    /// Tokens of the prompt that the engine took from its prefix cache, if the body says so.
    pub(super) cached_tokens: Option<usize>,
}

/// What sequences and exchanges inherit from the request.
pub(super) struct Shared {
    pub(super) engine: String,
    pub(super) sampling: Option<Sampling>,
    pub(super) mode: Option<LogprobsMode>,
    pub(super) policy_version: Option<String>,
}

impl Shared {
    fn rollout(&self, index: usize, origin: &Origin, sequence: SequenceRequest, findings: &mut Findings) -> Rollout {
        let mut sampling = sequence.sampling.or(self.sampling).unwrap_or_default();
        sampling.order = sampling.order.or_else(|| ProcessingOrder::of_engine(&self.engine));
        let mode = sequence.logprobs_mode.or(self.mode).or_else(|| LogprobsMode::default_of_engine(&self.engine));
        if mode.is_none() && !sampling.is_neutral() {
            let detail = "this engine's logprobs have no known meaning, and with this sampling raw, temperature and \
                          processed logprobs differ";
            findings.report_once(Code::LogprobsModeRequired, "/logprobs_mode".into(), detail.into());
        }
        let transforms = sampling.active_transforms();
        let unknown_order = sampling.order.is_none() && ProcessingOrder::is_none_of_these(&self.engine);
        if mode == Some(LogprobsMode::Processed) && unknown_order && !transforms.is_empty() {
            let pointer = origin.locate(ViolationCode::IrreproducibleMode, "/logprobs_mode");
            let detail = format!(
                "processed logprobs of {} with {} cannot be reproduced: the order of its transforms is not known here; \
                 if it is that of another engine, sampling.order says so",
                self.engine,
                transforms.join(", ")
            );
            findings.report_once(Code::IrreproducibleMode, pointer, detail);
        }
        Rollout {
            id: sequence.id.unwrap_or_else(|| index.to_string()),
            prompt_token_ids: sequence.prompt_token_ids,
            completion_token_ids: sequence.completion_token_ids,
            logprobs: sequence.logprobs,
            loss_mask: sequence.loss_mask,
            sampling,
            // With neutral sampling all modes coincide.
            logprobs_mode: mode.unwrap_or(LogprobsMode::Raw),
            finish_reason: sequence.finish_reason,
            policy_version: sequence.policy_version.or_else(|| self.policy_version.clone()),
            weight_versions: sequence
                .weight_versions
                .into_iter()
                .flatten()
                .map(|span| VersionSpan { version: span.version, start: span.start, end: span.end })
                .collect(),
        }
    }
}

/// A sequence without an id is named by its index, which another may have taken.
pub(super) fn check_unique(findings: &mut Findings, rollouts: &[Rollout], origins: &[Origin]) {
    let mut seen = HashSet::with_capacity(rollouts.len());
    for (rollout, origin) in rollouts.iter().zip(origins) {
        if !seen.insert(rollout.id.as_str()) {
            let detail = format!("id {:?} is that of an earlier sequence", rollout.id);
            findings.report(Code::DuplicateSequenceId, origin.id(), detail);
        }
    }
}

/// The distinct versions that rollouts ask for, each with the first field that does.
pub(super) fn wanted(rollouts: &[Rollout], origins: &[Origin]) -> Vec<Wanted> {
    let mut seen = HashSet::new();
    let mut wanted = Vec::new();
    for (rollout, origin) in rollouts.iter().zip(origins) {
        for version in rollout.versions().into_iter().flatten() {
            if seen.insert(version) {
                let span = rollout.weight_versions.iter().position(|span| span.version == version);
                wanted.push(Wanted { version: version.to_owned(), pointer: origin.version(span) });
            }
        }
    }
    wanted
}

#[cfg(test)]
mod tests;
