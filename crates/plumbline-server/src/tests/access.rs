//! Which key may do what, route by route.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::{Value, json};

use super::fake::FakeModel;
use super::{Reply, Service, request, sequence};
use crate::config::Config;

/// A file of keys; removed when dropped.
struct KeyFile(std::path::PathBuf);

impl KeyFile {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("plumbline-access-{name}-{}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn service(name: &str, config: Config) -> Service {
    let file = KeyFile::new(name, "ingest i-key workers\nread r-key\nadmin a-key\nall-key\n");
    Service::new(Config { api_key_file: Some(file.0.clone()), ..config }, FakeModel::default()).await
}

async fn ask(service: &Service, method: &Method, path: &str, key: Option<&str>) -> Reply {
    let mut request = Request::builder().method(method.clone()).uri(path).header("content-type", "application/json");
    if let Some(key) = key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    service.call(request.body(Body::from("{}")).unwrap()).await
}

/// What a key gets: whether it was let through to the route.
async fn lets(service: &Service, method: &Method, path: &str, key: &str) -> bool {
    let reply = ask(service, method, path, Some(key)).await;
    assert_ne!(reply.status, 401, "{method} {path} {key}");
    if reply.status == 403 {
        assert_eq!(reply.problem().1, "forbidden");
        return false;
    }
    true
}

#[tokio::test]
async fn every_documented_operation_is_for_the_roles_that_it_says() {
    // Without streams of events: a stream has no end.
    let service = service("table", Config { max_event_streams: 0, ..Config::default() }).await;
    let expected: BTreeSet<_> = [
        ("GET", "/docs", "ira"),
        ("GET", "/openapi.json", "ira"),
        ("GET", "/metrics", "-ra"),
        ("GET", "/get_weight_version", "ira"),
        ("GET", "/v1/alerts", "-ra"),
        ("GET", "/v1/reference", "ira"),
        ("GET", "/v1/events", "-ra"),
        ("GET", "/v1/runs", "-ra"),
        ("GET", "/v1/runs/{run}", "-ra"),
        ("GET", "/v1/runs/{run}/report.html", "-ra"),
        ("GET", "/v1/runs/{run}/report.json", "-ra"),
        ("GET", "/v1/runs/{run}/report.png", "-ra"),
        ("GET", "/v1/runs/{run}/report.xlsx", "-ra"),
        ("GET", "/v1/runs/{run}/sequences", "-ra"),
        ("GET", "/v1/runs/{run}/tokens.parquet", "-ra"),
        ("GET", "/v1/runs/{run}/views", "-ra"),
        ("GET", "/v1/sequences/{id}", "-ra"),
        ("POST", "/update_weights_from_disk", "--a"),
        ("POST", "/v1/verifications", "i-a"),
    ]
    .map(|(method, path, roles)| format!("{method} {path} {roles}"))
    .into();
    let document = ask(&service, &Method::GET, "/openapi.json", Some("r-key")).await.json();
    let mut found = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let concrete = path.replace(['{', '}'], "");
            let without = ask(&service, &method, &concrete, None).await;
            let says = operation["description"].as_str().unwrap();
            if ["/", "/livez", "/readyz", "/health"].contains(&path.as_str()) {
                assert_eq!((without.status.as_u16(), operation.get("security")), (200, None), "{path}");
                assert!(says.contains("no API key"), "{says}");
                continue;
            }
            assert_eq!(without.problem(), (401, "unauthorized".into()), "{method} {path}");
            assert_eq!(operation["security"], json!([{"api_key": []}]), "{method} {path}");
            assert!(operation["responses"]["401"].is_object(), "{method} {path}");
            assert!(lets(&service, &method, &concrete, "all-key").await, "a key without roles may do everything");
            let mut roles = String::new();
            for (key, letter, name) in [("i-key", 'i', "ingest"), ("r-key", 'r', "read"), ("a-key", 'a', "admin")] {
                let may = lets(&service, &method, &concrete, key).await;
                roles.push(if may { letter } else { '-' });
                let forbids = operation["responses"]["403"].is_object();
                assert!(may || forbids, "{method} {path}: 403 is not documented");
                assert!(may == says.contains(name) || !forbids, "{method} {path} {name}: {says}");
            }
            found.insert(format!("{method} {path} {roles}"));
        }
    }
    let known: BTreeSet<_> = found.intersection(&expected).collect();
    assert_eq!(known.len(), expected.len(), "{found:#?}");
    for other in found.difference(&expected) {
        assert!(!other.ends_with("--a"), "a route that the table of rules does not name: {other}");
    }
}

