//! Faults, deadlines and priorities as a client meets them. The faults are injected, which only debug builds can do.

use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::support::{Server, recording, series};

/// Scored tokens that no recording has in a row.
const BAD: [u32; 3] = [11, 12, 11];
const PANIC_ON: (&str, &str) = ("PLUMBLINE_FAULT_PANIC_ON_TOKENS", "11,12,11");

/// A sequence on which the model panics.
fn bad() -> Value {
    json!({"id": "bad one", "prompt_token_ids": [1, 5, 9], "completion_token_ids": BAD, "logprobs": [-1.0, -1.0, -1.0]})
}

fn request(server: &Server, run: &str, sequences: &[Value]) -> RequestBuilder {
    let body = json!({"run": run, "engine": "vllm", "sequences": sequences, "include": ["tokens"]});
    server.client.post(server.at("/v1/verifications")).json(&body)
}

struct Reply {
    status: StatusCode,
    retry_after: Option<u64>,
    body: Value,
}

async fn send(request: RequestBuilder) -> Reply {
    let response = request.send().await.unwrap();
    let retry_after = response.headers().get("retry-after").map(|value| value.to_str().unwrap().parse().unwrap());
    Reply { status: response.status(), retry_after, body: response.json().await.unwrap() }
}

/// Posts each sequence in a request of its own, all at once while a batch runs, so that they are batched together.
async fn together(server: &Server, sequences: &[Value]) -> Vec<Reply> {
    let plug = recording("tiny-bf16-raw").swap_remove(0);
    let plug = tokio::spawn(send(request(server, "plug", &[plug])));
    let tasks: Vec<_> =
        sequences.iter().map(|one| tokio::spawn(send(request(server, "r", std::slice::from_ref(one))))).collect();
    assert_eq!(plug.await.unwrap().status, 200);
    let mut replies = Vec::new();
    for task in tasks {
        replies.push(task.await.unwrap());
    }
    replies
}

