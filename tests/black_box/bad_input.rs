//! Bad input gets its documented answer, and the server goes on serving.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::{Server, series};

fn sequence() -> Value {
    json!({"id": "x", "prompt_token_ids": [5], "completion_token_ids": [7, 8], "logprobs": [-1.0, -1.0]})
}

fn with(field: &str, value: Value) -> String {
    let mut sequence = sequence();
    sequence[field] = value;
    json!({"run": "bad", "engine": "vllm", "sequences": [sequence]}).to_string()
}

struct Case {
    name: &'static str,
    body: String,
    status: u16,
    code: &'static str,
    pointer: Option<&'static str>,
}

fn cases() -> Vec<Case> {
    let case = |name, body: String, status, code, pointer| Case { name, body, status, code, pointer };
    let unprocessable = |name, body, code, pointer| case(name, body, 422, code, Some(pointer));
    vec![
        case("not JSON", "{".into(), 400, "malformed_json", None),
        unprocessable("wrong type", with("logprobs", json!("no")), "invalid_type", "/sequences/0/logprobs"),
        unprocessable("length mismatch", with("logprobs", json!([-1.0])), "length_mismatch", "/sequences/0/logprobs"),
        unprocessable(
            "id out of vocabulary",
            with("completion_token_ids", json!([7, 2048])),
            "token_out_of_vocabulary",
            "/sequences/0/completion_token_ids/1",
        ),
        unprocessable(
            "id beyond 32 bits",
            with("completion_token_ids", json!([7, 99_999_999_999_u64])),
            "token_out_of_vocabulary",
            "/sequences/0/completion_token_ids/1",
        ),
        unprocessable(
            "empty completion",
            json!({"run": "bad", "engine": "vllm", "sequences": [{"prompt_token_ids": [5], "completion_token_ids": [], "logprobs": []}]})
                .to_string(),
            "empty_completion",
            "/sequences/0/completion_token_ids",
        ),
        unprocessable(
            "too long",
            json!({"run": "bad", "engine": "vllm", "sequences": [
                {"prompt_token_ids": [5], "completion_token_ids": vec![7; 5000], "logprobs": vec![-1.0; 5000]}]})
            .to_string(),
            "sequence_too_long",
            "/sequences/0/completion_token_ids",
        ),
        unprocessable("unknown field", with("temprature", json!(1)), "unknown_field", "/sequences/0/temprature"),
        unprocessable(
            "irreproducible mode",
            json!({"run": "bad", "engine": "llama.cpp", "logprobs_mode": "processed", "sampling": {"top_p": 0.9}, "sequences": [sequence()]})
                .to_string(),
            "irreproducible_logprobs_mode",
            "/logprobs_mode",
        ),
        case(
            "another policy version",
            json!({"run": "bad", "engine": "vllm", "policy_version": "43", "sequences": [sequence()]}).to_string(),
            409,
            "policy_version_unavailable",
            None,
        ),
    ]
}

#[tokio::test]
async fn each_kind_gets_its_problem_and_the_server_goes_on() {
    let server = Server::start(&[]).await;
    for case in cases() {
        let request = server.client.post(server.at("/v1/verifications")).header("content-type", "application/json");
        let response = request.body(case.body).send().await.unwrap();
        assert_eq!(response.status().as_u16(), case.status, "{}", case.name);
        assert_eq!(response.headers()["content-type"], "application/problem+json", "{}", case.name);
        let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
        let problem: Value = response.json().await.unwrap();
        assert_eq!(problem["code"], case.code, "{}: {problem}", case.name);
        assert_eq!(problem["status"], case.status, "{}", case.name);
        assert_eq!(problem["request_id"], id, "{}", case.name);
        if let Some(pointer) = case.pointer {
            assert_eq!(problem["errors"][0]["pointer"], pointer, "{}: {problem}", case.name);
        }
        server.verify("good", &[sequence()]).await;
    }
    // Nothing of a refused request was counted.
    let page = server.metrics().await;
    assert!(!page.contains("run=\"bad\""), "a refused request left series behind");
}

#[tokio::test]
async fn values_that_are_no_logprobs_are_skipped_and_counted() {
    let server = Server::start(&[]).await;
    // As Python's json module writes them.
    let body = r#"{"run":"odd","engine":"vllm","sequences":[{"id":"x","prompt_token_ids":[5],
        "completion_token_ids":[7,8,9,10,11,12],"logprobs":[NaN,-Infinity,0.5,-9999.0,null,-1.0]}]}"#;
    let request = server.client.post(server.at("/v1/verifications")).header("content-type", "application/json");
    let response = request.body(body).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let answer: Value = response.json().await.unwrap();
    assert_eq!(answer["metrics"]["tokens"], 1);
    assert_eq!(
        answer["skipped"],
        json!({"masked": 0, "no_context": 0, "missing": 1, "non_finite": 2, "sentinel": 1, "positive": 1,
        "support_mismatch": 0})
    );
    let page = server.metrics().await;
    let skipped = |reason: &str| {
        series(&page, "plumbline_tokens_skipped_total", &["run=\"odd\"", &format!("reason=\"{reason}\"")])
    };
    assert_eq!((skipped("non_finite"), skipped("sentinel"), skipped("missing")), (2.0, 1.0, 1.0));
}

#[tokio::test]
async fn a_body_of_100_megabytes_is_refused_without_being_held() {
    let server = Server::start(&[]).await;
    let before = series(&server.metrics().await, "process_resident_memory_bytes", &[]);
    let request = server.client.post(server.at("/v1/verifications")).header("content-type", "application/json");
    let response = request.body(vec![b' '; 100 << 20]).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["code"], "body_too_large");
    let after = series(&server.metrics().await, "process_resident_memory_bytes", &[]);
    assert!(after - before < (64 << 20) as f64, "memory grew from {before} to {after}");
    server.verify("good", &[sequence()]).await;
}
