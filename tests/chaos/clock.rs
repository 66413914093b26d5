//! Clocks that jump: by a leap of hours, back before everything stored, years ahead.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::process::{Command, Folder};
use crate::reconcile::{check_integrity, result_of};
use crate::rng::Rng;
use crate::support::client;
use crate::work::sequence;

/// Where distributions put it.
fn libfaketime() -> PathBuf {
    let folders = [
        "/usr/lib/x86_64-linux-gnu/faketime",
        "/usr/lib/aarch64-linux-gnu/faketime",
        "/usr/lib/faketime",
        "/usr/local/lib/faketime",
    ];
    let found =
        folders.map(|folder| PathBuf::from(folder).join("libfaketime.so.1")).into_iter().find(|path| path.exists());
    found.expect("libfaketime is not installed (Debian: apt-get install faketime)")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs libfaketime; docs/reliability.md has the command"]
async fn a_jumping_clock_breaks_nothing() {
    let folder = Folder::new("clock");
    let times = Folder::new("time");
    let file = times.path().join("now");
    let jump = |offset: &str| std::fs::write(&file, offset).unwrap();
    jump("+0");
    let client = client();
    let command = Command::on(folder.path())
        .env("PLUMBLINE_WINDOW_SECONDS", 60)
        // A clock that is years ahead makes everything old, but nothing goes before it has run steadily for an hour.
        .env("PLUMBLINE_STORE_MAX_DAYS", 1)
        .env("LD_PRELOAD", libfaketime().display())
        .env("FAKETIME_TIMESTAMP_FILE", file.display())
        .env("FAKETIME_NO_CACHE", 1)
        // As on a real machine: the time of day jumps, the monotonic clock does not.
        .env("DONT_FAKE_MONOTONIC", 1);
    let (mut process, mut url) = command.ready(&client).await;
    let mut rng = Rng::new(21);
    let (mut sent, mut accepted) = (0u64, Vec::new());
    for offset in ["+0", "+2h", "-1d", "-20y", "+10y", "-10s", "+0"] {
        jump(offset);
        for asynchronous in [false, true, false, true] {
            sent += 1;
            let body =
                json!({"run": "clock", "engine": "vllm", "sequences": [sequence(&format!("c{sent}"), &mut rng)]});
            let mut request = client.post(format!("{url}/v1/verifications")).json(&body);
            if asynchronous {
                request = request.header("prefer", "respond-async");
            }
            let response = request.send().await.unwrap();
            let status = response.status().as_u16();
            let answer: Value = response.json().await.unwrap();
            assert!([200, 202].contains(&status), "{offset}: {status} {answer}");
            accepted.push(answer["id"].as_str().unwrap().to_owned());
        }
        for id in &accepted {
            result_of(&client, &url, id).await;
        }
        for path in [
            "/metrics",
            "/readyz",
            "/v1/runs",
            "/v1/runs/clock",
            "/v1/runs/clock/sequences?sort=time",
            "/v1/runs/clock/report.json",
        ] {
            let response = client.get(format!("{url}{path}")).send().await.unwrap();
            assert_eq!(response.status(), 200, "{offset}: {path}: {}", response.text().await.unwrap());
        }
        // What is stored comes back under another time, too.
        process.kill();
        (process, url) = command.ready(&client).await;
        let view: Value = client.get(format!("{url}/v1/runs/clock")).send().await.unwrap().json().await.unwrap();
        assert_eq!(view["engines"][0]["totals"]["metrics"]["sequences"], sent, "{offset}: {view}");
    }
    process.terminate();
    assert_eq!(process.exit().await.code(), Some(0), "{:#?}", process.log());
    check_integrity(folder.path());
}
