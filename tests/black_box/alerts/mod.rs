//! Alerts that the service posts by itself, at receivers that are not always well.

mod commands;
mod episodes;
mod receiver;
mod restart;

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use self::receiver::FakeReceiver;
use crate::support::{PATIENCE, Server, recording};

/// The window's verdict.
const HIGH: &str = "PlumblineDivergenceHigh";
/// The drift detector.
const DRIFT: &str = "PlumblineDivergenceDrift";

/// As fast as alerting goes: a window of two seconds is looked at every second, nothing has to last.
const FAST: [&str; 8] = [
    "--alert-interval-seconds",
    "1",
    "--alert-for-seconds",
    "0",
    "--alert-keep-seconds",
    "0",
    "--alert-timeout-seconds",
    "1",
];
const FAST_WINDOW: [(&str, &str); 3] = [
    ("PLUMBLINE_WINDOW_SECONDS", "2"),
    ("PLUMBLINE_DRIFT_BASELINE_SEQUENCES", "40"),
    // Levels in nats from the first sequence on: the floor's measurement would make the detector learn anew at some time.
    ("PLUMBLINE_NOISE_FLOOR_TOKENS", "0"),
];

async fn server(arguments: &[&str]) -> Server {
    Server::start_with(&[&FAST, arguments].concat(), &FAST_WINDOW).await
}

/// Posts recorded sequences under names of their own.
async fn feed(server: &Server, engine: &str, name: &str) {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let turn = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let mut sequences = recording(name);
    for sequence in &mut sequences {
        sequence["id"] = format!("{turn}-{}", sequence["id"]).into();
    }
    let body = json!({"run": "grpo", "engine": engine, "sequences": sequences});
    let (status, answer) = server.post(&body).await;
    assert_eq!(status, 200, "{answer}");
}

async fn feed_healthy(server: &Server, engine: &str) {
    feed(server, engine, "tiny-bf16-raw").await;
}

async fn feed_stale(server: &Server, engine: &str) {
    feed(server, engine, "tiny-bf16-stale").await;
}

async fn alerts(server: &Server) -> Value {
    server.client.get(server.at("/v1/alerts")).send().await.unwrap().json().await.unwrap()
}

/// How many alerts of a name fire for an engine.
async fn firing(server: &Server, alertname: &str, engine: &str) -> usize {
    let alerts = alerts(server).await;
    let own = |alert: &&Value| alert["labels"]["alertname"] == alertname && alert["labels"]["engine"] == engine;
    alerts["firing"].as_array().unwrap().iter().filter(own).count()
}

/// Waits until something is so.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Feeds until an alert fires or does not any more.
async fn feed_until(server: &Server, engine: &str, stale: bool, alertname: &str) {
    until("the alert changes", async || {
        match stale {
            true => feed_stale(server, engine).await,
            false => feed_healthy(server, engine).await,
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        (firing(server, alertname, engine).await == 1) == stale
    })
    .await;
}

/// What a receiver was told of the engine, as soon as it was told so often.
async fn told(receiver: &FakeReceiver, alertname: &str, engine: &str, count: usize) -> Vec<String> {
    until("it is told", async || receiver.told(alertname).get(engine).is_some_and(|told| told.len() >= count)).await;
    receiver.told(alertname)[engine].clone()
}

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("plumbline-alerts-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn file(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