#[tokio::test]
async fn methods_and_paths_that_are_not_there_tell_no_stranger() {
    let service = service("nothing", Config::default()).await;
    assert_eq!(ask(&service, &Method::DELETE, "/v1/runs/x", None).await.status, 401);
    assert_eq!(ask(&service, &Method::DELETE, "/v1/runs/x", Some("r-key")).await.status, 403);
    assert_eq!(ask(&service, &Method::DELETE, "/v1/runs/x", Some("a-key")).await.status, 405);
    assert_eq!(ask(&service, &Method::GET, "/nothing", None).await.status, 401);
    assert_eq!(ask(&service, &Method::GET, "/nothing", Some("i-key")).await.status, 404);
    assert_eq!(ask(&service, &Method::GET, "/docs/index.html", Some("i-key")).await.status, 200);
    assert_eq!(ask(&service, &Method::HEAD, "/v1/runs", Some("i-key")).await.status, 403);
}

#[tokio::test]
async fn metrics_may_be_open_and_senders_may_read() {
    let config = Config { metrics_open: true, ingest_reads: true, ..Config::default() };
    let service = service("open", config).await;
    assert_eq!(ask(&service, &Method::GET, "/metrics", None).await.status, 200);
    assert_eq!(ask(&service, &Method::GET, "/v1/runs", None).await.status, 401);
    assert_eq!(ask(&service, &Method::GET, "/v1/runs", Some("i-key")).await.status, 200);
    assert_eq!(ask(&service, &Method::POST, "/update_weights_from_disk", Some("i-key")).await.status, 403);
}

#[tokio::test]
async fn a_sender_sends_and_cannot_look_at_what_others_sent() {
    let service = service("sender", Config::default()).await;
    let mut post = super::post(request(&json!([sequence("a")])).to_string());
    post.headers_mut().insert("authorization", "Bearer i-key".parse().unwrap());
    assert_eq!(service.call(post).await.status, 200);
    let listed = ask(&service, &Method::GET, "/v1/runs/grpo/sequences", Some("r-key")).await.json();
    let id = listed["sequences"][0]["id"].as_str().unwrap();
    let path = format!("/v1/sequences/{id}");
    assert_eq!(ask(&service, &Method::GET, &path, Some("r-key")).await.status, 200);
    let refused = ask(&service, &Method::GET, &path, Some("i-key")).await;
    assert_eq!(refused.status, 403);
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("workers") && detail.contains("ingest") && !detail.contains("i-key"), "{detail}");
}

#[tokio::test]
async fn keys_that_cannot_be_used_end_the_start() {
    let build = |config: Config| {
        let source = crate::ReferenceSource::new(|| Err::<Box<dyn plumbline_core::ReferenceModel>, _>("not asked"));
        crate::serve::build(config, source).map(|_| ()).unwrap_err().to_string()
    };
    let file = KeyFile::new("bad", "very secret words here\n");
    let error = build(Config { api_key_file: Some(file.0.clone()), ..Config::default() });
    assert!(
        error.contains("entry 1") && error.contains(&*file.0.to_string_lossy()) && !error.contains("secret"),
        "{error}"
    );
    let error = build(Config { api_key_file: Some("/no/such/keys".into()), ..Config::default() });
    assert!(error.contains("/no/such/keys"), "{error}");
    let error = build(Config { api_key_env: Some("NO_SUCH_VARIABLE_OF_KEYS".into()), ..Config::default() });
    assert!(error.contains("NO_SUCH_VARIABLE_OF_KEYS") && error.contains("not set"), "{error}");
    let both = Config {
        tls_cert_file: Some("/no/such/cert".into()),
        tls_key_file: Some("/no/such/key".into()),
        ..Config::default()
    };
    assert!(build(both).contains("/no/such/cert"));
}

#[tokio::test]
async fn answers_are_never_taken_for_something_else() {
    let service = Service::default().await;
    for path in ["/", "/metrics", "/v1/runs", "/nothing", "/openapi.json", "/docs/"] {
        assert_eq!(service.get(path).await.headers["x-content-type-options"], "nosniff", "{path}");
    }
    let script = "<script>alert(1)</script>";
    let reply = service.post(&json!({"run": script, "engine": script, script: script, "sequences": []})).await;
    assert_eq!(reply.problem(), (422, "unknown_field".into()));
    let mut body = request(&json!([sequence(script)]));
    body["run"] = Value::from(script);
    let reply = service.post(&body).await;
    assert_eq!((reply.status.as_u16(), &reply.headers["content-type"]), (200, &"application/json".parse().unwrap()));
    let page = service.get("/v1/runs/%3Cscript%3Ealert%281%29%3C%2Fscript%3E/report.html").await;
    assert_eq!(page.status, 200);
    assert!(!page.body.contains(script), "the run's name stands in the page as markup");
    assert!(page.headers["content-security-policy"].to_str().unwrap().contains("sandbox"));
}
