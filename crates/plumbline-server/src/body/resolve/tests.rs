//! Requests that resolve, and all that is wrong with others.

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
    assert_eq!(errors(&with("/sequences/0/id", json!("1"))), one("duplicate_sequence_id", "/sequences/1"));
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

fn completion() -> Value {
    json!({"system_fingerprint": "vllm-1", "choices": [{"index": 0, "text": "", "finish_reason": "stop", "token_ids": [2, 3],
        "prompt_token_ids": [1], "logprobs": {"tokens": ["a", "b"], "token_logprobs": [-1.0, -2.0]}}]})
}

fn exchange() -> Value {
    json!({"request": {"prompt": [1], "temperature": 0.7}, "response": completion()})
}

fn of_exchanges(engine: &str, exchanges: &[Value]) -> Value {
    json!({"run": "r", "engine": engine, "exchanges": exchanges})
}

#[test]
fn exchanges_are_read_as_sequences() {
    let mut named = exchange();
    named["id"] = json!("mine");
    let rollouts = resolved(&of_exchanges("vllm", &[exchange(), named])).unwrap().rollouts;
    assert_eq!(rollouts.iter().map(|own| own.id.as_str()).collect::<Vec<_>>(), ["0-0", "mine-0"]);
    assert_eq!((&rollouts[0].prompt_token_ids[..], &rollouts[0].completion_token_ids[..]), (&[1][..], &[2, 3][..]));
    assert_eq!((rollouts[0].sampling.temperature, rollouts[0].logprobs_mode), (0.7, LogprobsMode::Raw));
}

#[test]
fn a_request_has_sequences_or_exchanges() {
    let mut both = good();
    both["exchanges"] = json!([exchange()]);
    assert_eq!(errors(&both), one("invalid_value", "/exchanges"));
    let neither = json!({"run": "r", "engine": "vllm"});
    assert_eq!(errors(&neither), one("missing_field", "/sequences"));
    assert_eq!(errors(&of_exchanges("vllm", &[])), one("empty_sequences", "/exchanges"));
    let four = [exchange(), exchange(), exchange(), exchange()];
    assert_eq!(errors(&of_exchanges("vllm", &four)), one("too_many_sequences", "/exchanges"));
    let mut many = exchange();
    many["request"]["n"] = json!(4);
    let choices: Vec<_> = (0..4)
        .map(|index| {
            let mut choice = completion()["choices"][0].clone();
            choice["index"] = json!(index);
            choice
        })
        .collect();
    many["response"]["choices"] = json!(choices);
    assert_eq!(errors(&of_exchanges("vllm", &[many])), one("too_many_sequences", "/exchanges"));
    let mut twice = [exchange(), exchange()];
    twice[0]["id"] = json!("1");
    assert_eq!(errors(&of_exchanges("vllm", &twice)), one("duplicate_sequence_id", "/exchanges/1"));
}

#[test]
fn the_request_speaks_for_exchanges_that_say_nothing_themselves() {
    let mut body = of_exchanges("mine", &[exchange(), exchange()]);
    body["logprobs_mode"] = json!("processed");
    body["sampling"] = json!({"top_k": 3});
    body["exchanges"][1]["logprobs_mode"] = json!("raw_logprobs");
    body["exchanges"][1]["sampling"] = json!({"top_k": 4});
    let rollouts = resolved(&body).unwrap().rollouts;
    let seen: Vec<_> = rollouts.iter().map(|own| (own.logprobs_mode, own.sampling.top_k)).collect();
    assert_eq!(seen, [(LogprobsMode::Processed, 3), (LogprobsMode::Raw, 4)]);
    body["sampling"]["top_p"] = json!(2.0);
    assert_eq!(errors(&body), one("invalid_sampling", "/sampling/top_p"));
    body["exchanges"][0]["sampling"] = json!({"top_p": 2.0});
    assert_eq!(errors(&body), one("invalid_sampling", "/exchanges/0/sampling/top_p"));
    assert_eq!(errors(&of_exchanges("sglang", &[exchange()])), one("engine_mismatch", "/exchanges/0/response"));
    let mut unknown = exchange();
    unknown["engine"] = json!("mine");
    assert_eq!(errors(&of_exchanges("vllm", &[unknown])), one("unknown_engine", "/exchanges/0/engine"));
}

#[test]
fn what_is_wrong_with_an_exchange_is_pointed_at_in_it() {
    let with = |pointer: &str, value: Value| {
        let mut body = of_exchanges("vllm", &[exchange()]);
        *body.pointer_mut(pointer).unwrap() = value;
        errors(&body)
    };
    let choice = "/exchanges/0/response/choices/0";
    let at = |field: &str| format!("{choice}{field}");
    assert_eq!(with(&at("/token_ids"), json!(null)), one("missing_token_ids", &at("/token_ids")));
    assert_eq!(with(&at("/logprobs"), json!(null)), one("missing_logprobs", &at("/logprobs")));
    assert_eq!(with(&at("/token_ids/1"), json!(10)), one("token_out_of_vocabulary", &at("/token_ids/1")));
    assert_eq!(with(&at("/prompt_token_ids/0"), json!(77)), one("token_out_of_vocabulary", &at("/prompt_token_ids/0")));
    assert_eq!(with("/exchanges/0/request/temperature", json!(-1)), one("invalid_sampling", "/exchanges/0/request"));
    assert_eq!(
        with("/exchanges/0/response", json!({"error": "no"})),
        one("engine_failed", "/exchanges/0/response/error")
    );
    let mut versions = of_exchanges("vllm", &[exchange()]);
    versions["exchanges"][0]["response"]["choices"][0]["weight_versions"] =
        json!([{"version": "", "start": 0, "end": 1}, {"version": "b", "start": 1, "end": 3}]);
    let place = at("/weight_versions");
    let (_, found) = errors(&versions);
    assert_eq!(found, [("invalid_label", place.clone()), ("invalid_weight_versions", place)]);
}

#[test]
fn an_exchanges_version_is_its_own_word_then_the_bodys_then_the_requests() {
    let mut body = of_exchanges("vllm", &[exchange(), exchange(), exchange()]);
    body["policy_version"] = json!("3");
    for index in [1, 2] {
        body["exchanges"][index]["response"]["choices"][0]["weight_versions"] =
            json!([{"version": "4", "start": 0, "end": 2}]);
    }
    body["exchanges"][2]["policy_version"] = json!("5");
    let wanted: Vec<_> =
        resolved(&body).unwrap().wanted.into_iter().map(|wanted| (wanted.version, wanted.pointer)).collect();
    let expected = [
        ("3", "/policy_version"),
        ("4", "/exchanges/1/response/choices/0/weight_versions"),
        ("5", "/exchanges/2/policy_version"),
    ];
    assert_eq!(wanted, expected.map(|(version, pointer)| (version.to_owned(), pointer.to_owned())));
}

#[test]
fn no_more_of_a_prompt_is_cached_than_it_has() {
    let mut body = with("/sequences/0/cached_tokens", json!(1));
    assert_eq!(resolved(&body).unwrap().cached_tokens, [Some(1), None]);
    body["sequences"][1]["cached_tokens"] = json!(2);
    assert_eq!(errors(&body), one("invalid_value", "/sequences/1/cached_tokens"));
}
