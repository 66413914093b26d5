//! `POST /v1/verifications`: good answers, and every way to get a bad one.

use serde_json::{Value, json};

use super::fake::{FakeModel, POISON};
use super::{Service, request, sequence};
use crate::config::Config;

fn with(path: &str, value: Value) -> Value {
    let mut body = request(&json!([sequence("a")]));
    let (parent, key) = path.rsplit_once('/').unwrap();
    body.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(key.into(), value);
    body
}

#[tokio::test]
async fn the_answer_has_its_documented_shape() {
    let service = Service::default().await;
    let mut body = request(&json!([sequence("a"), sequence("b")]));
    body["include"] = json!(["tokens", "importance_weights"]);
    body["sequences"][1]["loss_mask"] = json!([1, false]);
    let reply = service.post(&body).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(reply.headers["content-type"], "application/json");
    let answer = reply.json();
    let id = answer["id"].as_str().unwrap();
    assert!(id.starts_with("ver_") && id.len() == 36, "{id}");
    assert_eq!((&answer["run"], &answer["engine"]), (&json!("grpo"), &json!("vllm")));
    let reference =
        json!({"model": "fake", "policy_version": "2", "dtype": "f32", "head_dtype": "f32", "device": "cpu"});
    assert_eq!(answer["reference"], reference);
    assert_eq!(answer["logprobs_mode"], "raw");
    assert_eq!(answer["log_ratio_sign"], "reference_logprob - engine_logprob, in nats");
    assert_eq!(answer["metrics"]["tokens"], 3);
    assert_eq!(answer["metrics"]["sequences"], 2);
    let skipped = json!({"masked": 1, "no_context": 0, "missing": 0, "non_finite": 0, "sentinel": 0, "positive": 0,
        "support_mismatch": 0});
    assert_eq!(answer["skipped"], skipped);

    let first = &answer["sequences"][0];
    assert_eq!(
        (&first["id"], &first["verdict"], &first["logprobs_mode"]),
        (&json!("a"), &json!("insufficient"), &json!("raw"))
    );
    let reference: Vec<f64> = [7, 2].map(|token| FakeModel::logprob(token, 1.0)).into();
    assert_eq!(first["tokens"]["reference_logprobs"], json!(reference));
    assert_eq!(first["tokens"]["log_ratio"], json!([reference[0] + 1.5, reference[1] + 1.2]));
    assert_eq!(first["tokens"]["entropy"], json!([0.5, 0.5]));
    assert_eq!(first["tokens"]["rank"], json!([1, 2]));
    assert_eq!(first["importance_weights"]["token"][0], (reference[0] + 1.5f64).exp());
    assert_eq!(first["metrics"]["eos_probability"], 0.25);
    let second = &answer["sequences"][1];
    assert_eq!(second["metrics"]["tokens"], 1);
    assert_eq!(second["tokens"]["log_ratio"].as_array().unwrap().len(), 2, "masked tokens are shown");
}

#[tokio::test]
async fn parts_that_were_not_asked_for_are_absent() {
    let answer = Service::default().await.post(&request(&json!([sequence("a")]))).await.json();
    let keys: Vec<_> = answer["sequences"][0].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["id", "logprobs_mode", "metrics", "policy_version", "skipped", "verdict", "verdict_reason"]);
}

#[tokio::test]
async fn verdicts_follow_the_configured_levels() {
    let config = Config { verdict_min_tokens: 1, ..Config::default() };
    let service = Service::new(config, FakeModel::default()).await;
    let service = &service;
    let verdict = |logprobs: Value| {
        let body = with("/sequences/0/logprobs", logprobs);
        async move { service.post(&body).await.json()["sequences"][0]["verdict"].clone() }
    };
    assert_eq!(verdict(json!([-1.7, -1.2])).await, "consistent");
    assert_eq!(verdict(json!([-1.7, -1.33])).await, "suspect");
    assert_eq!(verdict(json!([-3.7, -1.2])).await, "divergent");
    assert_eq!(verdict(json!([null, null])).await, "insufficient");
}

