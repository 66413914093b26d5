//! A receiver of alerts that is well, slow, broken or away, as a test wants it, and remembers what it took.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mood {
    Well,
    Status(u16),
    /// No answer for as long as anybody waits.
    Slow,
}

/// One request that was taken.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Taken {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }
}

#[derive(Clone, Default)]
struct Memory {
    taken: Arc<Mutex<Vec<Taken>>>,
    /// Of requests that were not taken.
    tries: Arc<Mutex<Vec<Taken>>>,
    mood: Arc<Mutex<Option<Mood>>>,
}

/// A receiver; its address stays the same while it is away.
pub(crate) struct FakeReceiver {
    address: SocketAddr,
    memory: Memory,
    serving: Option<JoinHandle<()>>,
}

impl FakeReceiver {
    pub(crate) async fn start(mood: Mood) -> Self {
        let mut receiver = Self::away().await;
        receiver.feel(mood);
        receiver.come_back().await;
        receiver
    }

    /// Nobody listens at its address yet.
    pub(crate) async fn away() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { address: listener.local_addr().unwrap(), memory: Memory::default(), serving: None }
    }

    pub(crate) async fn come_back(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        let app = Router::new().fallback(take).with_state(self.memory.clone());
        self.serving = Some(tokio::spawn(async move { axum::serve(listener, app).await.unwrap() }));
    }

    pub(crate) fn feel(&self, mood: Mood) {
        *self.memory.mood.lock().unwrap() = Some(mood);
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn taken(&self) -> Vec<Taken> {
        self.memory.taken.lock().unwrap().clone()
    }

    pub(crate) fn tries(&self) -> Vec<Taken> {
        self.memory.tries.lock().unwrap().clone()
    }

    /// Statuses of the alerts of this name that it was told of, by engine, in order.
    pub(crate) fn told(&self, alertname: &str) -> BTreeMap<String, Vec<String>> {
        let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for taken in self.taken() {
            let body = taken.json();
            for alert in body["alerts"].as_array().into_iter().flatten() {
                if alert["labels"]["alertname"] == alertname {
                    let engine = alert["labels"]["engine"].as_str().unwrap_or_default();
                    told.entry(engine.to_owned()).or_default().push(alert["status"].as_str().unwrap().to_owned());
                }
            }
        }
        told
    }
}

impl Drop for FakeReceiver {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

async fn take(State(memory): State<Memory>, uri: Uri, headers: HeaderMap, body: Bytes) -> (StatusCode, &'static str) {
    let mood = memory.mood.lock().unwrap().unwrap_or(Mood::Well);
    let taken = Taken { path: uri.to_string(), headers, body: body.to_vec() };
    match mood {
        Mood::Well => {
            memory.taken.lock().unwrap().push(taken);
            (StatusCode::OK, "")
        }
        Mood::Status(status) => {
            memory.tries.lock().unwrap().push(taken);
            (StatusCode::from_u16(status).unwrap(), "planted trouble")
        }
        Mood::Slow => {
            memory.tries.lock().unwrap().push(taken);
            tokio::time::sleep(Duration::from_secs(600)).await;
            (StatusCode::OK, "")
        }
    }
}
