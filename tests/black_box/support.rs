//! Starts the real binary on a free port and talks to it.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_plumbline");

/// Longer than anything here takes on a busy machine; only a hang reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A running `plumbline serve`; killed when dropped.
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) client: Client,
    log: Arc<Mutex<String>>,
    child: Child,
}

/// The binary with an environment that has no `PLUMBLINE_` variables, away from the repository's configuration file.
pub(crate) fn plumbline() -> Command {
    let mut command = Command::new(BINARY);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PLUMBLINE_") || name == "RUST_LOG") {
        command.env_remove(name);
    }
    command.current_dir(std::env::temp_dir());
    command
}

/// A client as reqwest makes it.
pub(crate) fn client() -> Client {
    // It fails without a provider of cryptography; whoever was first has installed the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::new()
}

impl Server {
    /// Starts `serve` with the embedded model and waits until it is ready.
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, &[]).await
    }

    /// The same with variables in its environment.
    pub(crate) async fn start_with(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = plumbline();
        command.envs(variables.iter().copied());
        Self::start_as(command, arguments, "http", client()).await
    }

    /// The same with another environment, or over TLS with a client that trusts the server.
    pub(crate) async fn start_as(mut command: Command, arguments: &[&str], scheme: &str, client: Client) -> Self {
        let mut child = command
            .args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json"])
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        let (found, address) = mpsc::channel();
        let log = Arc::new(Mutex::new(String::new()));
        let written = Arc::clone(&log);
        std::thread::spawn(move || {
            // Reads to the end, so that the server never blocks on a full pipe.
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                written.lock().unwrap().push_str(&format!("{line}\n"));
                if let Ok(entry) = serde_json::from_str::<Value>(&line)
                    && entry["message"] == "listening"
                {
                    let _ = found.send(entry["address"].as_str().unwrap().to_owned());
                }
            }
        });
        let address = address.recv_timeout(PATIENCE).expect("the server did not say where it listens");
        let server = Self { url: format!("{scheme}://{address}"), client, log, child };
        tokio::time::timeout(PATIENCE, async {
            while server.client.get(server.at("/readyz")).send().await.unwrap().status() != StatusCode::OK {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .expect("the server did not become ready");
        server
    }

    pub(crate) fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// Everything that it has written to stderr.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(crate) async fn post(&self, body: &Value) -> (StatusCode, Value) {
        let response = self.client.post(self.at("/v1/verifications")).json(body).send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }

    /// Posts sequences and expects them to be scored.
    pub(crate) async fn verify(&self, run: &str, sequences: &[Value]) -> Value {
        let body = json!({"run": run, "engine": "vllm", "sequences": sequences, "include": ["tokens"]});
        let (status, answer) = self.post(&body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }

    pub(crate) async fn metrics(&self) -> String {
        self.client.get(self.at("/metrics")).send().await.unwrap().text().await.unwrap()
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    pub(crate) async fn exit_status(mut self) -> ExitStatus {
        tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .expect("the server did not exit")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The value of the first series whose line begins with `name` and contains every label.
pub(crate) fn series(metrics: &str, name: &str, labels: &[&str]) -> f64 {
    let matches = |line: &&str| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    };
    let line = metrics.lines().find(matches).unwrap_or_else(|| panic!("no series {name} {labels:?}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

pub(crate) fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

pub(crate) fn json_lines(path: &str) -> Vec<Value> {
    let path = repository(path);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A normalised recording as sequences of the API.
pub(crate) fn recording(name: &str) -> Vec<Value> {
    let demo = format!("crates/plumbline/assets/recordings/{name}.jsonl");
    let path = if repository(&demo).is_file() { demo } else { format!("tests/fixtures/recordings/{name}.jsonl") };
    let mut lines = json_lines(&path);
    for line in &mut lines {
        line.as_object_mut().unwrap().remove("group");
    }
    lines
}

/// HF's f64 logprobs of a recording, by sequence id.
pub(crate) fn reference(name: &str) -> Vec<(String, Vec<f64>)> {
    let lines = json_lines(&format!("tests/fixtures/recordings/{name}.ref.jsonl"));
    lines.iter().map(|line| (line["id"].as_str().unwrap().to_owned(), floats(&line["f64"]))).collect()
}

pub(crate) fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}