#[tokio::test]
async fn modes_are_echoed_and_scored_at_their_temperature() {
    let service = Service::default().await;
    let mut body = request(&json!([sequence("a"), sequence("b")]));
    body["include"] = json!(["tokens"]);
    body["sampling"] = json!({"temperature": 0.5});
    body["sequences"][1]["logprobs_mode"] = json!("temperature");
    let answer = service.post(&body).await.json();
    assert_eq!(answer["logprobs_mode"], Value::Null);
    assert_eq!(answer["sequences"][0]["logprobs_mode"], "raw");
    assert_eq!(answer["sequences"][1]["logprobs_mode"], "temperature");
    assert_eq!(answer["sequences"][0]["tokens"]["reference_logprobs"][0], FakeModel::logprob(7, 1.0));
    assert_eq!(answer["sequences"][1]["tokens"]["reference_logprobs"][0], FakeModel::logprob(7, 0.5));
}

#[tokio::test]
async fn values_that_are_no_logprobs_are_skipped_and_counted() {
    let service = Service::default().await;
    let body = r#"{"run":"r","engine":"vllm","include":["tokens"],"sequences":[{"prompt_token_ids":[],
        "completion_token_ids":[1,2,3,4,5,6,7],"logprobs":[-1,NaN,-Infinity,-9999.0,null,0.5,-1.0]}]}"#;
    let reply = service.post_text(body).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let answer = reply.json();
    let skipped = json!({"masked": 0, "no_context": 1, "missing": 1, "non_finite": 2, "sentinel": 1, "positive": 1,
        "support_mismatch": 0});
    assert_eq!(answer["skipped"], skipped);
    assert_eq!(answer["metrics"]["tokens"], 1);
    let tokens = &answer["sequences"][0]["tokens"];
    for key in ["reference_logprobs", "log_ratio", "entropy", "rank"] {
        assert_eq!(tokens[key].as_array().unwrap().len(), 7, "{key}");
        assert_eq!(tokens[key][0], Value::Null, "{key}");
    }
    let series = |reason| {
        format!(r#"plumbline_tokens_skipped_total{{engine="vllm",model_name="fake",reason="{reason}",run="r"}}"#)
    };
    assert_eq!(service.metric(&series("non_finite")).await, Some(2.0));
    assert_eq!(service.metric(&series("masked")).await, Some(0.0));
}

#[tokio::test]
async fn a_token_without_any_context_cannot_be_scored_and_is_no_error() {
    let body = request(&json!([{"prompt_token_ids": [], "completion_token_ids": [1], "logprobs": [-1.0]}]));
    let answer = Service::default().await.post(&body).await.json();
    assert_eq!((&answer["metrics"]["tokens"], &answer["skipped"]["no_context"]), (&json!(0), &json!(1)));
    assert_eq!(answer["sequences"][0]["verdict"], "insufficient");
    assert_eq!(answer["metrics"]["mae_logprob"], Value::Null);
}

