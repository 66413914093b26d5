//! HTTP behaviour that does not depend on the body: statuses, headers, documents, keys, metrics.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::Request;
use serde_json::json;

use super::fake::FakeModel;
use super::{Service, post, request, sequence};
use crate::config::Config;

#[tokio::test]
async fn a_problem_is_byte_for_byte_as_documented() {
    let service = Service::default().await;
    let mut bad = post("{");
    bad.headers_mut().insert("x-request-id", "job-7".parse().unwrap());
    let reply = service.call(bad).await;
    let expected = concat!(
        r#"{"type":"urn:plumbline:problem:malformed_json","title":"The body is not valid JSON","status":400,"#,
        r#""detail":"EOF while parsing an object at line 1, column 1","instance":"/v1/verifications","#,
        r#""code":"malformed_json","request_id":"job-7","errors":[]}"#
    );
    assert_eq!((reply.status.as_u16(), reply.body.as_str()), (400, expected));
    assert_eq!(reply.headers["x-request-id"], "job-7");
    assert_eq!(reply.headers["content-type"], "application/problem+json");
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_too() {
    let service = Service::default().await;
    assert_eq!(service.get("/nothing").await.problem(), (404, "not_found".into()));
    assert_eq!(service.get("/docs/nothing.js").await.problem(), (404, "not_found".into()));
    for path in [
        "/v1/runs/%ff",
        "/v1/runs/%ff/sequences",
        "/v1/runs/%ff/report.json",
        "/v1/sequences/%ff",
        "/v1/verifications/%ff",
        "/docs/%ff",
    ] {
        assert_eq!(service.get(path).await.problem(), (404, "not_found".into()), "{path}");
    }
    let reply = service.get("/v1/verifications").await;
    assert_eq!(reply.problem(), (405, "method_not_allowed".into()));
    assert_eq!(reply.headers["allow"], "POST");
    let reply = service.call(Request::delete("/metrics").body(Body::empty()).unwrap()).await;
    assert_eq!(reply.problem(), (405, "method_not_allowed".into()));
}

#[tokio::test]
async fn only_plain_json_is_taken() {
    let service = Service::default().await;
    let body = request(&json!([sequence("a")])).to_string();
    let with = |name: &'static str, value: &'static str| {
        let mut request = post(body.clone());
        request.headers_mut().insert(name, value.parse().unwrap());
        service.call(request)
    };
    assert_eq!(with("content-type", "text/plain").await.problem(), (415, "unsupported_media_type".into()));
    let brotli = with("content-encoding", "br").await;
    assert_eq!(brotli.problem(), (415, "unsupported_content_encoding".into()));
    assert_eq!(brotli.headers["accept-encoding"], "gzip, zstd");
    assert_eq!(with("content-encoding", "gzip").await.problem(), (400, "malformed_encoding".into()));
    assert_eq!(with("content-encoding", "identity").await.status, 200);
    assert_eq!(with("content-type", "application/json; charset=utf-8").await.status, 200);
    let untyped = Request::post("/v1/verifications").body(Body::from(body.clone())).unwrap();
    assert_eq!(service.call(untyped).await.problem(), (415, "unsupported_media_type".into()));
}

#[tokio::test]
async fn large_bodies_are_refused_known_or_not() {
    let config = Config { max_body_bytes: 1024, ..Config::default() };
    let service = Service::new(config, FakeModel::default()).await;
    assert_eq!(service.post_text("x".repeat(1025)).await.problem(), (413, "body_too_large".into()));
    let mut claimed = post("x");
    claimed.headers_mut().insert("content-length", "100000000".parse().unwrap());
    assert_eq!(service.call(claimed).await.problem(), (413, "body_too_large".into()));
    assert_eq!(service.post(&request(&json!([sequence("a")]))).await.status, 200);
}

#[tokio::test]
async fn a_request_that_could_never_be_queued_is_413() {
    let config = Config { max_queue_tokens: 8, max_batch_tokens: 8, ..Config::default() };
    let service = Service::new(config, FakeModel::default()).await;
    let reply = service.post(&request(&json!([sequence("a"), sequence("b"), sequence("c")]))).await;
    assert_eq!(reply.problem(), (413, "request_too_large".into()));
}

#[tokio::test]
async fn a_full_queue_is_429_with_retry_after() {
    let config = Config { max_queue_tokens: 3, max_batch_tokens: 3, ..Config::default() };
    let (model, gate) = FakeModel::gated();
    let service = Service::new(config, model).await;
    let [first, second, third] = ["a", "b", "c"].map(|id| request(&json!([sequence(id)])));
    let mut scored = Box::pin(service.post(&first));
    while started(&service).await < 1.0 {
        assert!(is_pending(&mut scored).await);
    }
    let mut waits = Box::pin(service.post(&second));
    while service.metric("plumbline_queue_tokens").await != Some(3.0) {
        assert!(is_pending(&mut waits).await);
    }
    let third = service.post(&third).await;
    drop(gate);
    assert_eq!((scored.await.status.as_u16(), waits.await.status.as_u16()), (200, 200));
    assert_eq!(third.problem(), (429, "queue_full".into()));
    assert!(third.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
}

#[tokio::test]
async fn keys_are_needed_everywhere_but_at_the_probes() {
    let path = std::env::temp_dir().join(format!("plumbline-keys-{}-routes", std::process::id()));
    std::fs::write(&path, "k-1\nk-2\n").unwrap();
    let config = Config { api_key_file: Some(path.clone()), ..Config::default() };
    let service = Service::new(config, FakeModel::default()).await;
    std::fs::remove_file(path).unwrap();
    for probe in ["/livez", "/readyz", "/health", "/", "/assets/page.css"] {
        assert_eq!(service.get(probe).await.status, 200, "{probe}");
    }
    for path in ["/metrics", "/v1/reference", "/openapi.json", "/docs", "/docs/index.html", "/nothing", "/livez/x"] {
        let reply = service.get(path).await;
        assert_eq!(reply.problem(), (401, "unauthorized".into()), "{path}");
        assert_eq!(reply.headers["www-authenticate"], "Bearer realm=\"plumbline\"");
    }
    assert_eq!(service.post(&request(&json!([sequence("a")]))).await.problem().0, 401);
    let with_key = |key: &str| {
        let request = Request::get("/v1/reference").header("authorization", format!("Bearer {key}"));
        service.call(request.body(Body::empty()).unwrap())
    };
    assert_eq!(with_key("k-2").await.status, 200);
    assert_eq!(with_key("k-3").await.status, 401);
}

#[tokio::test]
async fn the_reference_is_described() {
    let reply = Service::default().await.get("/v1/reference").await;
    let expected = json!({
        "model": "fake", "family": "fake", "policy_version": "2", "dtype": "f32", "head_dtype": "f32", "device": "cpu",
        "policy_versions": ["2"], "weight_bytes": 28, "parameters": 7, "eos_token_ids": [2],
        "limits": {
            "vocab_size": 100, "max_positions": 4096, "max_sequence_tokens": 4096, "max_sequences_per_request": 1024,
            "max_body_bytes": 33_554_432, "max_batch_tokens": 8192, "max_queue_tokens": 1_048_576
        },
        "tokens_per_second": null, "noise_floor": null, "noise_floor_state": "measuring"
    });
    assert_eq!(reply.json(), expected);
}

#[tokio::test]
async fn every_route_is_documented_and_answers() {
    let service = Service::default().await;
    let document = service.get("/openapi.json").await.json();
    assert_eq!(document["openapi"], "3.1.0");
    let paths: BTreeSet<_> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    let routes = [
        "/",
        "/docs",
        "/get_weight_version",
        "/health",
        "/livez",
        "/metrics",
        "/openapi.json",
        "/readyz",
        "/update_weights_from_disk",
        "/v1/alerts",
        "/v1/events",
        "/v1/reference",
        "/v1/runs",
        "/v1/runs/{run}",
        "/v1/runs/{run}/report.html",
        "/v1/runs/{run}/report.json",
        "/v1/runs/{run}/report.png",
        "/v1/runs/{run}/report.xlsx",
        "/v1/runs/{run}/sequences",
        "/v1/runs/{run}/tokens.parquet",
        "/v1/runs/{run}/views",
        "/v1/sequences/{id}",
        "/v1/verifications",
        "/v1/verifications/{id}",
    ];
    assert_eq!(paths, BTreeSet::from(routes));
    // The stream of events has no end.
    let others = ["/v1/verifications", "/update_weights_from_disk", "/v1/events"];
    for path in routes.into_iter().filter(|path| !others.contains(path) && !path.contains('{')) {
        let expected = if path == "/docs" { 303 } else { 200 };
        assert_eq!(service.get(path).await.status, expected, "{path}");
    }
    assert!(service.get("/docs/").await.body.contains("swagger"));
    assert!(service.get("/docs/swagger-initializer.js").await.body.contains("/openapi.json"));
    // Every reference within the document resolves.
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
}

#[tokio::test]
async fn every_series_exists_before_the_first_request() {
    let text = Service::default().await.get("/metrics").await.body;
    let group = r#"engine="other",model_name="fake",run="other""#;
    let value = |series: &str| super::metric(&text, series).unwrap_or_else(|| panic!("no {series} in\n{text}"));
    assert_eq!(value(&format!("plumbline_tokens_scored_total{{{group}}}")), 0.0);
    assert_eq!(value(&format!("plumbline_window_tokens{{{group}}}")), 0.0);
    assert!(value(&format!("plumbline_logprob_mae_nats{{{group}}}")).is_nan(), "0 would read as perfect");
    assert!(value(r#"plumbline_kl_nats{engine="other",estimator="k3",model_name="fake",run="other"}"#).is_nan());
    assert_eq!(
        value(r#"plumbline_sequences_total{engine="other",model_name="fake",run="other",verdict="divergent"}"#),
        0.0
    );
    assert_eq!(value(r#"plumbline_request_seconds_count{route="/v1/verifications",status="200"}"#), 0.0);
    assert_eq!(
        value(
            r#"plumbline_reference_info{device="cpu",dtype="f32",head_dtype="f32",model_name="fake",weight_version="2"}"#
        ),
        1.0
    );
    assert_eq!(value("plumbline_requests_in_flight"), 0.0);
    assert_eq!(value("plumbline_queue_tokens"), 0.0);
    assert!(text.contains("plumbline_build_info{") && text.contains("process_resident_memory_bytes"));
    for name in ["batch_tokens", "batch_sequences", "queue_wait_seconds", "forward_seconds", "head_seconds"] {
        assert_eq!(value(&format!("plumbline_{name}_count")), 0.0);
    }
}

#[tokio::test]
async fn requests_are_timed_by_route_and_status() {
    let service = Service::default().await;
    service.post(&request(&json!([sequence("a")]))).await;
    service.post_text("{").await;
    service.get("/some/path/of/the/client").await;
    let text = service.get("/metrics").await.body;
    let count = |labels: &str| super::metric(&text, &format!("plumbline_request_seconds_count{{{labels}}}"));
    assert_eq!(count(r#"route="/v1/verifications",status="200""#), Some(1.0));
    assert_eq!(count(r#"route="/v1/verifications",status="400""#), Some(1.0));
    assert_eq!(count(r#"route="<unmatched>",status="404""#), Some(1.0));
    assert_eq!(super::metric(&text, "plumbline_batch_sequences_count"), Some(1.0));
    assert_eq!(super::metric(&text, "plumbline_batch_tokens_sum"), Some(3.0));
}

#[tokio::test]
async fn a_client_that_leaves_is_counted_and_its_work_dropped() {
    let (model, gate) = FakeModel::gated();
    let service = Service::new(Config::default(), model).await;
    let [first, second] = ["a", "b"].map(|id| request(&json!([sequence(id)])));
    let mut scored = Box::pin(service.post(&first));
    while started(&service).await < 1.0 {
        assert!(is_pending(&mut scored).await);
    }
    let mut waits = Box::pin(service.post(&second));
    while service.metric("plumbline_queue_tokens").await != Some(3.0) {
        assert!(is_pending(&mut waits).await);
    }
    assert_eq!(service.metric("plumbline_requests_in_flight").await, Some(2.0));
    drop((scored, waits));
    assert_eq!(service.metric("plumbline_requests_in_flight").await, Some(0.0));
    assert_eq!(service.metric("plumbline_requests_cancelled_total").await, Some(2.0));
    assert_eq!(service.metric("plumbline_sequences_cancelled_total").await, Some(1.0), "the other had started");
    assert_eq!(service.metric("plumbline_queue_tokens").await, Some(0.0));
    drop(gate);
}

/// Sequences whose batch has started.
async fn started(service: &Service) -> f64 {
    service.metric("plumbline_queue_wait_seconds_count").await.unwrap()
}

/// Polls once; whether it is still pending.
async fn is_pending<T>(future: &mut std::pin::Pin<Box<impl Future<Output = T>>>) -> bool {
    std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx).is_pending())).await
}
