//! What outlives a request, and the process: retries, accepted verifications, the monitor.

use std::path::{Path, PathBuf};

use axum::body::Body;
use axum::http::Request;
use plumbline_core::ReferenceModel;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::fake::{FakeModel, POISON};
use super::{Reply, Service, post, request, rollout, sequence, until};
use crate::config::Config;
use crate::jobs;
use crate::serve::build;
use crate::weights::ReferenceSource;

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("plumbline-ledger-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }

    fn config(&self) -> Config {
        Config { data_dir: Some(self.0.clone()), ..Config::default() }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A service with its job runner.
struct Running {
    service: Service,
    runner: JoinHandle<()>,
}

impl Running {
    async fn start(folder: &Folder) -> Self {
        Self::of(Service::new(folder.config(), FakeModel::default()).await)
    }

    fn of(service: Service) -> Self {
        let runner = tokio::spawn(jobs::run(service.0.state.clone()));
        Self { service, runner }
    }

    /// Ends as the process does after a drain.
    async fn stop(self) {
        self.service.0.drain.send(true).unwrap();
        self.runner.await.unwrap();
        self.service.0.state.jobs.idle().await;
        close(&self.service);
    }

    async fn finished(&self, id: &str) -> Value {
        let path = format!("/v1/verifications/{id}");
        let mut state = Value::Null;
        until("the job ends", async || {
            state = self.service.get(&path).await.json();
            state["state"] == "done" || state["state"] == "failed"
        })
        .await;
        state
    }
}

fn close(service: &Service) {
    service.0.state.ledger.store().unwrap().close().unwrap();
}

fn with(body: &Value, headers: &[(&'static str, &str)]) -> Request<Body> {
    let mut request = post(body.to_string());
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    request
}

async fn send(service: &Service, body: &Value, headers: &[(&'static str, &str)]) -> Reply {
    service.call(with(body, headers)).await
}

const ASYNC: (&str, &str) = ("prefer", "respond-async");

/// Sequences that the counters know.
async fn counted(service: &Service) -> f64 {
    let group = r#"engine="vllm",model_name="fake",run="grpo""#;
    service.metric(&format!("plumbline_sequences_compared_total{{{group}}}")).await.unwrap_or(0.0)
}

fn long(id: &str, off: f64) -> Value {
    rollout(id, &[30, 31, 32, 33, 34, 35, 36, 37, 38, 39], off)
}

#[tokio::test]
async fn a_retry_gets_the_stored_bytes_and_moves_no_counter() {
    let folder = Folder::new("retry");
    for service in [Service::new(folder.config(), FakeModel::default()).await, Service::default().await] {
        let stored = service.0.state.ledger.store().is_some();
        let body = request(&json!([long("a", 0.01), long("b", 0.02)]));
        let first = service.post(&body).await;
        assert_eq!((first.status.as_u16(), &first.json()["stored"]), (200, &json!(stored)), "{}", first.body);
        assert_eq!(first.json()["already_counted"], json!([]));
        assert!(!first.headers.contains_key("idempotent-replayed"));
        for headers in [&[][..], &[("idempotency-key", "k")], &[ASYNC]] {
            if !stored && headers.contains(&ASYNC) {
                continue;
            }
            let again = send(&service, &body, headers).await;
            assert_eq!((again.status.as_u16(), &again.body), (200, &first.body));
            assert_eq!(again.headers["idempotent-replayed"], "true");
        }
        assert_eq!(counted(&service).await, 2.0);
        assert_eq!(service.metric("plumbline_batch_sequences_sum").await, Some(2.0), "nothing was scored again");
        assert!(service.metric(r#"plumbline_repeated_total{what="request"}"#).await.unwrap() >= 2.0);
    }
}

#[tokio::test]
async fn a_key_belongs_to_one_content() {
    let folder = Folder::new("key");
    for service in [Service::new(folder.config(), FakeModel::default()).await, Service::default().await] {
        let key = [("idempotency-key", "step-1")];
        let first = send(&service, &request(&json!([sequence("a")])), &key).await;
        assert_eq!(first.status, 200);
        let other = send(&service, &request(&json!([sequence("b")])), &key).await;
        assert_eq!(other.problem(), (422, "idempotency_key_reused".into()));
        assert_eq!(send(&service, &request(&json!([sequence("a")])), &key).await.body, first.body);
        assert_eq!(counted(&service).await, 1.0);
        let bad = send(&service, &request(&json!([sequence("a")])), &[("idempotency-key", " ")]).await;
        assert_eq!(bad.problem(), (400, "invalid_idempotency_key".into()));
    }
}

#[tokio::test]
async fn a_sequence_counts_in_the_first_of_two_requests() {
    let folder = Folder::new("sequence");
    for service in [Service::new(folder.config(), FakeModel::default()).await, Service::default().await] {
        service.post(&request(&json!([long("a", 0.01), long("b", 0.02)]))).await;
        let second = service.post(&request(&json!([long("c", 0.03), long("b", 0.02), long("a", 0.5)]))).await.json();
        assert_eq!(second["already_counted"], json!([1]), "a has other content");
        assert_eq!(second["sequences"][1]["metrics"]["tokens"], 10);
        assert_eq!(counted(&service).await, 4.0);
        let view = service.get("/v1/runs/grpo").await.json();
        let verdicts = view["engines"][0]["totals"]["verdicts"].as_object().unwrap();
        assert_eq!(verdicts.values().map(|count| count.as_u64().unwrap()).sum::<u64>(), 4);
        assert_eq!(service.metric(r#"plumbline_repeated_total{what="sequence"}"#).await, Some(1.0));
    }
}

#[tokio::test]
async fn the_same_request_at_the_same_time_is_scored_once() {
    let folder = Folder::new("concurrent");
    for config in [folder.config(), Config::default()] {
        let (model, gate) = FakeModel::gated();
        let service = Service::new(config, model).await;
        let body = request(&json!([long("a", 0.01)]));
        let posts: Vec<_> = (0..8).map(|_| service.0.router.clone()).collect();
        let posts = posts.into_iter().map(|router| {
            let request = with(&body, &[]);
            tokio::spawn(async move {
                let response = tower::ServiceExt::oneshot(router, request).await.unwrap();
                axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap()
            })
        });
        let posts: Vec<_> = posts.collect();
        drop(gate);
        let mut answers = Vec::new();
        for post in posts {
            answers.push(post.await.unwrap());
        }
        assert!(answers.iter().all(|answer| *answer == answers[0]));
        assert_eq!((counted(&service).await, service.metric("plumbline_batch_sequences_sum").await), (1.0, Some(1.0)));
    }
}

#[tokio::test]
async fn what_is_accepted_is_answered_later() {
    let folder = Folder::new("async");
    let running = Running::start(&folder).await;
    let mut body = request(&json!([long("a", 0.01)]));
    body["include"] = json!(["tokens"]);
    let accepted =
        send(&running.service, &body, &[("prefer", "wait=1, respond-async"), ("idempotency-key", "k")]).await;
    assert_eq!(accepted.status, 202, "{}", accepted.body);
    assert_eq!(accepted.headers["preference-applied"], "respond-async");
    let id = accepted.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(accepted.headers["location"], format!("/v1/verifications/{id}").as_str());
    assert!(accepted.headers.contains_key("retry-after"));

    let state = running.finished(&id).await;
    until("it is counted", async || counted(&running.service).await == 1.0).await;
    assert_eq!((&state["state"], &state["id"], &state["run"]), (&json!("done"), &json!(id), &json!("grpo")));
    assert_eq!((&state["result"]["id"], &state["result"]["stored"]), (&json!(id), &json!(true)));
    assert_eq!(state["result"]["sequences"][0]["tokens"]["rank"].as_array().unwrap().len(), 10);
    for headers in [&[][..], &[("idempotency-key", "k")], &[ASYNC]] {
        let retry = send(&running.service, &body, headers).await;
        assert_eq!((retry.status.as_u16(), retry.json()), (200, state["result"].clone()));
    }
    until("the job is counted", async || {
        running.service.metric(r#"plumbline_jobs_finished_total{outcome="done"}"#).await == Some(1.0)
    })
    .await;
    assert_eq!(running.service.get("/v1/verifications/ver_none").await.problem().1, "verification_not_found");
    running.stop().await;
}

#[tokio::test]
async fn what_cannot_be_answered_fails_with_its_problem() {
    let folder = Folder::new("failed");
    let running = Running::start(&folder).await;
    let bad = request(&json!([rollout("a", &[7, POISON], 0.0)]));
    let id = send(&running.service, &bad, &[ASYNC]).await.json()["id"].as_str().unwrap().to_owned();
    let state = running.finished(&id).await;
    assert_eq!((&state["state"], &state["problem"]["code"]), (&json!("failed"), &json!("scoring_failed")));
    assert_eq!(state["problem"]["instance"], format!("/v1/verifications/{id}"));
    assert!(state.get("result").is_none() && !state.to_string().contains("secret"));
    let refused = send(&running.service, &request(&json!([rollout("a", &[700], 0.0)])), &[ASYNC]).await;
    assert_eq!(refused.first_error().1, "/sequences/0/completion_token_ids/0", "what is invalid is not accepted");
    // It may be tried again: under a name of its own.
    let again = send(&running.service, &bad, &[ASYNC]).await.json()["id"].as_str().unwrap().to_owned();
    assert_ne!(again, id);
    running.finished(&again).await;
    running.stop().await;
}

#[tokio::test]
async fn without_a_data_dir_nothing_is_accepted_for_later() {
    let service = Service::default().await;
    let body = request(&json!([sequence("a")]));
    assert_eq!(send(&service, &body, &[ASYNC]).await.problem(), (501, "async_unavailable".into()));
    assert_eq!(service.get("/readyz").await.json(), json!({"status": "ready", "store": "none"}));
    assert_eq!(service.metric(r#"plumbline_store_state{state="none"}"#).await, Some(1.0));
    assert_eq!(service.metric(r#"plumbline_store_errors_total{kind="full"}"#).await, Some(0.0));
    assert_eq!(service.get("/v1/verifications/ver_x").await.problem().0, 404);
}

#[tokio::test]
async fn accepted_verifications_are_bounded() {
    let folder = Folder::new("bounded");
    let config = Config { max_jobs: 2, ..folder.config() };
    // Without a runner nothing is taken from the queue.
    let service = Service::new(config, FakeModel::default()).await;
    for id in ["a", "b"] {
        assert_eq!(send(&service, &request(&json!([sequence(id)])), &[ASYNC]).await.status, 202);
    }
    let third = send(&service, &request(&json!([sequence("c")])), &[ASYNC]).await;
    assert_eq!(third.problem(), (429, "too_many_jobs".into()));
    assert!(third.headers.contains_key("retry-after"));
    let again = send(&service, &request(&json!([sequence("a")])), &[]).await;
    assert_eq!(again.status, 200, "somebody waits for it now: {}", again.body);
    assert_eq!(service.metric(r#"plumbline_jobs{state="queued"}"#).await, Some(1.0));
    close(&service);
}

#[tokio::test]
async fn a_restart_goes_on_with_what_was_accepted_and_knows_what_was_counted() {
    let folder = Folder::new("restart");
    let service = Service::new(folder.config(), FakeModel::default()).await;
    let mut ids = Vec::new();
    for number in 0..30 {
        let mut body = request(&json!([long(&format!("sync-{number}"), f64::from(number) / 100.0)]));
        body["worker"] = json!(format!("w{}", number % 3));
        body["engine"] = json!(if number % 4 == 0 { "sglang" } else { "vllm" });
        assert_eq!(service.post(&body).await.status, 200);
        let later = request(&json!([long(&format!("async-{number}"), 0.02)]));
        ids.push(send(&service, &later, &[ASYNC]).await.json()["id"].as_str().unwrap().to_owned());
    }
    let view = |service: &Service| {
        let router = service.0.router.clone();
        async move {
            let request = Request::get("/v1/runs/grpo").body(Body::empty()).unwrap();
            let response = tower::ServiceExt::oneshot(router, request).await.unwrap();
            let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
            serde_json::from_slice::<Value>(&bytes).unwrap()
        }
    };
    let before = view(&service).await;
    let listed = service.get("/v1/runs/grpo/sequences?sort=mae&limit=7").await.json();
    let first = service.get(&format!("/v1/sequences/{}", listed["sequences"][0]["id"].as_str().unwrap())).await.json();
    close(&service);
    drop(service);

    let service = Service::new(folder.config(), FakeModel::default()).await;
    let mut after = view(&service).await;
    same_but_for_rounding(&mut after, &before, "");
    assert_eq!(counted(&service).await, 0.0, "counters restart as counters do");
    assert_eq!(service.get("/v1/runs/grpo/sequences?sort=mae&limit=7").await.json(), listed);
    let path = format!("/v1/sequences/{}", listed["sequences"][0]["id"].as_str().unwrap());
    assert_eq!(service.get(&path).await.json(), first);
    let report = service.get("/v1/runs/grpo/report.json").await;
    assert_eq!(report.status, 200, "{}", report.body);
    let running = Running::of(service);
    for id in &ids {
        assert_eq!(running.finished(id).await["state"], "done");
    }
    let retry = running.service.post(&request(&json!([long("async-3", 0.02)]))).await;
    assert_eq!(
        (&retry.json()["id"], &retry.headers["idempotent-replayed"]),
        (&json!(ids[3]), &"true".parse().unwrap())
    );
    // Those of this life. What is stored is counted a moment later.
    until("the jobs are counted", async || counted(&running.service).await == 30.0).await;
    let verdicts = |view: &Value| {
        let engines = view["engines"].as_array().unwrap();
        let counts =
            engines.iter().flat_map(|engine| engine["totals"]["verdicts"].as_object().unwrap().values().cloned());
        counts.map(|count| count.as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!(verdicts(&view(&running.service).await), 60);
    running.stop().await;
}

/// Numbers may differ by the order in which they were added.
fn same_but_for_rounding(one: &mut Value, other: &Value, path: &str) {
    match (&mut *one, other) {
        (Value::Object(own), Value::Object(others)) => {
            assert!(own.keys().eq(others.keys()), "{path}");
            own.iter_mut()
                .for_each(|(key, value)| same_but_for_rounding(value, &others[key], &format!("{path}/{key}")));
        }
        (Value::Array(own), Value::Array(others)) => {
            assert_eq!(own.len(), others.len(), "{path}");
            own.iter_mut().zip(others).for_each(|(own, other)| same_but_for_rounding(own, other, path));
        }
        (Value::Number(own), Value::Number(other)) => {
            let (own, other) = (own.as_f64().unwrap(), other.as_f64().unwrap());
            assert!((own - other).abs() <= 1e-9 * (1.0 + other.abs()), "{path}: {own} {other}");
        }
        // Bounds of stretches of time count from the first sequence; times are to the second.
        (Value::String(_), Value::String(_)) if path.contains("trend") || path.ends_with("_at") => {}
        (own, other) => assert_eq!(own, other, "{path}"),
    }
}

#[tokio::test]
async fn runs_that_the_monitor_has_forgotten_are_in_the_store() {
    let folder = Folder::new("forgotten");
    let config = Config { max_label_sets: 1, ..folder.config() };
    let service = Service::new(config.clone(), FakeModel::default()).await;
    for run in ["a", "b", "c"] {
        let mut body = request(&json!([long(run, 0.01)]));
        body["run"] = json!(run);
        assert_eq!(service.post(&body).await.status, 200);
    }
    for run in ["a", "c"] {
        let view = service.get(&format!("/v1/runs/{run}")).await.json();
        assert_eq!(view["engines"][0]["totals"]["metrics"]["tokens"], 10, "{run}: {view}");
        let list = service.get(&format!("/v1/runs/{run}/sequences")).await.json();
        assert_eq!(list["sequences"][0]["sequence_id"], run);
        assert_eq!(service.get(&format!("/v1/runs/{run}/report.json")).await.status, 200);
    }
    assert_eq!(service.get("/v1/runs/other/sequences").await.json()["sequences"].as_array().unwrap().len(), 2);
    assert_eq!(service.get("/v1/runs/nobody").await.problem(), (404, "run_not_found".into()));
    close(&service);
}

#[tokio::test]
async fn a_store_in_trouble_does_not_stop_scoring() {
    let folder = Folder::new("trouble");
    let service = Service::new(folder.config(), FakeModel::default()).await;
    let before = request(&json!([long("before", 0.01)]));
    assert_eq!(service.post(&before).await.json()["stored"], true);
    close(&service);
    let body = request(&json!([long("a", 0.01), long("b", 0.02)]));
    let first = service.post(&body).await;
    assert_eq!((first.status.as_u16(), &first.json()["stored"]), (200, &json!(false)), "{}", first.body);
    let again = service.post(&body).await;
    assert_eq!((&again.body, &again.headers["idempotent-replayed"]), (&first.body, &"true".parse().unwrap()));
    let overlapping = service.post(&request(&json!([long("c", 0.01), long("a", 0.01)]))).await.json();
    assert_eq!(overlapping["already_counted"], json!([1]));
    assert_eq!(counted(&service).await, 4.0);
    assert_eq!(service.metric("plumbline_answers_unstored_total").await, Some(2.0));
    assert_eq!(service.metric(r#"plumbline_store_state{state="closed"}"#).await, Some(1.0));
    let refused = send(&service, &request(&json!([long("d", 0.01)])), &[ASYNC]).await;
    assert_eq!(refused.problem(), (503, "store_unavailable".into()));
    assert!(refused.headers.contains_key("retry-after"));
    let ready = service.get("/readyz").await;
    assert_eq!((ready.status.as_u16(), &ready.json()["store"]), (200, &json!("closed")));
    assert_eq!(service.get("/v1/runs/grpo").await.json()["store"], "closed");
    assert_eq!(service.get("/v1/runs/grpo/sequences").await.problem().1, "store_unavailable");
}

#[tokio::test]
async fn a_store_that_cannot_be_opened_ends_the_start() {
    let folder = Folder::new("broken");
    std::fs::create_dir_all(&folder.0).unwrap();
    std::fs::write(folder.0.join("plumbline.sqlite"), "this is no database, and it is long enough to look at").unwrap();
    let source = ReferenceSource::new(|| Ok::<_, String>(Box::new(FakeModel::default()) as Box<dyn ReferenceModel>));
    let error = build(folder.config(), source).err().unwrap().to_string();
    assert!(error.contains("plumbline.sqlite"), "{error}");
    assert!(Path::new(&folder.0.join("plumbline.sqlite")).exists());
}
