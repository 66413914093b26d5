//! Spans at a collector: OTLP in protobuf over HTTP. In builds with the feature `otel`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use serde_json::json;
use tokio::net::TcpListener;

use crate::support::{PATIENCE, Server, recording};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A span, as far as it is looked at.
#[derive(Clone, Debug, Default)]
struct Span {
    trace: String,
    id: String,
    parent: String,
    state: String,
    name: String,
    start: u64,
    end: u64,
    attributes: BTreeMap<String, String>,
    service: String,
}

/// A field of a message in protobuf: its number and what it holds.
enum Field<'a> {
    Bytes(&'a [u8]),
    Number(u64),
}

/// The fields of a message.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
    fn number(bytes: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return value;
            }
        }
    }
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = number(&mut bytes);
        let field = match tag & 7 {
            0 => Field::Number(number(&mut bytes)),
            1 | 5 => {
                let (own, rest) = bytes.split_at(if tag & 7 == 1 { 8 } else { 4 });
                bytes = rest;
                Field::Number(own.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
            }
            2 => {
                let length = number(&mut bytes) as usize;
                let (own, rest) = bytes.split_at(length);
                bytes = rest;
                Field::Bytes(own)
            }
            other => panic!("wire type {other}"),
        };
        fields.push((tag >> 3, field));
    }
    fields
}

