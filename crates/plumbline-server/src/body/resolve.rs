//! From a parsed request to rollouts that can be scored, or to everything that is wrong with it.

use std::collections::HashSet;

use plumbline_core::{LogprobsMode, ModelLimits, ProcessingOrder, Rollout, Sampling, VersionSpan, ViolationCode};

use super::wire::{Include, SequenceRequest, VerificationRequest};
use crate::problem::{Code, FieldError, Problem};
use crate::weights::Wanted;

/// Characters of a name at most: names become metric labels and log fields.
pub(crate) const MAX_NAME_CHARS: usize = 200;

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
    let mut errors = Vec::new();
    check_name(&mut errors, "/run", Some(&request.run));
    check_name(&mut errors, "/engine", Some(&request.engine));
    check_name(&mut errors, "/worker", request.worker.as_ref());
    check_name(&mut errors, "/policy_version", request.policy_version.as_ref());
    let count = request.sequences.len();
    if count == 0 {
        report(&mut errors, Code::EmptySequences, "/sequences".into(), "must have at least one sequence".into());
    }
    if count > limits.max_sequences {
        let detail = format!("has {count} sequences, the limit is {}", limits.max_sequences);
        // Without looking at each of them: the limit is there to bound the work.
        return Err(Problem::field(Code::TooManySequences, "/sequences", detail));
    }

    let shared = Shared {
        engine: request.engine,
        sampling: request.sampling,
        mode: request.logprobs_mode,
        policy_version: request.policy_version,
    };
    let mut reported = HashSet::new();
    let mut rollouts = Vec::with_capacity(count);
    let mut cached_tokens = Vec::with_capacity(count);
    for (index, sequence) in request.sequences.into_iter().enumerate() {
        let place =
            Place { index, own_sampling: sequence.sampling.is_some(), own_mode: sequence.logprobs_mode.is_some() };
        check_name(&mut errors, &place.pointer("/id"), sequence.id.as_ref());
        check_name(&mut errors, &place.pointer("/policy_version"), sequence.policy_version.as_ref());
        for (span_index, span) in sequence.weight_versions.iter().flatten().enumerate() {
            let pointer = place.pointer(&format!("/weight_versions/{span_index}/version"));
            check_name(&mut errors, &pointer, Some(&span.version));
        }
        cached_tokens.push(cached(&place, &sequence, &mut errors));
        let rollout = shared.rollout(&place, sequence, &mut errors, &mut reported);
        for violation in rollout.violations(&limits.model) {
            let pointer = place.locate(violation.code, &violation.pointer);
            // What stands once in the request is wrong once, not for every sequence.
            if pointer.starts_with("/sequences/") || reported.insert(pointer.clone()) {
                report(&mut errors, violation.code.into(), pointer, violation.detail);
            }
        }
        rollouts.push(rollout);
    }
    check_unique(&mut errors, &rollouts);
    if !errors.is_empty() {
        return Err(Problem::fields(errors));
    }
    let wanted = wanted(&rollouts, shared.policy_version.as_deref());
    Ok(Verification {
        run: request.run,
        engine: shared.engine,
        worker: request.worker,
        rollouts,
        cached_tokens,
        wanted,
        include_tokens: request.include.contains(&Include::Tokens),
        include_importance_weights: request.include.contains(&Include::ImportanceWeights),
        include_diagnosis: request.include.contains(&Include::Diagnosis),
    })
}

/// How much of the prompt came from the prefix cache.
fn cached(place: &Place, sequence: &SequenceRequest, errors: &mut Vec<FieldError>) -> Option<usize> {
    let (cached, prompt) = (sequence.cached_tokens? as usize, sequence.prompt_token_ids.len());
    if cached > prompt {
        let detail = format!("is {cached}, the prompt has {prompt} tokens");
        report(errors, Code::InvalidValue, place.pointer("/cached_tokens"), detail);
    }
    Some(cached)
}

/// What sequences inherit from the request.
struct Shared {
    engine: String,
    sampling: Option<Sampling>,
    mode: Option<LogprobsMode>,
    policy_version: Option<String>,
}

