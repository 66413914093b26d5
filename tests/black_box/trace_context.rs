//! What a request is known by across services: in its answer and in every line of the log.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{PATIENCE, Server, plumbline, recording};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

async fn post(server: &Server, body: &Value, parent: Option<&str>) -> reqwest::Response {
    let mut request = server.client.post(server.at("/v1/verifications")).json(body).header("x-request-id", "req-7");
    if let Some(parent) = parent {
        request = request.header("traceparent", parent);
    }
    request.send().await.unwrap()
}

fn trace_of(response: &reqwest::Response) -> Vec<String> {
    response.headers()["traceresponse"].to_str().unwrap().split('-').map(str::to_owned).collect()
}

/// Lines of the log that hold a text, in JSON, as soon as there is one that is wanted.
async fn lines(server: &Server, text: &str, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
    let found = async {
        loop {
            let log = server.log();
            let lines = log.lines().filter(|line| line.contains(text)).map(|line| serde_json::from_str(line).unwrap());
            let lines: Vec<Value> = lines.filter(&wanted).collect();
            if !lines.is_empty() {
                break lines;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("no {text}: {}", server.log()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callers_trace_is_answered_and_logged() {
    let server = Server::start(&[]).await;
    let body = json!({"run": "r", "engine": "vllm", "sequences": [recording("tiny-bf16-raw")[0]]});
    let response = post(&server, &body, Some(PARENT)).await;
    assert_eq!(response.status(), 200);
    let own = trace_of(&response);
    assert_eq!((own[0].as_str(), own[1].as_str(), own[2].len(), own[3].as_str()), ("00", TRACE, 16, "01"));
    assert_ne!(own[2], "00f067aa0ba902b7", "its own span");
    let answered = lines(&server, "\"answered\"", |line| line["route"] == "/v1/verifications").await.remove(0);
    let ids = ["request_id", "trace_id", "span_id"].map(|key| answered[key].as_str().unwrap().to_owned());
    assert_eq!(ids, ["req-7", TRACE, &own[2]]);

    let fresh = trace_of(&post(&server, &body, Some("00-nonsense")).await);
    assert!(fresh[1] != TRACE && fresh[1].len() == 32 && fresh[3] == "00", "nobody listens to it: {fresh:?}");
}

/// Fault injection is part of debug builds.
#[cfg(debug_assertions)]
#[tokio::test(flavor = "multi_thread")]
async fn lines_of_the_model_thread_say_whose_they_are() {
    let variables = [("PLUMBLINE_FAULT_PANIC_ON_TOKENS", "7,2,9")];
    let server = Server::start_with(&[], &variables).await;
    let sequence = json!({"id": "bad", "prompt_token_ids": [5], "completion_token_ids": [7, 2, 9], "logprobs": [-1.0, -1.0, -1.0]});
    let body = json!({"run": "r", "engine": "vllm", "sequences": [sequence]});
    assert_eq!(post(&server, &body, Some(PARENT)).await.status(), 500);
    let failed = lines(&server, "a forward failed", |_| true).await;
    assert!(failed.iter().all(|line| line["request_id"] == "req-7" && line["trace_id"] == TRACE), "{failed:?}");
}

#[cfg(not(feature = "otel"))]
#[test]
fn export_without_the_feature_is_refused() {
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--otlp-endpoint", "http://127.0.0.1:4318"];
    let output = plumbline().args(arguments).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && stderr.contains("--features otel"), "{stderr}");
}

#[test]
fn an_endpoint_that_is_no_address_is_refused() {
    let output = plumbline().args(["config", "check", "--otlp-endpoint", "collector:4318"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && stderr.contains("otlp_endpoint"), "{stderr}");
}
