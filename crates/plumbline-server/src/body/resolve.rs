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
    for (index, sequence) in request.sequences.into_iter().enumerate() {
        let place =
            Place { index, own_sampling: sequence.sampling.is_some(), own_mode: sequence.logprobs_mode.is_some() };
        check_name(&mut errors, &place.pointer("/id"), sequence.id.as_ref());
        check_name(&mut errors, &place.pointer("/policy_version"), sequence.policy_version.as_ref());
        for (span_index, span) in sequence.weight_versions.iter().flatten().enumerate() {
            let pointer = place.pointer(&format!("/weight_versions/{span_index}/version"));
            check_name(&mut errors, &pointer, Some(&span.version));
        }
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
        wanted,
        include_tokens: request.include.contains(&Include::Tokens),
        include_importance_weights: request.include.contains(&Include::ImportanceWeights),
        include_diagnosis: request.include.contains(&Include::Diagnosis),
    })
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
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn limits() -> RequestLimits {
        let model = ModelLimits { vocab_size: 10, max_positions: 6 };
        RequestLimits { model, max_sequences: 3 }
    }

    fn sequence() -> Value {
        json!({"prompt_token_ids": [1], "completion_token_ids": [2, 3], "logprobs": [-1.0, -2.0]})
    }

    fn good() -> Value {
        json!({"run": "r", "engine": "vllm", "sequences": [sequence(), sequence()]})
    }

    fn with(path: &str, value: Value) -> Value {
        let mut body = good();
        let (parent, key) = path.rsplit_once('/').unwrap();
        body.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(key.into(), value);
        body
    }

    fn resolved(body: &Value) -> Result<Verification, Problem> {
        resolve(serde_json::from_value(body.clone()).unwrap(), &limits())
    }

    /// Status, and code and pointer of every error.
    fn errors(body: &Value) -> (u16, Vec<(&'static str, String)>) {
        let problem = resolved(body).unwrap_err();
        let errors = problem.errors.into_iter().map(|error| (error.code.as_str(), error.pointer)).collect();
        (problem.code.status().as_u16(), errors)
    }

    fn one(code: &'static str, pointer: &str) -> (u16, Vec<(&'static str, String)>) {
        (422, vec![(code, pointer.to_owned())])
    }

    #[test]
    fn defaults_are_filled_in() {
        let verification = resolved(&good()).unwrap();
        let ids: Vec<_> = verification.rollouts.iter().map(|rollout| rollout.id.as_str()).collect();
        assert_eq!(ids, ["0", "1"]);
        assert_eq!(verification.rollouts[0].logprobs_mode, LogprobsMode::Raw);
        assert_eq!(
            verification.rollouts[0].sampling,
            Sampling { order: Some(ProcessingOrder::Vllm), ..Sampling::default() }
        );
        assert!(!verification.include_tokens && !verification.include_importance_weights);
    }

    #[test]
    fn a_sequences_own_fields_replace_the_requests() {
        let mut body = with("/sampling", json!({"temperature": 0.7, "top_p": 0.9}));
        body["logprobs_mode"] = json!("raw");
        body["policy_version"] = json!("2");
        body["sequences"][1]["sampling"] = json!({"temperature": 1.3});
        body["sequences"][1]["logprobs_mode"] = json!("temperature");
        let rollouts = resolved(&body).unwrap().rollouts;
        let vllm = Sampling { order: Some(ProcessingOrder::Vllm), ..Sampling::default() };
        assert_eq!(rollouts[0].sampling, Sampling { temperature: 0.7, top_p: 0.9, ..vllm });
        assert_eq!(rollouts[1].sampling, Sampling { temperature: 1.3, ..vllm });
        assert_eq!(rollouts[0].logprobs_mode, LogprobsMode::Raw);
        assert_eq!(rollouts[1].logprobs_mode, LogprobsMode::Temperature);
        assert_eq!(rollouts[1].policy_version.as_deref(), Some("2"));
    }

    #[test]
    fn the_mode_follows_the_engine_and_is_asked_for_where_it_matters() {
        let mode = |engine: &str, sampling: Value| {
            let mut body = with("/engine", json!(engine));
            body["sampling"] = sampling;
            body
        };
        let hot = json!({"temperature": 0.7});
        assert_eq!(
            resolved(&mode("sglang", hot.clone())).unwrap().rollouts[0].logprobs_mode,
            LogprobsMode::Temperature
        );
        assert_eq!(resolved(&mode("mine", json!({}))).unwrap().rollouts[0].logprobs_mode, LogprobsMode::Raw);
        assert_eq!(errors(&mode("mine", hot)), one("logprobs_mode_required", "/logprobs_mode"));
    }

    #[test]
    fn names_are_bounded() {
        assert_eq!(errors(&with("/run", json!(""))), one("invalid_label", "/run"));
        assert_eq!(errors(&with("/engine", json!("a\nb"))), one("invalid_label", "/engine"));
        assert_eq!(errors(&with("/worker", json!("é".repeat(201)))), one("invalid_label", "/worker"));
        assert!(resolved(&with("/worker", json!("é".repeat(200)))).is_ok());
        assert_eq!(errors(&with("/sequences/1/id", json!(""))), one("invalid_label", "/sequences/1/id"));
    }

    #[test]
    fn sequences_are_bounded_and_unique() {
        assert_eq!(errors(&with("/sequences", json!([]))), one("empty_sequences", "/sequences"));
        let four = json!([sequence(), sequence(), sequence(), sequence()]);
        assert_eq!(errors(&with("/sequences", four)), one("too_many_sequences", "/sequences"));
        assert_eq!(errors(&with("/sequences/0/id", json!("1"))), one("duplicate_sequence_id", "/sequences/1/id"));
    }

    #[test]
    fn violations_point_at_the_field_that_is_in_the_way() {
        assert_eq!(
            errors(&with("/sequences/1/completion_token_ids", json!([2, 10]))),
            one("token_out_of_vocabulary", "/sequences/1/completion_token_ids/1")
        );
        assert_eq!(
            errors(&with("/sequences/0/logprobs", json!([-1.0]))),
            one("length_mismatch", "/sequences/0/logprobs")
        );
        // Inherited by both sequences, reported once and where it stands.
        assert_eq!(errors(&with("/sampling", json!({"top_p": 2.0}))), one("invalid_sampling", "/sampling/top_p"));
        assert_eq!(
            errors(&with("/sequences/1/sampling", json!({"top_p": 2.0}))),
            one("invalid_sampling", "/sequences/1/sampling/top_p")
        );
    }

    #[test]
    fn processed_logprobs_need_an_order_that_is_known() {
        let processed = |engine: &str, sampling: Value| {
            let mut body = with("/logprobs_mode", json!("processed"));
            body["engine"] = json!(engine);
            body["sampling"] = sampling;
            body
        };
        let order = |body: &Value| resolved(body).unwrap().rollouts[0].sampling.order;
        let nucleus = json!({"top_p": 0.9});
        assert_eq!(order(&processed("vllm", nucleus.clone())), Some(ProcessingOrder::Vllm));
        assert_eq!(order(&processed("SGLang", nucleus.clone())), Some(ProcessingOrder::Sglang));
        assert_eq!(order(&processed("mine", nucleus.clone())), None, "then it is vLLM's");
        assert_eq!(order(&processed("mine", json!({"top_p": 0.9, "order": "sglang"}))), Some(ProcessingOrder::Sglang));
        let one = |pointer: &str| one("irreproducible_logprobs_mode", pointer);
        assert_eq!(errors(&processed("llama.cpp", nucleus.clone())), one("/logprobs_mode"));
        assert!(resolved(&processed("llama.cpp", json!({"temperature": 0.7}))).is_ok(), "nothing to order");
        assert!(resolved(&processed("llama.cpp", json!({"top_p": 0.9, "order": "vllm"}))).is_ok());
        assert_eq!(errors(&processed("tgi", json!({"frequency_penalty": 0.5}))), one("/logprobs_mode"));
        let mut own = processed("llama.cpp", json!({}));
        own["sequences"][1]["sampling"] = nucleus;
        assert_eq!(errors(&own), one("/sequences/1/sampling"));
        own["sequences"][1]["logprobs_mode"] = json!("processed");
        assert_eq!(errors(&own), one("/sequences/1/logprobs_mode"));
        let problem = resolved(&own).unwrap_err();
        assert!(problem.errors[0].detail.contains("llama.cpp with top_p"), "{}", problem.errors[0].detail);
    }

    #[test]
    fn everything_wrong_is_reported_at_once() {
        let mut body = with("/run", json!(""));
        body["include"] = json!(["tokens", "diagnosis"]);
        body["sequences"][1]["logprobs"] = json!([]);
        let expected = [("invalid_label", "/run"), ("length_mismatch", "/sequences/1/logprobs")];
        let (status, errors) = errors(&body);
        assert_eq!(status, 422);
        assert_eq!(errors, expected.map(|(code, pointer)| (code, pointer.to_owned())));
    }

    #[test]
    fn every_version_is_asked_for_once_where_it_stands() {
        let asked = |body: &Value| -> Vec<(String, String)> {
            let wanted = resolved(body).unwrap().wanted;
            wanted.into_iter().map(|wanted| (wanted.version, wanted.pointer)).collect()
        };
        let one = |version: &str, pointer: &str| (version.to_owned(), pointer.to_owned());
        assert_eq!(asked(&good()), []);
        let mut body = with("/policy_version", json!("3"));
        assert_eq!(asked(&body), [one("3", "/policy_version")]);
        body["sequences"][1]["policy_version"] = json!("4");
        assert_eq!(asked(&body), [one("3", "/policy_version"), one("4", "/sequences/1/policy_version")]);
        body["sequences"][0]["weight_versions"] =
            json!([{"version": "4", "start": 0, "end": 1}, {"version": "5", "start": 1, "end": 2}]);
        assert_eq!(
            asked(&body),
            [one("4", "/sequences/0/weight_versions/0/version"), one("5", "/sequences/0/weight_versions/1/version")]
        );
        body["sequences"][0]["weight_versions"] = json!(null);
        assert_eq!(asked(&body), [one("3", "/policy_version"), one("4", "/sequences/1/policy_version")]);
    }

    #[test]
    fn spans_that_do_not_cover_the_completion_are_refused() {
        let spans = json!([{"version": "4", "start": 0, "end": 1}]);
        let problem = resolved(&with("/sequences/0/weight_versions", spans)).unwrap_err();
        assert_eq!(problem.code.as_str(), "invalid_weight_versions");
        assert_eq!(problem.errors[0].pointer, "/sequences/0/weight_versions");
        let unnamed = json!([{"version": "", "start": 0, "end": 2}]);
        let problem = resolved(&with("/sequences/0/weight_versions", unnamed)).unwrap_err();
        assert_eq!(problem.errors[0].pointer, "/sequences/0/weight_versions/0/version");
    }
}
