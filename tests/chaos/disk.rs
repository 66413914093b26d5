//! A disk that takes nothing more: what was acknowledged stays, synchronous scoring goes on, and the store comes back by itself.

use std::path::Path;
use std::process::Command as Program;
use std::time::Duration;

use reqwest::Client;
use serde_json::{Value, json};

use crate::process::{Command, Folder, Process};
use crate::reconcile::{check_integrity, result_of};
use crate::rng::Rng;
use crate::support::{PATIENCE, client, series};
use crate::work::sequence_of;

/// Bytes that a file may have while the disk is "full".
const FILE_LIMIT: u64 = 2 << 20;

/// A request that only the test's own client sends, and what became of it.
struct Probe<'a> {
    client: &'a Client,
    url: String,
    rng: Rng,
    sent: usize,
    /// Acknowledged as being on disk.
    accepted: Vec<String>,
}

impl Probe<'_> {
    fn body(&mut self, tokens: usize) -> Value {
        self.sent += 1;
        let sequence = sequence_of(&format!("d{}", self.sent), 8, tokens, &mut self.rng);
        json!({"run": "disk", "engine": "vllm", "sequences": [sequence]})
    }

    /// Scored at once, whatever the disk does.
    async fn sync(&mut self, tokens: usize) {
        let body = self.body(tokens);
        let response = self.client.post(format!("{}/v1/verifications", self.url)).json(&body).send().await.unwrap();
        let status = response.status();
        assert_eq!(status, 200, "synchronous scoring stopped: {}", response.text().await.unwrap());
    }

    /// 202 and on disk, or 503 with `Retry-After`; nothing between.
    async fn accepted(&mut self) -> bool {
        let body = self.body(20);
        let request = self.client.post(format!("{}/v1/verifications", self.url)).header("prefer", "respond-async");
        let response = request.json(&body).send().await.unwrap();
        let (status, later) = (response.status().as_u16(), response.headers().contains_key("retry-after"));
        let answer: Value = response.json().await.unwrap();
        match status {
            202 => self.accepted.push(answer["id"].as_str().unwrap().to_owned()),
            503 => assert!(later && answer["code"] == "store_unavailable", "{answer}"),
            _ => panic!("{status}: {answer}"),
        }
        status == 202
    }

    async fn metrics(&self) -> String {
        self.client.get(format!("{}/metrics", self.url)).send().await.unwrap().text().await.unwrap()
    }

    /// Failed reads and writes of all kinds.
    async fn errors(&self) -> f64 {
        let page = self.metrics().await;
        let lines = page.lines().filter(|line| line.starts_with("plumbline_store_errors_total"));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    async fn is_well(&self) -> bool {
        series(&self.metrics().await, "plumbline_store_state", &["state=\"ok\""]) == 1.0
    }
}

/// Fills the disk, looks at what the server does then, and makes room again.
async fn full(
    folder: &Path,
    command: &Command,
    fill: impl AsyncFnOnce(&mut Probe<'_>, &Process),
    free: impl FnOnce(&Process),
) {
    let client = client();
    let (mut process, url) = command.ready(&client).await;
    let mut probe = Probe { client: &client, url, rng: Rng::new(9), sent: 0, accepted: Vec::new() };
    assert!(probe.accepted().await);
    probe.sync(20).await;

    fill(&mut probe, &process).await;
    assert!(probe.errors().await > 0.0);
    let mut refused = 0;
    for _ in 0..20 {
        probe.sync(20).await;
        refused += usize::from(!probe.accepted().await);
    }
    assert!(refused > 0 && !probe.is_well().await, "{refused} of 20 refused");
    let ready = client.get(format!("{}/readyz", probe.url)).send().await.unwrap();
    assert_eq!(ready.status(), 200, "it still scores");
    let told = ready.text().await.unwrap();
    assert!(told.contains("store"), "readyz does not tell: {told}");

    free(&process);
    let back = async {
        while !(probe.accepted().await && probe.is_well().await) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, back).await.expect("the store does not come back");
    probe.sync(20).await;
    println!(
        "{} requests, {} accepted, {refused} of 20 refused while the disk was full",
        probe.sent,
        probe.accepted.len()
    );

    let accepted = std::mem::take(&mut probe.accepted);
    for id in &accepted {
        result_of(&client, &probe.url, id).await;
    }
    process.kill();
    let (mut process, url) = command.ready(&client).await;
    for id in &accepted {
        result_of(&client, &url, id).await;
    }
    process.terminate();
    assert_eq!(process.exit().await.code(), Some(0), "{:#?}", process.log());
    check_integrity(folder);
}

/// As full as a file size limit makes it: needs no rights, and can be lifted while the server runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_may_not_grow_loses_nothing() {
    let folder = Folder::new("disk");
    let limit = FILE_LIMIT / 512;
    let script = format!("trap '' XFSZ; ulimit -S -f {limit}; exec \"$0\" \"$@\"");
    let command = Command::on(folder.path()).shell(&script);
    let fill = async |probe: &mut Probe<'_>, _: &Process| {
        for _ in 0..2000 {
            if probe.errors().await > 0.0 {
                return;
            }
            probe.sync(400).await;
        }
        panic!("the limit was never reached");
    };
    let free = |process: &Process| {
        let lifted = Program::new("prlimit").args(["--pid", &process.id().to_string(), "--fsize=unlimited"]).status();
        assert!(lifted.unwrap().success());
    };
    full(folder.path(), &command, fill, free).await;
}

/// A small file system of its own, which is really full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the right to mount; docs/reliability.md has the command"]
async fn a_full_disk_loses_nothing() {
    let folder = Folder::new("tmpfs");
    let mounted =
        Program::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(folder.path()).status().unwrap();
    assert!(mounted.success(), "mounting a tmpfs needs root");
    let filler = folder.path().join("filler");
    let fill = async |probe: &mut Probe<'_>, _: &Process| {
        let room = vec![1u8; 16 << 20];
        assert!(std::fs::write(&filler, room).is_err(), "the disk took 16 MiB");
        for _ in 0..2000 {
            if probe.errors().await > 0.0 {
                return;
            }
            probe.sync(400).await;
        }
        panic!("the disk was never full");
    };
    full(folder.path(), &Command::on(folder.path()), fill, |_| std::fs::remove_file(&filler).unwrap()).await;
    assert!(Program::new("umount").arg(folder.path()).status().unwrap().success());
}
