//! Servers that speak the engines' protocols and sample from the embedded model's vocabulary, with the model's own logprobs or
//! with planted wrong ones. What is sampled depends on the prompt, the seed and the engine's salt only.

mod bodies;
mod model;
mod tls;
mod trouble;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::serve::Listener;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use self::tls::TlsListener;
pub(crate) use self::trouble::Trouble;

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// With `/inference/v1/generate`.
    Vllm,
    /// Started without it: 403.
    VllmCompletions,
    Sglang,
    LlamaCpp,
    /// Refuses fields that it does not know.
    TensorRtLlm,
    /// Ignores every request for ids.
    OpenAiWithoutIds,
    /// Takes no ids as prompt, as llama-cpp-python.
    OpenAiTextOnly,
}

/// How a server behaves.
#[derive(Clone, Debug)]
pub(crate) struct Behaviour {
    pub(crate) protocol: Protocol,
    /// Changes what is sampled.
    pub(crate) salt: u64,
    /// Added to every second logprob, taken from the others.
    pub(crate) planted: f64,
    /// What happens to the first requests for completions, in order.
    pub(crate) troubles: Vec<Trouble>,
    /// Required as a bearer token.
    pub(crate) key: Option<&'static str>,
    /// Milliseconds that each completion takes.
    pub(crate) delay: u64,
}

impl Behaviour {
    pub(crate) fn of(protocol: Protocol) -> Self {
        Self { protocol, salt: 0, planted: 0.0, troubles: Vec::new(), key: None, delay: 0 }
    }
}

/// A running fake; stopped when dropped.
pub(crate) struct FakeEngine {
    pub(crate) url: String,
    inner: Arc<Inner>,
    task: JoinHandle<()>,
}

struct Inner {
    behaviour: Behaviour,
    troubles: Mutex<VecDeque<Trouble>>,
    completions: AtomicUsize,
    scorings: AtomicUsize,
}

impl FakeEngine {
    pub(crate) async fn start(behaviour: Behaviour) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        Self::serve(behaviour, listener, url)
    }

    /// The same over TLS, with a certificate and its key in PEM.
    pub(crate) async fn start_tls(behaviour: Behaviour, certificate: &str, key: &str) -> Self {
        let listener = TlsListener::bind(certificate, key).await;
        let url = format!("https://{}", listener.local_addr().unwrap());
        Self::serve(behaviour, listener, url)
    }

    fn serve<L: Listener<Addr: std::fmt::Debug>>(behaviour: Behaviour, listener: L, url: String) -> Self {
        let troubles = Mutex::new(behaviour.troubles.iter().copied().collect());
        let inner =
            Arc::new(Inner { behaviour, troubles, completions: AtomicUsize::new(0), scorings: AtomicUsize::new(0) });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&inner));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, inner, task }
    }

    /// Completions that were asked for, failed ones included.
    pub(crate) fn completions(&self) -> usize {
        self.inner.completions.load(SeqCst)
    }

    /// Times that logprobs of given tokens were asked for.
    pub(crate) fn scorings(&self) -> usize {
        self.inner.scorings.load(SeqCst)
    }
}

impl Drop for FakeEngine {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    State(inner): State<Arc<Inner>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let given = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
    if let Some(key) = inner.behaviour.key
        && given != Some(format!("Bearer {key}"))
    {
        let said = format!("wrong key: {}", given.unwrap_or_default());
        return (StatusCode::UNAUTHORIZED, axum::Json(json!({"error": {"message": said}}))).into_response();
    }
    if method == Method::GET {
        return match facts(inner.behaviour.protocol, uri.path()) {
            Some(fact) => axum::Json(fact).into_response(),
            None => StatusCode::NOT_FOUND.into_response(),
        };
    }
    let request: Value = serde_json::from_slice(&body).unwrap();
    if bodies::is_scoring(&request) {
        inner.scorings.fetch_add(1, SeqCst);
    } else {
        inner.completions.fetch_add(1, SeqCst);
        let trouble = inner.troubles.lock().unwrap().pop_front();
        if let Some(trouble) = trouble {
            return trouble.happen().await;
        }
    }
    tokio::time::sleep(std::time::Duration::from_millis(inner.behaviour.delay)).await;
    let (inner, path) = (Arc::clone(&inner), uri.path().to_owned());
    let answered = tokio::task::spawn_blocking(move || bodies::answer(&inner.behaviour, &path, &request));
    match answered.await.unwrap() {
        Ok(answer) => axum::Json(answer).into_response(),
        Err((status, message)) => (status, axum::Json(json!({"error": {"message": message}}))).into_response(),
    }
}

fn facts(protocol: Protocol, path: &str) -> Option<Value> {
    match (protocol, path) {
        (_, "/v1/models") => Some(json!({"object": "list", "data": [{"id": "tiny", "object": "model"}]})),
        (Protocol::Vllm | Protocol::VllmCompletions, "/version") => Some(json!({"version": "0.32.0-fake"})),
        (Protocol::Sglang, "/get_server_info") => Some(json!({"version": "0.5-fake", "api_key": "sk-of-the-server"})),
        (Protocol::LlamaCpp, "/props") => Some(json!({"build_info": "b1-fake"})),
        _ => None,
    }
}
