//! What becomes of bodies, good and bad ones.

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
    assert_eq!(resolved(&mode("sglang", hot.clone())).unwrap().rollouts[0].logprobs_mode, LogprobsMode::Temperature);
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
    assert_eq!(errors(&with("/sequences/0/logprobs", json!([-1.0]))), one("length_mismatch", "/sequences/0/logprobs"));
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

#[test]
fn no_more_of_a_prompt_is_cached_than_it_has() {
    let mut body = with("/sequences/0/cached_tokens", json!(1));
    assert_eq!(resolved(&body).unwrap().cached_tokens, [Some(1), None]);
    body["sequences"][1]["cached_tokens"] = json!(2);
    assert_eq!(errors(&body), one("invalid_value", "/sequences/1/cached_tokens"));
}
