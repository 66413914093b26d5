//! The whole service over TCP: loading, failing, draining, refusing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::channel;
use std::time::Duration;

use plumbline_core::ReferenceModel;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::fake::FakeModel;
use super::{request, sequence};
use crate::config::Config;
use crate::{ReferenceSource, ServerError, serve};

/// One request on its own connection, as a blocking client makes it; the whole answer as text.
pub(super) fn exchange(address: SocketAddr, head: &str, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

pub(super) async fn get(address: SocketAddr, path: &'static str) -> String {
    let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    tokio::task::spawn_blocking(move || exchange(address, &head, b"")).await.unwrap()
}

pub(super) fn post(address: SocketAddr, body: String) -> JoinHandle<String> {
    let head = format!(
        "POST /v1/verifications HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    tokio::task::spawn_blocking(move || exchange(address, &head, body.as_bytes()))
}

pub(super) struct Running {
    pub(super) address: SocketAddr,
    pub(super) stop: oneshot::Sender<()>,
    pub(super) result: JoinHandle<Result<(), ServerError>>,
}

pub(super) async fn start(
    config: Config,
    load: impl FnOnce() -> Result<Box<dyn ReferenceModel>, String> + Send + 'static,
) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let result = tokio::spawn(serve(config, listener, ReferenceSource::new(load), async {
        let _ = stopped.await;
    }));
    Running { address, stop, result }
}

pub(super) async fn ready(address: SocketAddr) {
    while !get(address, "/readyz").await.starts_with("HTTP/1.1 200") {
        tokio::task::yield_now().await;
    }
}

/// Waits until so many sequences are in the queue or in a batch that has started.
async fn admitted_sequences(address: SocketAddr, count: f64) {
    loop {
        let text = get(address, "/metrics").await;
        let value = |series| super::metric(text.split_once("\r\n\r\n").unwrap().1, series).unwrap();
        if value("plumbline_queue_sequences") + value("plumbline_queue_wait_seconds_count") == count {
            return;
        }
    }
}

pub(super) fn body() -> String {
    of("a")
}

fn of(id: &str) -> String {
    request(&json!([sequence(id)])).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_answers_while_it_loads_and_is_ready_afterwards() {
    let (loaded, wait) = channel::<()>();
    let running = start(Config::default(), move || {
        wait.recv().unwrap();
        Ok(Box::new(FakeModel::default()))
    })
    .await;
    assert!(get(running.address, "/livez").await.starts_with("HTTP/1.1 200"));
    for path in ["/readyz", "/health", "/v1/reference"] {
        let answer = get(running.address, path).await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("\"code\":\"loading\""), "{answer}");
        assert!(answer.to_lowercase().contains("retry-after: "), "{answer}");
    }
    let answer = post(running.address, body()).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("\"code\":\"loading\""), "{answer}");
    assert!(get(running.address, "/metrics").await.contains("plumbline_queue_tokens 0"));
    loaded.send(()).unwrap();
    ready(running.address).await;
    assert!(post(running.address, body()).await.unwrap().starts_with("HTTP/1.1 200"));
    running.stop.send(()).unwrap();
    running.result.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_reference_that_cannot_be_loaded_ends_the_service() {
    let running = start(Config::default(), || Err("no such tensor".into())).await;
    let error = running.result.await.unwrap().unwrap_err();
    assert!(matches!(&error, ServerError::Reference { reason } if reason.contains("no such tensor")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_answers_what_was_admitted_and_refuses_the_rest() {
    let (model, gate) = FakeModel::gated();
    let running = start(Config::default(), move || Ok(Box::new(model))).await;
    ready(running.address).await;
    let admitted: Vec<_> = (0..3).map(|id| post(running.address, of(&id.to_string()))).collect();
    admitted_sequences(running.address, 3.0).await;
    running.stop.send(()).unwrap();
    let refused = loop {
        let answer = get(running.address, "/readyz").await;
        if answer.starts_with("HTTP/1.1 503") {
            break answer;
        }
    };
    assert!(refused.contains("\"code\":\"draining\""), "{refused}");
    let refused = post(running.address, body()).await.unwrap();
    assert!(refused.starts_with("HTTP/1.1 503") && refused.to_lowercase().contains("retry-after: "), "{refused}");
    assert!(get(running.address, "/livez").await.starts_with("HTTP/1.1 200"));
    assert!(!running.result.is_finished());
    drop(gate);
    for answer in admitted {
        let answer = answer.await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    running.result.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_is_bounded() {
    let (model, gate) = FakeModel::gated();
    let config = Config { drain_seconds: 1, ..Config::default() };
    let running = start(config, move || Ok(Box::new(model))).await;
    ready(running.address).await;
    let _stuck = post(running.address, body());
    admitted_sequences(running.address, 1.0).await;
    running.stop.send(()).unwrap();
    assert!(matches!(running.result.await.unwrap(), Err(ServerError::DrainTimedOut { .. })));
    drop(gate);
}

#[tokio::test]
async fn stopping_while_loading_does_not_wait_for_the_load() {
    let (_never, wait) = channel::<()>();
    let running = start(Config::default(), move || {
        let _ = wait.recv();
        Err("stopped".into())
    })
    .await;
    running.stop.send(()).unwrap();
    running.result.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_open_address_is_refused() {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let source = ReferenceSource::new(|| Ok::<_, String>(Box::new(FakeModel::default()) as Box<dyn ReferenceModel>));
    let result = serve(Config::default(), listener, source, async {}).await;
    assert!(matches!(result, Err(ServerError::Open { .. })));
}

/// Clients that write everything before they read must see the answer and not a reset.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_gets_its_answer() {
    let running = start(Config::default(), || Ok(Box::new(FakeModel::default()))).await;
    ready(running.address).await;
    let answer = post(running.address, "x".repeat(100 * 1024 * 1024)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("body_too_large"), "{answer}");
    let unread = {
        let head = "POST /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 20000000\r\n\r\n";
        let address = running.address;
        tokio::task::spawn_blocking(move || exchange(address, head, &vec![b'x'; 20_000_000])).await.unwrap()
    };
    assert!(unread.starts_with("HTTP/1.1 404"), "{unread}");
    // A client that asks first is told at once, without having sent anything.
    let asked = {
        let head = "POST /v1/verifications HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000000\r\nExpect: 100-continue\r\n\r\n";
        let address = running.address;
        tokio::task::spawn_blocking(move || exchange(address, head, b"")).await.unwrap()
    };
    assert!(asked.starts_with("HTTP/1.1 413"), "{asked}");
    assert!(post(running.address, body()).await.unwrap().starts_with("HTTP/1.1 200"));
    running.stop.send(()).unwrap();
    running.result.await.unwrap().unwrap();
}
