//! The service from outside: requests into the router, or over TCP, with a reference that only counts.

mod access;
mod alerts;
mod diagnosis;
mod fake;
mod floor;
mod fuzz;
mod ledger;
mod limits;
mod lines;
mod protocol;
mod reports;
mod requests;
mod running;
mod runs;
mod text;
mod weights;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use plumbline_core::ReferenceModel;
use serde_json::{Value, json};
use tower::ServiceExt;

use self::fake::FakeModel;
use crate::config::Config;
use crate::diagnosis::Diagnose;
use crate::serve::{App, build};
use crate::weights::ReferenceSource;

/// An answer as a client sees it.
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// Status and code of a problem, after checking what all problems have in common.
    fn problem(&self) -> (u16, String) {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{}", self.body);
        let document = self.json();
        assert_eq!(document["status"], self.status.as_u16());
        assert_eq!(document["request_id"], self.headers["x-request-id"].to_str().unwrap());
        let code = document["code"].as_str().unwrap().to_owned();
        assert_eq!(document["type"], format!("urn:plumbline:problem:{code}"));
        assert!(document["errors"].is_array() && document["title"].is_string() && document["detail"].is_string());
        (self.status.as_u16(), code)
    }

    /// Code and pointer of the first offending field.
    fn first_error(&self) -> (String, String) {
        let (_, code) = self.problem();
        (code, self.json()["errors"][0]["pointer"].as_str().unwrap_or_default().to_owned())
    }
}

/// A router whose reference is resident.
struct Service(App);

impl Service {
    async fn new(config: Config, model: FakeModel) -> Self {
        let source = ReferenceSource::new(move || Ok::<_, String>(Box::new(model) as Box<dyn ReferenceModel>));
        Self::from_source(config, source).await
    }

    async fn from_source(config: Config, source: ReferenceSource) -> Self {
        let app = build(config, source).unwrap();
        let info = app.state.scheduler.ready().await.unwrap();
        app.state.set_resident(&info).unwrap();
        Self(app)
    }

    /// With another search for causes.
    async fn with_diagnose(config: Config, model: FakeModel, diagnose: Diagnose) -> Self {
        let source = ReferenceSource::new(move || Ok::<_, String>(Box::new(model) as Box<dyn ReferenceModel>));
        let app = build(config, source).unwrap();
        let info = app.state.scheduler.ready().await.unwrap();
        app.state.set_resident_with(&info, diagnose).unwrap();
        Self(app)
    }

    async fn default() -> Self {
        Self::new(Config::default(), FakeModel::default()).await
    }

    async fn call(&self, request: Request<Body>) -> Reply {
        let response = self.0.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        Reply { status: parts.status, headers: parts.headers, body: String::from_utf8_lossy(&bytes).into_owned() }
    }

    async fn get(&self, path: &str) -> Reply {
        self.call(Request::get(path).body(Body::empty()).unwrap()).await
    }

    async fn post(&self, body: &Value) -> Reply {
        self.post_text(body.to_string()).await
    }

    async fn post_text(&self, body: impl Into<Body>) -> Reply {
        self.call(post(body)).await
    }

    /// The value of one series, given as in the text.
    async fn metric(&self, series: &str) -> Option<f64> {
        metric(&self.get("/metrics").await.body, series)
    }
}

pub(crate) fn metric(text: &str, series: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.rsplit_once(' ').is_some_and(|(name, _)| name == series))?;
    Some(line.rsplit_once(' ')?.1.parse().unwrap())
}

/// A rollout with these completion tokens, whose logprobs are `off` nats from the fake reference's.
fn rollout(id: &str, completion: &[u32], off: f64) -> Value {
    let logprobs: Vec<f64> = completion.iter().map(|token| FakeModel::logprob(*token, 1.0) - off).collect();
    json!({"id": id, "prompt_token_ids": [1, 5], "completion_token_ids": completion, "logprobs": logprobs})
}

/// An id that nobody else has: the same sequence again would not count.
fn unique() -> String {
    uuid::Uuid::now_v7().simple().to_string()
}

/// Waits until a condition holds.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let patience = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    while !condition().await {
        assert!(tokio::time::Instant::now() < patience, "{what}");
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

fn post(body: impl Into<Body>) -> Request<Body> {
    Request::post("/v1/verifications").header("content-type", "application/json").body(body.into()).unwrap()
}

fn sequence(id: &str) -> Value {
    json!({"id": id, "prompt_token_ids": [1, 5], "completion_token_ids": [7, 2], "logprobs": [-1.5, -1.2]})
}

fn request(sequences: &Value) -> Value {
    json!({"run": "grpo", "engine": "vllm", "sequences": sequences})
}
