//! Weights that follow the policy: checkpoints on disk, swaps under load, folders that are watched.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{PATIENCE, Server, recording, repository, series};

const CLIENTS: usize = 16;
const SWAPS: usize = 50;

/// A folder for checkpoints that goes with the test.
struct Checkpoints(PathBuf);

impl Checkpoints {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("plumbline-checkpoints-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Copies the files of a model, `policy-1` or `policy-2`.
    fn write(&self, name: &str, policy: u32) -> PathBuf {
        let target = self.0.join(name);
        fs::create_dir_all(&target).unwrap();
        for file in ["config.json", "generation_config.json", "model.safetensors"] {
            fs::copy(policy_folder(policy).join(file), target.join(file)).unwrap();
        }
        target
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn policy_folder(policy: u32) -> PathBuf {
    match policy {
        1 => repository("tests/fixtures/tiny/policy-1"),
        _ => repository("crates/plumbline/assets/tiny/policy-2"),
    }
}

/// What a server says about a sequence that depends on the weights.
fn numbers(answer: &Value) -> Value {
    answer["sequences"][0]["tokens"].clone()
}

async fn update(server: &Server, path: &Path, version: &str) -> Value {
    let body = json!({"model_path": path, "weight_version": version});
    let response = server.client.post(server.at("/update_weights_from_disk")).json(&body).send().await.unwrap();
    response.json().await.unwrap()
}

async fn current(server: &Server) -> String {
    let answer = server.client.get(server.at("/get_weight_version")).send().await.unwrap();
    let answer: Value = answer.json().await.unwrap();
    answer["weight_version"].as_str().unwrap().to_owned()
}

/// 16 clients post without a pause while the weights are swapped 50 times: every answer names its version and has the bits
/// that this version gives alone, and none is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn swaps_under_load_change_nothing_but_the_version() {
    let sequences: Vec<Value> = recording("tiny-bf16-raw").into_iter().take(CLIENTS).collect();
    let mut alone = HashMap::new();
    for policy in [1, 2] {
        let server = Server::start(&["--model", policy_folder(policy).to_str().unwrap()]).await;
        for (client, sequence) in sequences.iter().enumerate() {
            let answer = server.verify("alone", std::slice::from_ref(sequence)).await;
            alone.insert((policy, client), numbers(&answer));
        }
    }
    assert_ne!(alone[&(1, 0)], alone[&(2, 0)], "the versions can be told apart");
    let alone = Arc::new(alone);

    let checkpoints = Checkpoints::new("load");
    let folders = [1, 2].map(|policy| checkpoints.write(&format!("policy-{policy}"), policy));
    let model = policy_folder(1);
    let arguments = ["--model", model.to_str().unwrap(), "--policy-version", "1", "--weights-root", checkpoints.path()];
    let server = Arc::new(Server::start(&arguments).await);
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = sequences
        .into_iter()
        .enumerate()
        .map(|(client, sequence)| {
            let (server, stop, alone) = (Arc::clone(&server), Arc::clone(&stop), Arc::clone(&alone));
            tokio::spawn(async move {
                let mut versions = Vec::new();
                while !stop.load(Ordering::Relaxed) || versions.is_empty() {
                    // A sequence of its own each time: the same one again would get the stored answer.
                    let mut sequence = sequence.clone();
                    sequence["id"] = json!(format!("{client}-{}", versions.len()));
                    let answer = server.verify("swaps", &[sequence]).await;
                    let version: usize = answer["reference"]["policy_version"].as_str().unwrap().parse().unwrap();
                    // Odd versions are policy-1, even ones policy-2.
                    let policy = if version % 2 == 1 { 1 } else { 2 };
                    assert_eq!(numbers(&answer), alone[&(policy, client)], "version {version}");
                    versions.push(version);
                }
                versions
            })
        })
        .collect();
    for swap in 0..SWAPS {
        let version = swap + 2;
        let answer = update(&server, &folders[(version + 1) % 2], &version.to_string()).await;
        assert_eq!(answer["success"], true, "{answer}");
    }
    stop.store(true, Ordering::Relaxed);
    let mut answers = 0;
    for client in clients {
        let versions = client.await.unwrap();
        assert!(versions.is_sorted(), "{versions:?}");
        answers += versions.len();
    }
    let metrics = server.metrics().await;
    assert_eq!(series(&metrics, "plumbline_weight_swaps_total", &[]), SWAPS as f64);
    assert_eq!(series(&metrics, "plumbline_reference_versions", &[]), 2.0);
    assert_eq!(series(&metrics, "plumbline_sequences_cancelled_total", &[]), 0.0);
    let counted: f64 = ["consistent", "suspect", "divergent", "insufficient"]
        .map(|verdict| series(&metrics, "plumbline_sequences_total", &["run=\"swaps\"", &format!("\"{verdict}\"")]))
        .iter()
        .sum();
    assert_eq!(counted, answers as f64, "every answer was counted once");
    assert_eq!(current(&server).await, (SWAPS + 1).to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_folder_is_followed_and_a_broken_checkpoint_is_not() {
    let checkpoints = Checkpoints::new("watch");
    checkpoints.write("step_3", 1);
    let server = Server::start(&["--weights-watch", checkpoints.path()]).await;
    let stable = |name: &str| fs::write(checkpoints.0.join(name).join("STABLE"), "").unwrap();
    let until = async |name: &str, wanted: f64| {
        let reached = async {
            while series(&server.metrics().await, name, &[]) < wanted {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("{name} did not reach {wanted}"));
    };
    assert_eq!(current(&server).await, "policy-2", "step_3 is not finished");
    stable("step_3");
    until("plumbline_weight_swaps_total", 1.0).await;
    assert_eq!(current(&server).await, "3");
    let healthy = recording("tiny-bf16-stale");
    // The engine of this recording served policy-1, which is step 3.
    let answer = server.verify("watched", &healthy[..2]).await;
    assert_eq!(answer["sequences"][0]["verdict"], "consistent", "{}", answer["metrics"]);

    let broken = checkpoints.write("step_4", 2).join("model.safetensors");
    let file = fs::OpenOptions::new().write(true).open(&broken).unwrap();
    file.set_len(fs::metadata(&broken).unwrap().len() - 100).unwrap();
    stable("step_4");
    until("plumbline_weight_update_failures_total", 1.0).await;
    assert_eq!(current(&server).await, "3", "the old version goes on serving");
    assert_eq!(server.verify("watched", &healthy[..1]).await["reference"]["policy_version"], "3");

    checkpoints.write("step_5", 2);
    stable("step_5");
    until("plumbline_weight_swaps_total", 2.0).await;
    assert_eq!(current(&server).await, "5");
}

/// RL often trains an adapter only: its folder is enough, the base is what the server was started with.
#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_is_a_checkpoint_of_the_model_that_was_started() {
    let (base, adapter) = (repository("tests/fixtures/models/llama"), repository("tests/fixtures/lora/llama-patterns"));
    let checkpoints = Checkpoints::new("adapter");
    let folder = checkpoints.0.join("step_1");
    fs::create_dir(&folder).unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(adapter.join(file), folder.join(file)).unwrap();
    }
    let sequence =
        json!({"id": "a", "prompt_token_ids": [1, 2, 3], "completion_token_ids": [4, 5, 6], "logprobs": [-1, -1, -1]});
    let merged = Server::start(&["--model", base.to_str().unwrap(), "--adapter", adapter.to_str().unwrap()]).await;
    let expected = numbers(&merged.verify("r", std::slice::from_ref(&sequence)).await);
    let server = Server::start(&["--model", base.to_str().unwrap(), "--weights-root", checkpoints.path()]).await;
    let before = numbers(&server.verify("r", std::slice::from_ref(&sequence)).await);
    assert_eq!(update(&server, &folder, "1").await["success"], true);
    let after = server.verify("updated", std::slice::from_ref(&sequence)).await;
    assert_ne!(before, expected, "the adapter changes something");
    assert_eq!(numbers(&after), expected);
    assert_eq!(after["reference"]["model"], "llama", "the model keeps its name");
}
