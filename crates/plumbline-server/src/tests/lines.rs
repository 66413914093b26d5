//! Newline-delimited JSON.

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};

use super::fake::FakeModel;
use super::{Reply, Service, request, sequence, until};
use crate::config::Config;
use crate::jobs;

async fn post(service: &Service, query: &str, body: &str, headers: &[(&str, &str)]) -> Reply {
    let mut request = Request::post(format!("/v1/verifications{query}")).header("content-type", "application/x-ndjson");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    service.call(request.body(Body::from(body.to_owned())).unwrap()).await
}

/// Good and bad lines, in several forms.
fn mixed() -> String {
    let mut native = sequence("a");
    (native["run"], native["engine"]) = (json!("grpo"), json!("vllm"));
    let canonical = json!({"token_ids": [1, 5, 7, 2], "prompt_len": 2, "logprobs": [-1.5, -1.2], "engine": "vllm"});
    let whole = request(&json!([sequence("b"), sequence("c")]));
    let bad = json!({"run": "grpo", "engine": "vllm", "prompt_token_ids": [1], "completion_token_ids": [700], "logprobs": [-1]});
    [native.to_string(), "{\"run\":".into(), String::new(), canonical.to_string(), whole.to_string(), bad.to_string()]
        .join("\n")
}

fn parsed(body: &str) -> Vec<Value> {
    body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn each_line_has_its_own_answer() {
    let service = Service::default().await;
    let reply = post(&service, "?run=grpo", &mixed(), &[]).await;
    assert_eq!(
        (reply.status.as_u16(), &reply.headers["content-type"]),
        (200, &"application/x-ndjson".parse().unwrap())
    );
    let lines = parsed(&reply.body);
    let statuses: Vec<_> =
        lines.iter().map(|line| (line["line"].as_u64().unwrap(), line["status"].as_u64().unwrap())).collect();
    assert_eq!(statuses, [(1, 200), (2, 400), (4, 200), (5, 200), (6, 422)]);
    assert_eq!(lines[0]["verification"]["sequences"][0]["id"], "a");
    assert_eq!(lines[2]["verification"]["sequences"][0]["id"], "line:4");
    assert_eq!(lines[3]["verification"]["sequences"].as_array().unwrap().len(), 2);
    assert_eq!(lines[4]["problem"]["errors"][0]["pointer"], "/completion_token_ids/0");
    assert_eq!(lines[1]["problem"]["request_id"], reply.headers["x-request-id"].to_str().unwrap());
    let again = parsed(&post(&service, "?run=grpo", &mixed(), &[]).await.body);
    assert_eq!((&again[0]["replayed"], &again[0]["verification"]), (&json!(true), &lines[0]["verification"]));
    assert_eq!(service.metric("plumbline_batch_sequences_sum").await, Some(4.0));
}

#[tokio::test]
async fn lines_can_be_accepted_for_later() {
    let folder = std::env::temp_dir().join(format!("plumbline-lines-{}", std::process::id()));
    let config = Config { data_dir: Some(folder.clone()), ..Config::default() };
    let service = Service::new(config, FakeModel::default()).await;
    let headers = [("prefer", "respond-async"), ("idempotency-key", "bulk")];
    let reply = post(&service, "?run=grpo", &mixed(), &headers).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["accepted"]), (202, &json!(3)), "{}", reply.body);
    let lines = reply.json()["lines"].clone();
    assert_eq!((&lines[1]["status"], &lines[1]["problem"]["code"]), (&json!(400), &json!("malformed_json")));
    let runner = tokio::spawn(jobs::run(service.0.state.clone()));
    for line in [0, 2, 3] {
        let path = format!("/v1/verifications/{}", lines[line]["id"].as_str().unwrap());
        until("the line is answered", async || service.get(&path).await.json()["state"] == "done").await;
    }
    let again = post(&service, "?run=grpo", &mixed(), &headers).await;
    assert_eq!((again.status.as_u16(), &again.json()["accepted"]), (200, &json!(0)));
    assert_eq!(again.json()["lines"][0]["replayed"], true);
    let other = mixed().replace("\"a\"", "\"z\"");
    let reused = post(&service, "?run=grpo", &other, &headers).await.json();
    assert_eq!(reused["lines"][0]["problem"]["code"], "idempotency_key_reused");
    service.0.drain.send(true).unwrap();
    runner.await.unwrap();
    service.0.state.ledger.store().unwrap().close().unwrap();
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn lines_are_bounded_and_there_must_be_one() {
    let service = Service::new(Config { max_lines_per_request: 2, ..Config::default() }, FakeModel::default()).await;
    assert_eq!(post(&service, "", "{}\n{}\n{}", &[]).await.problem(), (422, "too_many_lines".into()));
    assert_eq!(post(&service, "", " \n\n", &[]).await.problem(), (422, "empty_sequences".into()));
    assert_eq!(post(&service, "?rnu=a", "{}", &[]).await.problem(), (422, "invalid_value".into()));
    let none = parsed(&post(&service, "", "{}\r\n[]\r\n", &[]).await.body);
    assert!(none.iter().all(|line| line["status"] == 422), "{none:?}");
}
