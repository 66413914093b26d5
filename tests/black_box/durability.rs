//! What a server that was killed still knows.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::{PATIENCE, Server, recording};

/// A data dir that goes with the test.
struct DataDir(PathBuf);

impl DataDir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("plumbline-data-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    async fn server(&self) -> Server {
        Server::start(&["--data-dir", self.0.to_str().unwrap()]).await
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The first tokens of a recorded sequence, under a name of its own.
fn short(line: &Value, id: &str) -> Value {
    let cut = |key: &str| Value::from(line[key].as_array().unwrap()[..6].to_vec());
    json!({
        "id": id, "prompt_token_ids": line["prompt_token_ids"], "completion_token_ids": cut("completion_token_ids"),
        "logprobs": cut("logprobs"),
    })
}

async fn get(server: &Server, path: &str) -> (StatusCode, Value) {
    let response = server.client.get(server.at(path)).send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

async fn send(server: &Server, body: &Value, headers: &[(&str, &str)]) -> reqwest::Response {
    let mut request = server.client.post(server.at("/v1/verifications")).json(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

/// Waits until so many sequences of a run are counted: what is stored is counted a moment later.
async fn until_counted(server: &Server, run: &str, sequences: u64) {
    let reached = async {
        while counted(server, run).await != sequences {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.expect("all are counted, each once");
}

/// Sequences of a run by verdict, summed up.
async fn counted(server: &Server, run: &str) -> u64 {
    let (status, view) = get(server, &format!("/v1/runs/{run}")).await;
    assert_eq!(status, 200, "{view}");
    let engines = view["engines"].as_array().unwrap();
    let verdicts = engines.iter().flat_map(|engine| engine["totals"]["verdicts"].as_object().unwrap().values());
    verdicts.map(|count| count.as_u64().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_killed_server_keeps_what_it_acknowledged_and_finishes_what_it_accepted() {
    let (data, lines) = (DataDir::new("kill"), recording("tiny-bf16-raw"));
    let server = data.server().await;
    let body =
        |id: &str| json!({"run": "kill", "engine": "vllm", "sequences": [short(&lines[id.len() % lines.len()], id)]});
    let mut answers = Vec::new();
    for number in 0..5 {
        let body = body(&format!("sync-{number}"));
        let response = send(&server, &body, &[]).await;
        assert_eq!(response.status(), 200);
        answers.push((body, response.text().await.unwrap()));
    }
    let mut accepted = Vec::new();
    for number in 0..40 {
        let response = send(&server, &body(&format!("async-{number}")), &[("Prefer", "respond-async")]).await;
        assert_eq!(response.status(), 202);
        accepted.push(response.headers()["location"].to_str().unwrap().to_owned());
    }
    // SIGKILL, with some of the accepted ones done and some not.
    drop(server);

    let server = data.server().await;
    for (body, answer) in &answers {
        let again = send(&server, body, &[]).await;
        assert_eq!(again.headers()["idempotent-replayed"], "true");
        assert_eq!(again.text().await.unwrap(), *answer);
    }
    for location in &accepted {
        let done = async {
            loop {
                let (status, verification) = get(&server, location).await;
                assert_eq!(status, 200, "{verification}");
                match verification["state"].as_str() {
                    Some("done") => break verification,
                    Some("queued" | "running") => tokio::time::sleep(Duration::from_millis(20)).await,
                    _ => panic!("{verification}"),
                }
            }
        };
        let done = tokio::time::timeout(PATIENCE, done).await.unwrap();
        assert_eq!(done["result"]["sequences"].as_array().unwrap().len(), 1);
        assert_eq!(done["result"]["already_counted"], json!([]));
    }
    until_counted(&server, "kill", 45).await;
    let (_, listed) = get(&server, "/v1/runs/kill/sequences?sort=time&limit=256").await;
    let names: Vec<_> = listed["sequences"].as_array().unwrap().iter().map(|one| one["sequence_id"].as_str()).collect();
    assert_eq!((names.len(), names.iter().collect::<BTreeSet<_>>().len()), (45, 45));
    server.signal("TERM");
    assert_eq!(server.exit_status().await.code(), Some(0));
    let server = data.server().await;
    assert_eq!(counted(&server, "kill").await, 45, "after an orderly end too");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_orderly_end_leaves_accepted_work_for_the_next_start() {
    let (data, lines) = (DataDir::new("drain"), recording("tiny-bf16-raw"));
    let server = data.server().await;
    let mut locations = Vec::new();
    for number in 0..60 {
        let sequences: Vec<_> = lines.iter().map(|line| short(line, &format!("{number}-{}", line["id"]))).collect();
        let body = json!({"run": "drain", "engine": "vllm", "sequences": sequences});
        let response = send(&server, &body, &[("Prefer", "respond-async")]).await;
        assert_eq!(response.status(), 202);
        locations.push(response.headers()["location"].to_str().unwrap().to_owned());
    }
    server.signal("TERM");
    assert_eq!(server.exit_status().await.code(), Some(0));
    let server = data.server().await;
    for location in locations {
        let done = async {
            while get(&server, &location).await.1["state"] != "done" {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, done).await.unwrap();
    }
    until_counted(&server, "drain", 60 * lines.len() as u64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_dir_is_served_by_one_process() {
    let data = DataDir::new("lock");
    let _server = data.server().await;
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--data-dir", data.0.to_str().unwrap()];
    let second = crate::support::plumbline().args(arguments).output().unwrap();
    let stderr = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("plumbline.sqlite"), "{stderr}");
}