async fn ready(server: &Server) -> bool {
    server.client.get(server.at("/readyz")).send().await.unwrap().status() == 200
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panicking_sequence_costs_only_itself() {
    let slow = ("PLUMBLINE_FAULT_MICROSECONDS_PER_TOKEN", "500");
    let server = Server::start_with(&[], &[PANIC_ON, slow]).await;
    let good: Vec<Value> = recording("tiny-bf16-raw").into_iter().skip(1).take(6).collect();
    let mut alone = Vec::new();
    for sequence in &good {
        alone.push(server.verify("alone", std::slice::from_ref(sequence)).await["sequences"].clone());
    }
    let mut mixed = good.clone();
    mixed.insert(3, bad());
    let mut replies = together(&server, &mixed).await;
    let failed = replies.remove(3);
    assert_eq!((failed.status.as_u16(), &failed.body["code"]), (500, &json!("scoring_failed")));
    assert!(failed.body["errors"][0]["detail"].as_str().unwrap().contains("bad one"), "{}", failed.body);
    assert!(!failed.body.to_string().contains("panicked"), "causes stay inside: {}", failed.body);
    for (reply, alone) in replies.iter().zip(&alone) {
        assert_eq!(reply.status, 200, "{}", reply.body);
        assert_eq!(reply.body["sequences"], *alone, "a neighbour's numbers");
    }
    assert!(ready(&server).await);

    let again = send(request(&server, "r", &[good[0].clone(), bad()])).await;
    assert_eq!((again.status.as_u16(), &again.body["errors"][0]["pointer"]), (500, &json!("/sequences/1")));
    assert!(again.retry_after.is_some_and(|seconds| (1..=600).contains(&seconds)), "{:?}", again.retry_after);
    let metrics = server.metrics().await;
    assert_eq!(series(&metrics, "plumbline_model_panics_total", &[]), 1.0, "it was not tried again");
    let labels = ["class=\"standard\"", "reason=\"quarantined\""];
    assert_eq!(series(&metrics, "plumbline_admission_refused_total", &labels), 1.0);
    assert_eq!(series(&metrics, "plumbline_model_restarts_total", &[]), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_fails_everything_is_loaded_again() {
    let broken = ("PLUMBLINE_FAULT_BROKEN_AFTER_PANIC", "1");
    let server = Server::start_with(&[], &[PANIC_ON, broken]).await;
    let good = recording("tiny-bf16-raw").swap_remove(0);
    let before = server.verify("before", std::slice::from_ref(&good)).await["sequences"].clone();
    let failed = send(request(&server, "r", &[bad()])).await;
    assert_eq!((failed.status.as_u16(), &failed.body["code"]), (500, &json!("scoring_failed")));
    loop {
        let after = send(request(&server, "after", std::slice::from_ref(&good))).await;
        if after.status == 200 {
            assert_eq!(after.body["sequences"], before);
            break;
        }
        assert_eq!((after.status.as_u16(), &after.body["code"]), (503, &json!("restarting")));
        assert!(after.retry_after.is_some());
    }
    assert!(ready(&server).await);
    let metrics = server.metrics().await;
    // Once to try the sequence on fresh weights, once more because it broke those too.
    let restarts = series(&metrics, "plumbline_model_restarts_total", &[]);
    assert!(restarts >= 1.0, "{restarts}");
    assert_eq!(series(&metrics, "plumbline_model_restart_seconds_count", &[]), restarts);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_is_kept_and_what_had_not_started_is_dropped() {
    let server = Server::start_with(&[], &[("PLUMBLINE_FAULT_MICROSECONDS_PER_TOKEN", "5000")]).await;
    let line = recording("tiny-bf16-raw").swap_remove(0);
    let plug = tokio::spawn(send(request(&server, "plug", std::slice::from_ref(&line))));
    while series(&server.metrics().await, "plumbline_queue_wait_seconds_count", &[]) < 1.0 {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    let late = send(request(&server, "late", std::slice::from_ref(&line)).header("Plumbline-Timeout", "0.02")).await;
    assert_eq!((late.status.as_u16(), &late.body["code"]), (504, &json!("deadline_exceeded")));
    assert_eq!(plug.await.unwrap().status, 200);
    let in_time = send(request(&server, "r", std::slice::from_ref(&line)).header("Plumbline-Timeout", "3600")).await;
    assert_eq!(in_time.status, 200);
    let metrics = server.metrics().await;
    assert_eq!(series(&metrics, "plumbline_sequences_dropped_total", &["reason=\"deadline\""]), 1.0);
    assert_eq!(series(&metrics, "plumbline_queue_wait_seconds_count", &[]), 2.0, "it was never scored");
    for (header, value) in [("Plumbline-Timeout", "soon"), ("Plumbline-Priority", "urgent")] {
        let refused = send(request(&server, "r", std::slice::from_ref(&line)).header(header, value)).await;
        assert_eq!((refused.status.as_u16(), &refused.body["code"]), (400, &json!("invalid_header")));
        assert!(refused.body["detail"].as_str().unwrap().contains(value), "{}", refused.body);
    }
}

/// Bulk work fills the queue; interactive requests come in all the same, or are told when to come and then get in.
#[tokio::test(flavor = "multi_thread")]
async fn interactive_requests_get_in_under_bulk_load() {
    let server = Server::start_with(&[], &[("PLUMBLINE_FAULT_MICROSECONDS_PER_TOKEN", "50")]).await;
    let lines = recording("tiny-bf16-raw");
    let bulk: Vec<_> = (0..32)
        .map(|index| {
            // With names of its own: the same content again would be answered without being scored.
            let named = |line: &Value| {
                let mut line = line.clone();
                line["id"] = json!(format!("{index}-{}", line["id"].as_str().unwrap_or_default()));
                line
            };
            let sequences: Vec<Value> = lines.iter().take(16).map(named).collect();
            let request = request(&server, &format!("bulk-{}", index % 2), &sequences);
            tokio::spawn(send(request.header("Plumbline-Priority", "bulk")))
        })
        .collect();
    let mut refused = 0;
    for line in lines.iter().take(8) {
        loop {
            let one = request(&server, "interactive", std::slice::from_ref(line));
            let reply = send(one.header("Plumbline-Priority", "interactive")).await;
            if reply.status == 200 {
                break;
            }
            assert_eq!((reply.status.as_u16(), &reply.body["code"]), (429, &json!("queue_full")), "{}", reply.body);
            refused += 1;
            tokio::time::sleep(std::time::Duration::from_secs(reply.retry_after.unwrap())).await;
        }
    }
    for task in bulk {
        assert_eq!(task.await.unwrap().status, 200);
    }
    let metrics = server.metrics().await;
    let labels = ["class=\"interactive\"", "reason=\"too_slow\""];
    assert_eq!(series(&metrics, "plumbline_admission_refused_total", &labels), f64::from(refused));
    assert_eq!(series(&metrics, "plumbline_class_wait_seconds_count", &["class=\"interactive\""]), 8.0);
    assert_eq!(series(&metrics, "plumbline_class_wait_seconds_count", &["class=\"bulk\""]), 512.0);
}
