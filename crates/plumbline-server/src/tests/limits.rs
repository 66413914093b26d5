//! What clients can do wrong with connections and bodies, over TCP.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::json;

use super::fake::FakeModel;
use super::running::{Running, body, exchange, get, ready, start};
use super::{Service, post, request, sequence};
use crate::config::Config;

async fn running(config: Config) -> Running {
    let running = start(config, || Ok(Box::new(FakeModel::default()))).await;
    ready(running.address).await;
    running
}

fn connect(address: SocketAddr, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    stream
}

/// Everything until the server closes; a reset is an end too.
fn rest(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// The value of a series once it is at least this.
async fn reaches(address: SocketAddr, series: &'static str, value: f64) {
    super::until(series, async || {
        let text = get(address, "/metrics").await;
        super::metric(text.split_once("\r\n\r\n").unwrap().1, series).unwrap() >= value
    })
    .await;
}

const HALF_A_HEAD: &str = "GET /livez HTTP/1.1\r\nHost: x\r\n";
const HALF_A_BODY: &str =
    "POST /v1/verifications HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{";

#[tokio::test(flavor = "multi_thread")]
async fn heads_and_bodies_that_do_not_come_are_given_up() {
    let config = Config { header_timeout_seconds: 1, body_timeout_seconds: 1, ..Config::default() };
    let running = running(config).await;
    let address = running.address;
    let (nothing, head, body) = blocking(move || {
        let streams = [connect(address, ""), connect(address, HALF_A_HEAD), connect(address, HALF_A_BODY)];
        let [nothing, head, body] = streams.map(rest);
        (nothing, head, body)
    })
    .await;
    assert_eq!(nothing, "");
    assert!(head.is_empty() || head.starts_with("HTTP/1.1 408"), "{head}");
    assert!(body.starts_with("HTTP/1.1 408") && body.contains("body_timeout"), "{body}");
    reaches(address, r#"plumbline_connections_closed_total{reason="header_timeout"}"#, 2.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_limit_of_connections_the_idlest_make_room() {
    let running = running(Config { max_connections: 4, ..Config::default() }).await;
    let address = running.address;
    let held = blocking(move || {
        (0..40).map(|index| connect(address, [HALF_A_HEAD, HALF_A_BODY, ""][index % 3])).collect::<Vec<_>>()
    })
    .await;
    assert!(super::running::post(address, body()).await.unwrap().starts_with("HTTP/1.1 200"));
    reaches(address, r#"plumbline_connections_closed_total{reason="evicted"}"#, 36.0).await;
    reaches(address, "plumbline_connections", 1.0).await;
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_head_does_not_keep_a_server_from_ending() {
    let running = running(Config::default()).await;
    let address = running.address;
    let held =
        blocking(move || [connect(address, HALF_A_HEAD), connect(address, ""), connect(address, HALF_A_BODY)]).await;
    reaches(address, "plumbline_connections", 4.0).await;
    running.stop.send(()).unwrap();
    running.result.await.unwrap().unwrap();
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_are_limited() {
    let running = running(Config { max_headers: 10, max_header_bytes: 8192, ..Config::default() }).await;
    let address = running.address;
    let many: String = (0..20).map(|index| format!("X-{index}: 1\r\n")).collect();
    let long = format!("X-Long: {}\r\n", "x".repeat(10_000));
    for headers in [many, long] {
        let head = format!("GET /livez HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        let answer = blocking(move || rest(connect(address, &head))).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
    let uri = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(10_000));
    let answer = blocking(move || rest(connect(address, &uri))).await;
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_of_its_answer_is_let_go() {
    let running = running(Config { write_stall_seconds: 1, ..Config::default() }).await;
    let address = running.address;
    // More answers than the system's buffers hold, asked for at once and never read.
    let asks = "GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n".repeat(40);
    let stream = blocking(move || connect(address, &asks)).await;
    reaches(address, r#"plumbline_connections_closed_total{reason="write_stalled"}"#, 1.0).await;
    drop(stream);
    reaches(address, "plumbline_connections", 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_client_gets_its_answer_before_the_end() {
    let running = running(Config { max_body_bytes: 1024, ..Config::default() }).await;
    let address = running.address;
    let head = "POST /v1/verifications HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 5000000\r\n\r\n";
    let answer = blocking(move || exchange(address, head, &vec![b' '; 5_000_000])).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn encoded_bodies_are_decoded() {
    let service = Service::default().await;
    let plain = request(&json!([sequence("a")])).to_string();
    let expected = service.post_text(plain.clone()).await.json();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(plain.as_bytes()).unwrap();
    for (encoding, bytes) in
        [("gzip", gzip.finish().unwrap()), ("zstd", zstd::encode_all(plain.as_bytes(), 3).unwrap())]
    {
        let encoded = |bytes: Vec<u8>| {
            let mut request = post(bytes);
            request.headers_mut().insert("content-encoding", encoding.parse().unwrap());
            service.call(request)
        };
        let answer = encoded(bytes.clone()).await.json();
        assert_eq!(answer["metrics"], expected["metrics"], "{encoding}");
        let cut = encoded(bytes[..bytes.len() - 3].to_vec()).await;
        assert_eq!(cut.problem(), (400, "malformed_encoding".into()));
    }
}

#[tokio::test]
async fn many_sequences_and_deep_values_are_refused_before_they_take_memory() {
    let service = Service::default().await;
    let one = r#"{"prompt_token_ids":[1],"completion_token_ids":[7],"logprobs":[-1]},"#;
    let list = one.repeat(300_000);
    let body = format!(r#"{{"run":"r","engine":"vllm","sequences":[{}]}}"#, list.trim_end_matches(','));
    let reply = service.post_text(body).await;
    assert_eq!(reply.first_error(), ("too_many_sequences".into(), "/sequences".into()));
    assert!(reply.body.contains("300000"), "{}", reply.body);
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for field in ["worker", "sampling", "nothing"] {
        let body = format!(r#"{{"run":"r","engine":"vllm","{field}":{deep},"sequences":[]}}"#);
        let reply = service.post_text(body).await;
        assert_eq!(reply.status, 422, "{}", reply.body);
    }
    let body = format!(r#"{{"run":"r","engine":"vllm","exchanges":[{{"request":{deep},"response":{{}}}}]}}"#);
    let reply = service.post_text(body).await;
    assert_eq!(reply.first_error().0, "too_deep", "{}", reply.body);
    assert!(reply.first_error().1.starts_with("/exchanges/0/request"), "{}", reply.body);
}

#[tokio::test]
async fn names_without_end_are_bounded_in_the_metrics() {
    let service = Service::new(Config { max_label_sets: 5, ..Config::default() }, FakeModel::default()).await;
    let series = async || service.get("/metrics").await.body.lines().count();
    let mut counts = Vec::new();
    for number in 0..60 {
        let mut body = request(&json!([sequence("a")]));
        body["run"] = format!("run-{number}").into();
        body["engine"] = format!("engine-{number}").into();
        body["logprobs_mode"] = "raw".into();
        body["worker"] = format!("worker-{number}").into();
        assert_eq!(service.post(&body).await.status, 200);
        counts.push(series().await);
    }
    assert_eq!(counts[10], counts[59], "series grow with names");
}
