//! Weights that follow the policy, over HTTP.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use plumbline_core::ReferenceModel;
use serde_json::{Value, json};

use super::fake::FakeModel;
use super::{Reply, Service, request, sequence};
use crate::config::Config;
use crate::weights::ReferenceSource;

/// A folder for checkpoints that goes with the test.
struct Root(PathBuf);

impl Root {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("plumbline-weights-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path.canonicalize().unwrap())
    }

    fn checkpoint(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn load(directory: &Path, version: &str) -> Result<Box<dyn ReferenceModel>, String> {
    if directory.ends_with("broken") {
        return Err("tensor model.norm.weight is cut".into());
    }
    Ok(Box::new(FakeModel::default().with_version(version)))
}

fn source() -> ReferenceSource {
    ReferenceSource::new(|| Ok::<_, String>(Box::new(FakeModel::default()) as Box<dyn ReferenceModel>))
        .with_versions(load)
}

async fn service(root: &Root, version_wait_seconds: u64) -> Service {
    let config = Config { weights_root: vec![root.0.clone()], version_wait_seconds, ..Config::default() };
    Service::from_source(config, source()).await
}

impl Service {
    async fn update(&self, body: &Value) -> Reply {
        let request = Request::post("/update_weights_from_disk").header("content-type", "application/json");
        self.call(request.body(Body::from(body.to_string())).unwrap()).await
    }

    async fn updated(&self, path: &Path) {
        let reply = self.update(&json!({"model_path": path})).await;
        assert_eq!((reply.status.as_u16(), &reply.json()["success"]), (200, &json!(true)), "{}", reply.body);
    }
}

fn asking_for(version: &str) -> Value {
    let mut body = request(&json!([sequence("a")]));
    body["policy_version"] = json!(version);
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_changes_what_scores_and_says_so_everywhere() {
    let root = Root::new("update");
    let service = service(&root, 0).await;
    assert_eq!(service.get("/get_weight_version").await.json(), json!({"weight_version": "2"}));
    let path = root.checkpoint("step_42");
    let reply = service.update(&json!({"model_path": path, "flush_cache": true})).await;
    assert_eq!(reply.status, 200);
    let message = format!("{} is current as version \"42\"", path.display());
    assert_eq!(reply.json(), json!({"success": true, "message": message, "num_paused_requests": 0}));
    assert_eq!(service.get("/get_weight_version").await.json(), json!({"weight_version": "42"}));
    let reference = service.get("/v1/reference").await.json();
    assert_eq!((&reference["policy_version"], &reference["policy_versions"]), (&json!("42"), &json!(["2", "42"])));
    assert_eq!(reference["weight_bytes"], 56);

    let scored_by = async |body: &Value| service.post(body).await.json()["reference"]["policy_version"].clone();
    assert_eq!(scored_by(&request(&json!([sequence("a")]))).await, "42");
    assert_eq!(scored_by(&asking_for("2")).await, "2");

    assert_eq!(service.metric("plumbline_weight_swaps_total").await, Some(1.0));
    assert_eq!(service.metric("plumbline_reference_versions").await, Some(2.0));
    let text = service.get("/metrics").await.body;
    let infos: Vec<_> = text.lines().filter(|line| line.starts_with("plumbline_reference_info{")).collect();
    assert!(infos.len() == 1 && infos[0].contains("\"42\""), "{infos:?}");
    service.updated(&root.checkpoint("step_43")).await;
    let mut late = asking_for("2");
    late["sequences"][0]["id"] = json!("late");
    let gone = service.post(&late).await;
    assert_eq!(gone.problem(), (409, "policy_version_unavailable".into()));
    assert!(gone.body.contains("no longer resident"), "{}", gone.body);
    assert_eq!(scored_by(&asking_for("2")).await, "2", "a retry gets what was stored");
}

/// A copy on each of two devices: both score, both follow, and their memory counts together.
#[tokio::test(flavor = "multi_thread")]
async fn copies_on_several_devices_follow_together() {
    let root = Root::new("copies");
    let copy = |device: &'static str| {
        let model = move |version: &str| FakeModel::default().with_version(version).on(device);
        ReferenceSource::new(move || Ok::<_, String>(Box::new(model("2")) as Box<dyn ReferenceModel>))
            .with_versions(move |_, version| Ok::<_, String>(Box::new(model(version)) as Box<dyn ReferenceModel>))
    };
    let config = Config { weights_root: vec![root.0.clone()], ..Config::default() };
    let source = ReferenceSource::together([copy("cuda:0"), copy("cuda:1")]);
    let service = Service::from_source(config, source).await;
    assert_eq!(service.get("/v1/reference").await.json()["weight_bytes"], 56);
    service.updated(&root.checkpoint("step_3")).await;
    let reference = service.get("/v1/reference").await.json();
    assert_eq!((&reference["device"], &reference["policy_version"]), (&json!("cuda:0,1"), &json!("3")));
    assert_eq!(reference["weight_bytes"], 112);
    let answer = service.post(&request(&json!([sequence("a")]))).await.json();
    assert_eq!(
        (&answer["reference"]["device"], &answer["reference"]["policy_version"]),
        (&json!("cuda:0,1"), &json!("3"))
    );

    let fixed = ReferenceSource::new(|| Ok::<_, String>(Box::new(FakeModel::default()) as Box<dyn ReferenceModel>));
    let config = Config { weights_root: vec![root.0.clone()], ..Config::default() };
    let service = Service::from_source(config, ReferenceSource::together([copy("cpu"), fixed])).await;
    let refused = service.update(&json!({"model_path": root.checkpoint("step_3")})).await;
    assert_eq!(refused.status, 400, "one copy cannot follow: {}", refused.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn sequences_of_several_versions_share_a_request_and_even_a_sequence() {
    let root = Root::new("spans");
    let service = service(&root, 0).await;
    service.updated(&root.checkpoint("step_3")).await;
    let mut body = request(&json!([sequence("old"), sequence("mixed"), sequence("new")]));
    body["policy_version"] = json!("2");
    body["sequences"][1]["weight_versions"] =
        json!([{"version": "2", "start": 0, "end": 1}, {"version": "3", "start": 1, "end": 2}]);
    body["sequences"][2]["policy_version"] = json!("3");
    body["include"] = json!(["tokens"]);
    let answer = service.post(&body).await.json();
    assert_eq!(answer["reference"]["policy_version"], Value::Null, "{answer}");
    let versions: Vec<_> =
        answer["sequences"].as_array().unwrap().iter().map(|one| one["policy_version"].clone()).collect();
    assert_eq!(versions, [json!("2"), Value::Null, json!("3")]);
    for one in answer["sequences"].as_array().unwrap() {
        let expected: Vec<f64> = [7, 2].map(|token| FakeModel::logprob(token, 1.0)).into();
        assert_eq!(one["tokens"]["reference_logprobs"], json!(expected), "every token once, in order");
    }
    body["sequences"][1]["weight_versions"][1]["version"] = json!("9");
    let reply = service.post(&body).await;
    let place = "/sequences/1/weight_versions/1/version".to_owned();
    assert_eq!(reply.first_error(), ("policy_version_unavailable".into(), place));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_loaded_leaves_the_current_version_serving() {
    let root = Root::new("refused");
    let outside = Root::new("outside");
    let service = service(&root, 0).await;
    let refused = async |body: Value| {
        let reply = service.update(&body).await;
        let answer = reply.json();
        assert_eq!((reply.status.as_u16(), &answer["success"]), (400, &json!(false)), "{body}");
        answer["message"].as_str().unwrap().to_owned()
    };
    let broken = refused(json!({"model_path": root.checkpoint("broken"), "weight_version": "3"})).await;
    assert_eq!(broken, "tensor model.norm.weight is cut");
    root.checkpoint("step_1");
    for path in [
        outside.0.to_str().unwrap().to_owned(),
        format!("{}/../{}", root.0.display(), outside.0.file_name().unwrap().to_str().unwrap()),
        "/etc".into(),
        "../".into(),
        "step_1/../../".into(),
    ] {
        let message = refused(json!({"model_path": path, "weight_version": "3"})).await;
        assert!(message.ends_with("is outside of the folders that weights may be read from"), "{message}");
    }
    assert!(refused(json!({"model_path": "step_9"})).await.contains("cannot read"));
    assert!(refused(json!({"model_path": "step_1", "load_format": "pt"})).await.contains("safetensors"));
    assert!(refused(json!({})).await.contains("model_path"));
    assert_eq!(service.get("/get_weight_version").await.json()["weight_version"], "2");
    assert_eq!(service.post(&request(&json!([sequence("a")]))).await.status, 200);
    assert_eq!(service.metric("plumbline_weight_swaps_total").await, Some(0.0));
    assert_eq!(
        service.metric("plumbline_weight_update_failures_total").await,
        Some(7.0),
        "as far as loading was tried"
    );
}

#[tokio::test]
async fn without_a_root_nothing_is_read_and_nothing_is_waited_for() {
    let config = Config { version_wait_seconds: 3600, ..Config::default() };
    let service = Service::from_source(config, source()).await;
    let reply = service.update(&json!({"model_path": "/etc"})).await;
    assert!(reply.status == 400 && reply.body.contains("weights_root"), "{}", reply.body);
    assert_eq!(service.post(&asking_for("3")).await.problem(), (409, "policy_version_unavailable".into()));
}

/// The wait is an hour: an answer at all shows that it was for the right reason.
#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_is_ahead_waits_for_its_version() {
    let root = Root::new("ahead");
    let service = service(&root, 3600).await;
    assert_eq!(service.post(&asking_for("1")).await.problem().0, 409, "older than everything there is");
    let body = asking_for("3");
    let waiting = service.post(&body);
    tokio::pin!(waiting);
    let early = tokio::time::timeout(Duration::from_millis(50), &mut waiting).await;
    assert!(early.is_err(), "version 3 is not there yet");
    service.updated(&root.checkpoint("step_3")).await;
    assert_eq!(waiting.await.json()["reference"]["policy_version"], "3");
}

#[tokio::test]
async fn the_wait_is_bounded() {
    let root = Root::new("bounded");
    let service = service(&root, 1).await;
    let reply = service.post(&asking_for("3")).await;
    assert_eq!(reply.first_error(), ("policy_version_unavailable".into(), "/policy_version".into()));
    assert!(reply.body.contains("did not become resident in time"), "{}", reply.body);
}

#[tokio::test]
async fn what_waits_is_bounded_in_tokens_and_by_the_clients_time() {
    let root = Root::new("waiting");
    let config = Config {
        weights_root: vec![root.0.clone()],
        version_wait_seconds: 3600,
        max_queue_tokens: 6,
        max_batch_tokens: 6,
        ..Config::default()
    };
    let service = Service::from_source(config, source()).await;
    let body = asking_for("3");
    {
        let waiting = service.post(&body);
        tokio::pin!(waiting);
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut waiting).await.is_err());
        assert_eq!(service.metric("plumbline_version_wait_tokens").await, Some(4.0));
        // The same content would wait for the first one's answer.
        let mut other = asking_for("3");
        other["sequences"][0]["id"] = json!("b");
        assert_eq!(service.post(&other).await.problem(), (429, "queue_full".into()), "4 more are too many");
    }
    assert_eq!(service.metric("plumbline_version_wait_tokens").await, Some(0.0), "its client left");
    let mut request = super::post(body.to_string());
    request.headers_mut().insert("plumbline-timeout", "0.01".parse().unwrap());
    assert_eq!(service.call(request).await.problem(), (504, "deadline_exceeded".into()));
    service.updated(&root.checkpoint("step_3")).await;
    assert_eq!(service.post(&body).await.json()["reference"]["policy_version"], "3");
}