impl Shared {
    fn rollout(
        &self,
        place: &Place,
        sequence: SequenceRequest,
        errors: &mut Vec<FieldError>,
        reported: &mut HashSet<String>,
    ) -> Rollout {
        let mut sampling = sequence.sampling.or(self.sampling).unwrap_or_default();
        sampling.order = sampling.order.or_else(|| ProcessingOrder::of_engine(&self.engine));
        let mode = sequence.logprobs_mode.or(self.mode).or_else(|| LogprobsMode::default_of_engine(&self.engine));
        if mode.is_none() && !sampling.is_neutral() && reported.insert("/logprobs_mode".into()) {
            let detail = "this engine's logprobs have no known meaning, and with this sampling raw, temperature and \
                          processed logprobs differ";
            report(errors, Code::LogprobsModeRequired, "/logprobs_mode".into(), detail.into());
        }
        let transforms = sampling.active_transforms();
        let unknown_order = sampling.order.is_none() && ProcessingOrder::is_none_of_these(&self.engine);
        if mode == Some(LogprobsMode::Processed) && unknown_order && !transforms.is_empty() {
            let pointer = place.locate(ViolationCode::IrreproducibleMode, "/logprobs_mode");
            if pointer.starts_with("/sequences/") || reported.insert(pointer.clone()) {
                let detail = format!(
                    "processed logprobs of {} with {} cannot be reproduced: the order of its transforms is not known here; \
                     if it is that of another engine, sampling.order says so",
                    self.engine,
                    transforms.join(", ")
                );
                report(errors, Code::IrreproducibleMode, pointer, detail);
            }
        }
        Rollout {
            id: sequence.id.unwrap_or_else(|| place.index.to_string()),
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

/// Where a sequence's fields really stand in the body.
struct Place {
    index: usize,
    own_sampling: bool,
    own_mode: bool,
}

impl Place {
    fn pointer(&self, field: &str) -> String {
        format!("/sequences/{}{field}", self.index)
    }

    /// The place of a violation, which may be a field that the sequence inherits.
    fn locate(&self, code: ViolationCode, pointer: &str) -> String {
        match code {
            ViolationCode::InvalidSampling if !self.own_sampling => pointer.to_owned(),
            // Either of two fields is in the way: the one that is closest to the sequence.
            ViolationCode::IrreproducibleMode if self.own_mode => self.pointer(pointer),
            ViolationCode::IrreproducibleMode if self.own_sampling => self.pointer("/sampling"),
            ViolationCode::IrreproducibleMode => pointer.to_owned(),
            _ => self.pointer(pointer),
        }
    }
}

fn report(errors: &mut Vec<FieldError>, code: Code, pointer: String, detail: String) {
    errors.push(FieldError { code, pointer, detail });
}

fn check_name(errors: &mut Vec<FieldError>, pointer: &str, name: Option<&String>) {
    let Some(name) = name else { return };
    let reason = if name.is_empty() {
        "must not be empty".into()
    } else if name.chars().any(char::is_control) {
        "must not contain control characters".into()
    } else {
        let chars = name.chars().count();
        if chars <= MAX_NAME_CHARS {
            return;
        }
        format!("has {chars} characters, the limit is {MAX_NAME_CHARS}")
    };
    report(errors, Code::InvalidLabel, pointer.to_owned(), reason);
}

/// A sequence without an id is named by its index, which another may have taken.
fn check_unique(errors: &mut Vec<FieldError>, rollouts: &[Rollout]) {
    let mut seen = HashSet::with_capacity(rollouts.len());
    for (index, rollout) in rollouts.iter().enumerate() {
        if !seen.insert(rollout.id.as_str()) {
            let detail = format!("id {:?} is that of an earlier sequence", rollout.id);
            report(errors, Code::DuplicateSequenceId, format!("/sequences/{index}/id"), detail);
        }
    }
}

/// The distinct versions that rollouts ask for, each with the first field that does.
fn wanted(rollouts: &[Rollout], of_request: Option<&str>) -> Vec<Wanted> {
    let mut seen = HashSet::new();
    let mut wanted = Vec::new();
    for (index, rollout) in rollouts.iter().enumerate() {
        for version in rollout.versions().into_iter().flatten() {
            if !seen.insert(version) {
                continue;
            }
            let span = rollout.weight_versions.iter().position(|span| span.version == version);
            let pointer = match span {
                Some(span) => format!("/sequences/{index}/weight_versions/{span}/version"),
                None if of_request == Some(version) => "/policy_version".to_owned(),
                None => format!("/sequences/{index}/policy_version"),
            };
            wanted.push(Wanted { version: version.to_owned(), pointer });
        }
    }
    wanted
}

#[cfg(test)]
mod tests;