fn messages(bytes: &[u8], wanted: u64) -> impl Iterator<Item = &[u8]> {
    fields(bytes).into_iter().filter_map(move |(number, field)| match field {
        Field::Bytes(bytes) if number == wanted => Some(bytes),
        _ => None,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn attribute(bytes: &[u8]) -> (String, String) {
    let key = messages(bytes, 1).next().map(text).unwrap();
    let value = messages(bytes, 2).next().unwrap();
    let value = fields(value).into_iter().next().map(|(_, field)| match field {
        Field::Bytes(bytes) => text(bytes),
        Field::Number(number) => number.to_string(),
    });
    (key, value.unwrap_or_default())
}

/// The spans of an `ExportTraceServiceRequest`.
fn spans(request: &[u8]) -> Vec<Span> {
    let mut found = Vec::new();
    for resource_spans in messages(request, 1) {
        let resource = messages(resource_spans, 1).flat_map(|resource| messages(resource, 1)).map(attribute);
        let resource: BTreeMap<_, _> = resource.collect();
        for own in messages(resource_spans, 2).flat_map(|scope| messages(scope, 2)) {
            let mut span = Span { service: resource["service.name"].clone(), ..Span::default() };
            for (number, field) in fields(own) {
                match (number, field) {
                    (1, Field::Bytes(bytes)) => span.trace = hex(bytes),
                    (2, Field::Bytes(bytes)) => span.id = hex(bytes),
                    (3, Field::Bytes(bytes)) => span.state = text(bytes),
                    (4, Field::Bytes(bytes)) => span.parent = hex(bytes),
                    (5, Field::Bytes(bytes)) => span.name = text(bytes),
                    (7, Field::Number(time)) => span.start = time,
                    (8, Field::Number(time)) => span.end = time,
                    (9, Field::Bytes(bytes)) => span.attributes.extend([attribute(bytes)]),
                    _ => {}
                }
            }
            found.push(span);
        }
    }
    found
}

/// A collector and what it was sent: paths, headers, bodies.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Received>>>);

/// Path, headers and body of a request.
type Received = (String, HeaderMap, Vec<u8>);

impl Collector {
    async fn start() -> (Self, String) {
        let collector = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().fallback(take).with_state(collector.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        (collector, url)
    }

    fn spans(&self) -> Vec<Span> {
        self.0.lock().unwrap().iter().flat_map(|(_, _, body)| spans(body)).collect()
    }
}

async fn take(State(collector): State<Collector>, uri: Uri, headers: HeaderMap, body: Bytes) -> Bytes {
    collector.0.lock().unwrap().push((uri.path().to_owned(), headers, body.to_vec()));
    Bytes::new()
}

async fn post(server: &Server, id: &str, headers: &[(&str, &str)]) -> reqwest::Response {
    let mut sequence = recording("tiny-bf16-raw")[0].clone();
    sequence["id"] = id.into();
    let body = json!({"run": "grpo", "engine": "vllm", "sequences": [sequence]});
    let mut request = server.client.post(server.at("/v1/verifications")).json(&body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_stage_of_a_request_is_a_span_under_its_caller() {
    let (collector, url) = Collector::start().await;
    let folder = std::env::temp_dir().join(format!("plumbline-otlp-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=collector-key"),
        ("OTEL_SERVICE_NAME", "ruler"),
    ];
    let server = Server::start_with(&["--data-dir", folder.to_str().unwrap()], &variables).await;
    let parent = format!("00-{TRACE}-{PARENT}-01");
    let response = post(&server, "sync", &[("traceparent", &parent), ("tracestate", "a=1,b=2")]).await;
    assert_eq!(response.status(), 200);
    let own: Vec<_> = response.headers()["traceresponse"].to_str().unwrap().split('-').map(str::to_owned).collect();
    let unsampled = parent.replace("-01", "-00").replace(TRACE, &"c".repeat(32));
    assert_eq!(post(&server, "unsampled", &[("traceparent", &unsampled)]).await.status(), 200);
    let accepted = post(&server, "async", &[("prefer", "respond-async")]).await;
    assert_eq!(accepted.status(), 202);
    let location = accepted.headers()["location"].to_str().unwrap().to_owned();
    let done = async {
        loop {
            let state: serde_json::Value =
                server.client.get(server.at(&location)).send().await.unwrap().json().await.unwrap();
            if state["state"] == "done" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, done).await.unwrap();
    // What is not exported yet is exported at the end.
    server.signal("TERM");
    assert_eq!(server.exit_status().await.code(), Some(0));
    let _ = std::fs::remove_dir_all(&folder);

    for (path, headers, _) in collector.0.lock().unwrap().iter() {
        assert_eq!((path.as_str(), headers["x-key"].to_str().unwrap()), ("/v1/traces", "collector-key"));
        assert_eq!(headers["content-type"], "application/x-protobuf");
    }
    let all = collector.spans();
    assert!(all.iter().all(|span| span.service == "ruler"));
    assert!(!all.iter().any(|span| span.trace == "c".repeat(32)), "the caller does not keep that trace");
    assert!(!all.iter().any(|span| span.name.contains("readyz")), "probes are no traces");

    let request: Vec<_> = all.iter().filter(|span| span.trace == TRACE).collect();
    let root = request.iter().find(|span| span.parent == PARENT).expect("a span under the caller's");
    assert_eq!((&root.id, root.name.as_str(), root.state.as_str()), (&own[2], "POST /v1/verifications", "a=1,b=2"));
    for (key, value) in
        [("http.route", "/v1/verifications"), ("http.response.status_code", "200"), ("plumbline.run", "grpo")]
    {
        assert_eq!(root.attributes[key], value, "{root:?}");
    }
    let stages: Vec<_> = request.iter().filter(|span| span.parent == root.id).collect();
    let mut in_order = stages.clone();
    in_order.sort_by_key(|span| (span.start, span.end));
    let names: Vec<_> = in_order.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(
        names,
        ["receive", "parse", "admit", "queue", "forward", "head", "compare", "diagnose", "answer", "store", "reply"]
    );
    assert_eq!(stages.len() + 1, request.len(), "nothing else is of this trace");
    // The root's clock is the monotone one, those of its stages are too: they agree to a millisecond.
    let close = 1_000_000;
    assert!(stages.iter().all(|span| span.start + close >= root.start && span.end <= root.end + close));
    let forward = stages.iter().find(|span| span.name == "forward").unwrap();
    assert!(forward.end > forward.start && forward.attributes["plumbline.batch.sequences"] == "1");

    let job = all.iter().find(|span| span.name == "verification").expect("work that nobody waits for is a trace too");
    assert!(job.attributes["plumbline.verification_id"].starts_with("ver_") && job.parent.is_empty());
    assert!(all.iter().any(|span| span.parent == job.id && span.name == "forward"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_costs_nothing_but_its_spans() {
    let server = Server::start(&["--otlp-endpoint", "http://127.0.0.1:1"]).await;
    assert_eq!(post(&server, "x", &[]).await.status(), 200);
    let said = async {
        while !server.log().contains("spans are not exported") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, said).await.expect("it is said in the log");
    server.signal("TERM");
    assert_eq!(server.exit_status().await.code(), Some(0));
}
