//! API keys: who may what, exchanged while the server runs, and never shown.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Folder, sequence};
use crate::support::{PATIENCE, Server, client, plumbline};

async fn status(server: &Server, method: Method, path: &str, key: Option<&str>) -> u16 {
    let mut request = server.client.request(method, server.at(path));
    if let Some(key) = key {
        request = request.bearer_auth(key);
    }
    let body = json!({"run": "r", "engine": "vllm", "sequences": [sequence()]});
    let response = request.json(&body).send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    if let Some(key) = key.filter(|_| status >= 400) {
        assert!(!text.contains(key), "an answer shows a key: {text}");
    }
    status
}

#[tokio::test]
async fn roles_are_what_they_say() {
    let folder = Folder::new("roles");
    let file = folder.file("keys", "ingest key-of-workers\nread key-of-dashboards\nadmin key-of-trainer\n");
    let server = Server::start(&["--api-key-file", &file, "--weights-root", folder.0.to_str().unwrap()]).await;
    let (ingest, read, admin) = (Some("key-of-workers"), Some("key-of-dashboards"), Some("key-of-trainer"));
    for path in [
        "/docs",
        "/openapi.json",
        "/metrics",
        "/v1/reference",
        "/v1/events",
        "/v1/runs",
        "/v1/runs/r",
        "/v1/runs/r/views",
        "/v1/runs/r/tokens.parquet",
        "/v1/sequences/x",
    ] {
        assert_eq!(status(&server, Method::GET, path, None).await, 401, "{path}");
        assert_eq!(status(&server, Method::GET, path, Some("key-of-nobody")).await, 401, "{path}");
    }
    // The page holds no data; it asks people for a key.
    for path in ["/livez", "/readyz", "/health", "/", "/assets/page/app.js"] {
        assert_eq!(status(&server, Method::GET, path, None).await, 200, "{path}");
    }
    assert_eq!(status(&server, Method::POST, "/v1/verifications", read).await, 403);
    assert_eq!(status(&server, Method::POST, "/v1/verifications", ingest).await, 200);
    assert_eq!(status(&server, Method::GET, "/v1/runs/r/sequences", ingest).await, 403);
    assert_eq!(status(&server, Method::GET, "/v1/runs/r/sequences", read).await, 200);
    for key in [ingest, read] {
        assert_eq!(status(&server, Method::POST, "/update_weights_from_disk", key).await, 403);
    }
    assert_eq!(status(&server, Method::POST, "/update_weights_from_disk", admin).await, 400, "no model_path in it");
}

#[tokio::test]
async fn keys_are_exchanged_without_a_restart() {
    let folder = Folder::new("exchange");
    let file = folder.file("keys", "old-key\n");
    let server = Server::start(&["--api-key-file", &file, "--credentials-poll-seconds", "1"]).await;
    assert_eq!(status(&server, Method::GET, "/v1/runs", Some("old-key")).await, 200);
    folder.file("keys", "this cannot be read\n");
    until(async || server.log().contains("cannot be used")).await;
    assert_eq!(status(&server, Method::GET, "/v1/runs", Some("old-key")).await, 200, "what was in use stays");
    folder.file("keys", "new-key\n");
    until(async || status(&server, Method::GET, "/v1/runs", Some("new-key")).await == 200).await;
    assert_eq!(status(&server, Method::GET, "/v1/runs", Some("old-key")).await, 401);
    assert!(!server.log().contains("this cannot be read"));
}

async fn until(mut condition: impl AsyncFnMut() -> bool) {
    tokio::time::timeout(PATIENCE, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn no_secret_is_logged_or_answered_at_any_level() {
    let folder = Folder::new("secrets");
    let (good, bad, env) = ("s3cret-of-the-file", "s3cret-of-a-stranger", "s3cret-of-the-variable");
    let file = folder.file("keys", &format!("admin {good} trainer\n"));
    let mut command = plumbline();
    command.env("RUST_LOG", "trace").env("KEYS_OF_THE_TEST", format!("read {env} dashboards"));
    let arguments = ["--api-key-file", file.as_str(), "--api-key-env", "KEYS_OF_THE_TEST"];
    let server = Server::start_as(command, &arguments, "http", client()).await;
    for key in [good, bad, env] {
        for (method, path) in
            [(Method::GET, "/v1/runs"), (Method::GET, "/nothing"), (Method::POST, "/v1/verifications")]
        {
            status(&server, method, path, Some(key)).await;
        }
        // Where keys do not belong.
        let basic = server.client.get(server.at("/v1/runs")).basic_auth("me", Some(key)).send().await.unwrap();
        assert_eq!(basic.status(), StatusCode::UNAUTHORIZED);
    }
    let page = server.client.get(server.at("/metrics")).bearer_auth(env).send().await.unwrap();
    assert_eq!(page.status(), StatusCode::OK);
    let (page, log) = (page.text().await.unwrap(), server.log());
    assert!(log.contains("trainer") && log.contains("dashboards"), "the log says whose key it was: {log}");
    for secret in [good, bad, env, "s3cret"] {
        assert!(!log.contains(secret) && !page.contains(secret), "{secret}");
    }
    let mut command = plumbline();
    command.args(["config", "show", "--api-key-file", &file, "--api-key-env", "KEYS_OF_THE_TEST"]);
    let shown = command.env("KEYS_OF_THE_TEST", env).output().unwrap();
    assert!(shown.status.success() && !String::from_utf8_lossy(&shown.stdout).contains("s3cret"));
}

#[tokio::test]
async fn checkpoints_come_from_the_roots_only() {
    let folder = Folder::new("roots");
    let root = folder.0.join("served");
    std::fs::create_dir_all(root.join("inside")).unwrap();
    let outside = crate::support::repository("crates/plumbline/assets/tiny/policy-2");
    std::os::unix::fs::symlink(&outside, root.join("linked")).unwrap();
    for file in std::fs::read_dir(&outside).unwrap() {
        let file = file.unwrap();
        std::os::unix::fs::symlink(file.path(), root.join("inside").join(file.file_name())).unwrap();
    }
    let server = Server::start(&["--weights-root", root.to_str().unwrap()]).await;
    for path in [
        outside.to_str().unwrap(),
        "linked",
        "inside",
        "../served/../../etc",
        "inside/../../outside",
        "/etc",
        "/proc/self/cwd",
        "",
        "inside\u{0}",
    ] {
        let body = json!({"model_path": path, "weight_version": "evil"});
        let response = server.client.post(server.at("/update_weights_from_disk")).json(&body).send().await.unwrap();
        let (status, answer) = (response.status(), response.json::<Value>().await.unwrap());
        assert_eq!((status, &answer["success"]), (StatusCode::BAD_REQUEST, &json!(false)), "{path}: {answer}");
    }
    let version: Value =
        server.client.get(server.at("/get_weight_version")).send().await.unwrap().json().await.unwrap();
    assert_eq!(version["weight_version"], "policy-2");
}