#[tokio::test]
async fn bad_fields_are_refused_with_their_pointer() {
    let service = Service::default().await;
    let long: Vec<u32> = vec![7; 5000];
    let long = json!({"prompt_token_ids": [1], "completion_token_ids": long, "logprobs": vec![-1.0; 5000]});
    let cases = [
        (with("/sequences/0/logprobs", json!([-1.0])), "length_mismatch", "/sequences/0/logprobs"),
        (with("/sequences/0/loss_mask", json!([1])), "length_mismatch", "/sequences/0/loss_mask"),
        (
            with("/sequences/0/completion_token_ids", json!([7, 1_000_000_000])),
            "token_out_of_vocabulary",
            "/sequences/0/completion_token_ids/1",
        ),
        (
            with("/sequences/0/completion_token_ids", json!([7, 10_000_000_000u64])),
            "token_out_of_vocabulary",
            "/sequences/0/completion_token_ids/1",
        ),
        (with("/sequences/0/prompt_token_ids", json!([-1])), "invalid_type", "/sequences/0/prompt_token_ids/0"),
        (with("/sequences/0/logprobs", json!("no")), "invalid_type", "/sequences/0/logprobs"),
        (with("/sequences/0/logprob", json!([])), "unknown_field", "/sequences/0/logprob"),
        (with("/extra", json!(1)), "unknown_field", "/extra"),
        (with("/exchanges", json!([])), "invalid_value", "/exchanges"),
        (with("/run", json!("")), "invalid_label", "/run"),
        (with("/engine", json!(null)), "invalid_type", "/engine"),
        (request(&json!([])), "empty_sequences", "/sequences"),
        (request(&json!([sequence("a"), sequence("a")])), "duplicate_sequence_id", "/sequences/1/id"),
        (request(&json!([long])), "sequence_too_long", "/sequences/0/completion_token_ids"),
        (json!({"run": "r", "engine": "vllm"}), "missing_field", "/sequences"),
        (json!([1]), "invalid_type", ""),
    ];
    for (body, code, pointer) in cases {
        let reply = service.post(&body).await;
        assert_eq!(reply.status, 422, "{code}: {}", reply.body);
        assert_eq!(reply.first_error(), (code.to_owned(), pointer.to_owned()), "{}", reply.body);
    }
    let empty = json!({"prompt_token_ids": [1], "completion_token_ids": [], "logprobs": []});
    let reply = service.post(&request(&json!([empty]))).await;
    assert_eq!(reply.first_error(), ("empty_completion".into(), "/sequences/0/completion_token_ids".into()));
    assert_eq!(service.post(&request(&json!([sequence("a")]))).await.status, 200, "the server goes on");
}

#[tokio::test]
async fn too_many_sequences_are_refused() {
    let config = Config { max_sequences_per_request: 2, ..Config::default() };
    let service = Service::new(config, FakeModel::default()).await;
    let reply = service.post(&request(&json!([sequence("a"), sequence("b"), sequence("c")]))).await;
    assert_eq!(reply.first_error(), ("too_many_sequences".into(), "/sequences".into()));
}

#[tokio::test]
async fn sequences_above_the_configured_length_are_refused() {
    let config = Config { max_sequence_tokens: 3, ..Config::default() };
    let service = Service::new(config, FakeModel::default()).await;
    let reply = service.post(&request(&json!([sequence("a")]))).await;
    assert_eq!(reply.first_error().0, "sequence_too_long");
    assert_eq!(service.get("/v1/reference").await.json()["limits"]["max_sequence_tokens"], 3);
}

#[tokio::test]
async fn another_policy_version_is_409() {
    let service = Service::default().await;
    let reply = service.post(&with("/policy_version", json!("3"))).await;
    assert_eq!(reply.problem(), (409, "policy_version_unavailable".into()));
    assert_eq!(service.post(&with("/policy_version", json!("2"))).await.status, 200);
}

#[tokio::test]
async fn a_sequence_that_fails_names_itself_and_nothing_is_counted() {
    let service = Service::default().await;
    let mut body = request(&json!([sequence("good"), sequence("bad")]));
    body["sequences"][1]["completion_token_ids"] = json!([7, POISON]);
    let reply = service.post(&body).await;
    assert_eq!(reply.problem(), (500, "scoring_failed".into()));
    assert!(reply.body.contains("\\\"bad\\\"") && !reply.body.contains("secret"), "{}", reply.body);
    let text = service.get("/metrics").await.body;
    assert!(!text.contains("run=\"grpo\""), "nothing of the request was counted");
    assert!(super::metric(&text, "plumbline_batches_failed_total").unwrap() >= 1.0);
}

#[tokio::test]
async fn large_bodies_are_answered_like_small_ones() {
    let service = Service::default().await;
    let long = json!({"id": "long", "prompt_token_ids": [1], "completion_token_ids": vec![7; 4000], "logprobs": vec![-1.69; 4000]});
    let sequences: Vec<_> = (0..8)
        .map(|index| {
            let mut sequence = long.clone();
            sequence["id"] = json!(index.to_string());
            sequence
        })
        .collect();
    let answer = service.post(&request(&json!(sequences))).await.json();
    assert_eq!(answer["metrics"]["tokens"], 32000);
    assert_eq!(answer["sequences"][7]["verdict"], "consistent");
}
