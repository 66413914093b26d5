//! A server process that may be killed and started again on the same data.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use reqwest::{Client, StatusCode};
use serde_json::Value;

use crate::support::{PATIENCE, plumbline};

/// How often something is looked at.
const GLANCE: Duration = Duration::from_millis(20);

/// A folder of its own, removed when dropped.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("plumbline-chaos-{name}-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The binary: the one that was built with these tests, or another build of it.
pub(crate) fn binary() -> std::process::Command {
    let built = plumbline();
    let Some(other) = std::env::var_os("PLUMBLINE_CHAOS_BINARY") else { return built };
    let mut command = std::process::Command::new(other);
    for (name, _) in built.get_envs().filter(|(_, value)| value.is_none()) {
        command.env_remove(name);
    }
    command.current_dir(std::env::temp_dir());
    command
}

/// How to start a server.
#[derive(Clone, Default)]
pub(crate) struct Command {
    environment: Vec<(String, String)>,
    /// A script for `sh` that ends in `exec "$0" "$@"`.
    shell: Option<String>,
}

impl Command {
    /// On the data in a folder.
    pub(crate) fn on(folder: &Path) -> Self {
        Self::default().env("PLUMBLINE_DATA_DIR", folder.display())
    }

    /// With a key of the configuration.
    #[expect(clippy::needless_pass_by_value, reason = "numbers and texts as they stand where it is called")]
    pub(crate) fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.environment.push((name.to_owned(), value.to_string()));
        self
    }

    /// Starts it through a script for `sh`, which ends in `exec "$0" "$@"`.
    pub(crate) fn shell(mut self, script: &str) -> Self {
        self.shell = Some(script.to_owned());
        self
    }

    fn program(&self) -> std::process::Command {
        let direct = binary();
        let Some(script) = &self.shell else { return direct };
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", script]).arg(direct.get_program()).current_dir(std::env::temp_dir());
        for (name, value) in direct.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        shell
    }

    /// Starts it, and waits for nothing.
    pub(crate) fn spawn(&self) -> Process {
        let mut child = self
            .program()
            .args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json"])
            .envs(self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        let (found, address) = mpsc::channel();
        let log = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&log);
        std::thread::spawn(move || {
            // Reads to the end, so that the server never blocks on a full pipe.
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let entry = serde_json::from_str::<Value>(&line).unwrap_or_default();
                if entry["message"] == "listening" {
                    let _ = found.send(format!("http://{}", entry["address"].as_str().unwrap()));
                }
                if entry["message"] != "answered" {
                    kept.lock().unwrap().push(line);
                }
            }
        });
        Process { child, address, log }
    }

    /// Starts it and waits until it listens.
    pub(crate) fn listening(&self) -> (Process, String) {
        let process = self.spawn();
        let Ok(url) = process.address.recv_timeout(PATIENCE) else {
            panic!("the server did not say where it listens; its log: {:#?}", process.log())
        };
        (process, url)
    }

    /// Starts it and waits until it is ready.
    pub(crate) async fn ready(&self, client: &Client) -> (Process, String) {
        let (process, url) = self.listening();
        ready(client, &url).await;
        (process, url)
    }
}

/// Waits until a server is ready.
pub(crate) async fn ready(client: &Client, url: &str) {
    let is_ready = async {
        loop {
            let answer = client.get(format!("{url}/readyz")).send().await;
            if answer.is_ok_and(|answer| answer.status() == StatusCode::OK) {
                return;
            }
            tokio::time::sleep(GLANCE).await;
        }
    };
    tokio::time::timeout(PATIENCE, is_ready).await.expect("the server did not become ready");
}

/// A running server; killed when dropped.
pub(crate) struct Process {
    child: Child,
    address: mpsc::Receiver<String>,
    log: Arc<Mutex<Vec<String>>>,
}

impl Process {
    /// `SIGKILL`: nothing of it gets to do anything any more.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn terminate(&self) {
        let sent = std::process::Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    pub(crate) async fn exit(&mut self) -> ExitStatus {
        let ended = async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(GLANCE).await;
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("the server did not exit")
    }

    /// Whether it has not ended.
    pub(crate) fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Its log so far, but for answered requests.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
