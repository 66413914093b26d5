//! Generated bad bodies: whatever arrives, the answer is a client's error that points into the body.

use plumbline_core::ModelLimits;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{RequestLimits, parse, resolve};
use crate::problem::Problem;

fn good() -> Value {
    json!({
        "run": "r", "engine": "vllm", "worker": "w", "policy_version": "2", "logprobs_mode": "raw",
        "sampling": {"temperature": 0.7, "top_p": 0.9},
        "sequences": [
            {"id": "a", "prompt_token_ids": [1], "completion_token_ids": [2, 3], "logprobs": [-1.0, null],
             "loss_mask": [1, false], "finish_reason": "stop"},
            {"prompt_token_ids": [], "completion_token_ids": [4], "logprobs": [-2.0], "sampling": {},
             "weight_versions": [{"version": "2", "start": 0, "end": 1}]}
        ],
        "include": ["tokens"]
    })
}

fn exchanges() -> Value {
    let vllm = json!({"system_fingerprint": "vllm-1", "choices": [
        {"index": 0, "text": "x", "finish_reason": "stop", "token_ids": [2, 3], "prompt_token_ids": [1],
         "logprobs": {"tokens": ["a", "b"], "token_logprobs": [-1.0, null]},
         "weight_versions": [{"version": "2", "start": 0, "end": 1}, {"version": "3", "start": 1, "end": 2}]}]});
    let sglang = json!({"output_ids": [2], "meta_info": {"prompt_tokens": 1, "completion_tokens": 1, "weight_version": "2",
        "output_token_logprobs": [[-1.0, 2, null]]}});
    json!({
        "run": "r", "engine": "mine", "policy_version": "2", "logprobs_mode": "processed", "sampling": {"top_p": 0.9},
        "exchanges": [
            {"id": "a", "path": "/v1/completions", "engine": "vllm", "logprobs_mode": "raw_logprobs", "policy_version": "2",
             "sampling": {}, "request": {"prompt": [1], "n": 1}, "response": vllm},
            {"request": {"input_ids": [1], "sampling_params": {"n": 1}}, "response": sglang},
            {"engine": "vllm", "request": {"prompt": [1]},
             "response": format!("data: {}\n\n", json!({"choices": [{"token_ids": [2], "logprobs": {"token_logprobs": [-1.0]}}]}))}
        ]
    })
}

fn handle(body: &[u8]) -> Result<(), Problem> {
    let limits = RequestLimits { model: ModelLimits { vocab_size: 10, max_positions: 8 }, max_sequences: 4 };
    resolve(parse(body)?, &limits).map(drop)
}

/// Every pointer of a document, the root included.
fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| pointers(item, &format!("{at}/{index}"), found));
        }
        Value::Object(fields) => fields.iter().for_each(|(key, item)| pointers(item, &format!("{at}/{key}"), found)),
        _ => {}
    }
}

fn replacement() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z/~\u{0}é]{0,5}".prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!({"temprature/~": 1})),
        Just(json!([0, -1, 1.5, "x", 10_000_000_000u64])),
        Just(good()),
        Just(exchanges()),
    ]
}

/// The parent of the offending field exists; the field itself may be the one that is missing.
fn points_into(problem: &Problem, body: &Value) -> bool {
    problem.errors.iter().all(|error| {
        let parent = error.pointer.rsplit_once('/').map_or("", |(parent, _)| parent);
        body.pointer(parent).is_some()
    })
}

#[test]
fn the_bodies_that_are_changed_are_good() {
    handle(good().to_string().as_bytes()).unwrap();
    handle(exchanges().to_string().as_bytes()).unwrap();
}

#[test]
fn deep_exchanges_are_the_clients_error() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for field in ["request", "response"] {
        let body = format!(r#"{{"run":"r","engine":"vllm","exchanges":[{{"{field}":{deep}}}]}}"#);
        let problem = handle(body.as_bytes()).unwrap_err();
        assert_eq!(problem.code.status().as_u16(), 422);
        assert!(
            problem.errors[0].pointer.starts_with(&format!("/exchanges/0/{field}")),
            "{}",
            problem.errors[0].pointer
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn changed_fields_are_accepted_or_pointed_at(
        native in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), replacement(), any::<bool>()), 1..4),
    ) {
        let mut body = if native { good() } else { exchanges() };
        for (index, value, remove) in changes {
            let mut places = Vec::new();
            pointers(&body, "", &mut places);
            let place = index.get(&places).clone();
            match place.rsplit_once('/') {
                Some((parent, key)) if remove && body.pointer(parent).is_some_and(Value::is_object) => {
                    let key = key.replace("~1", "/").replace("~0", "~");
                    body.pointer_mut(parent).and_then(Value::as_object_mut).map(|fields| fields.remove(&key));
                }
                _ => {
                    if let Some(target) = body.pointer_mut(&place) {
                        *target = value;
                    }
                }
            }
        }
        if let Err(problem) = handle(body.to_string().as_bytes()) {
            prop_assert!(problem.code.status().is_client_error(), "{:?}", problem);
            prop_assert!(!problem.errors.is_empty() && points_into(&problem, &body), "{:?}\n{}", problem, body);
        }
    }

    #[test]
    fn broken_bytes_are_the_clients_error(
        native in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 1..5),
    ) {
        let mut bytes = if native { good() } else { exchanges() }.to_string().into_bytes();
        for (index, byte, kind) in changes {
            let at = index.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => bytes.truncate(at.max(1)),
            }
        }
        if let Err(problem) = handle(&bytes) {
            prop_assert!(problem.code.status().is_client_error(), "{:?}", problem);
        }
    }
}
