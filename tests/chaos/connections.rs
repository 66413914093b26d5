//! Clients that are slow, silent or half gone. Others do not notice.

use std::io::ErrorKind;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use reqwest::{Client, StatusCode};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::process::Command;
use crate::rng::Rng;
use crate::setting;
use crate::statistics::{latencies, mebibytes};
use crate::support::client;
use crate::work::sequence;

/// How a bad connection behaves.
#[derive(Clone, Copy, Debug)]
enum Bad {
    /// Says nothing.
    Silent,
    /// Sends a head, a byte at a time, and never ends it.
    SlowHead,
    /// Sends a head and then its body, a byte at a time.
    SlowBody,
    /// Promises a large body and stops in the middle.
    StalledBody,
    /// Sends request after request and reads no answer.
    Deaf,
    /// Closes its sending side in the middle of a body.
    HalfClosed,
}

const ALL: [Bad; 6] = [Bad::Silent, Bad::SlowHead, Bad::SlowBody, Bad::StalledBody, Bad::Deaf, Bad::HalfClosed];

/// How often a slow connection sends a byte.
const BYTE_EVERY: Duration = Duration::from_millis(500);

const HEAD: &str = "POST /v1/verifications HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";

async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Behaves badly until the server has had enough.
async fn misbehave(address: &str, how: Bad) -> std::io::Result<()> {
    let stream = TcpStream::connect(address).await?;
    match how {
        Bad::Silent => std::future::pending::<()>().await,
        Bad::SlowHead => {
            for byte in HEAD.bytes().chain(std::iter::repeat_n(b'x', 100_000)) {
                write_all(&stream, &[byte]).await?;
                tokio::time::sleep(BYTE_EVERY).await;
            }
        }
        Bad::SlowBody => {
            write_all(&stream, format!("{HEAD}content-length: 100000\r\n\r\n").as_bytes()).await?;
            for _ in 0..100_000 {
                write_all(&stream, b" ").await?;
                tokio::time::sleep(BYTE_EVERY).await;
            }
        }
        Bad::StalledBody => {
            write_all(&stream, format!("{HEAD}content-length: 30000000\r\n\r\n").as_bytes()).await?;
            write_all(&stream, &vec![b' '; 64 * 1024]).await?;
            std::future::pending::<()>().await;
        }
        Bad::Deaf => {
            let body = json!({"run": "deaf", "engine": "vllm", "include": ["tokens"], "sequences": [
                {"prompt_token_ids": [5], "completion_token_ids": vec![7; 200], "logprobs": vec![-1.0; 200]}]})
            .to_string();
            let request = format!("{HEAD}content-length: {}\r\n\r\n{body}", body.len());
            loop {
                write_all(&stream, request.as_bytes()).await?;
                tokio::time::sleep(BYTE_EVERY).await;
            }
        }
        Bad::HalfClosed => {
            write_all(&stream, format!("{HEAD}content-length: 1000\r\n\r\n{{").as_bytes()).await?;
            let stream = stream.into_std()?;
            stream.shutdown(Shutdown::Write)?;
            std::future::pending::<()>().await;
            drop(stream);
        }
    }
    Ok(())
}

/// Normal requests one after the other, each on a connection of its own; all must be answered.
async fn normal(client: &Client, url: &str, count: usize, rng: &mut Rng) -> Vec<Duration> {
    let mut took = Vec::new();
    for number in 0..count {
        let started = Instant::now();
        let body = json!({"run": "normal", "engine": "vllm", "sequences": [sequence(&format!("n{number}"), rng)]});
        let response = client.post(format!("{url}/v1/verifications")).json(&body).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{}", response.text().await.unwrap());
        took.push(started.elapsed());
    }
    took
}

/// So many bad connections, while others go on.
async fn beside(bad: usize, requests: usize) {
    let client = client();
    let command = Command::default()
        .env("PLUMBLINE_HEADER_TIMEOUT_SECONDS", 5)
        .env("PLUMBLINE_BODY_TIMEOUT_SECONDS", 10)
        .env("PLUMBLINE_WRITE_STALL_SECONDS", 10);
    let (mut process, url) = command.ready(&client).await;
    let mut rng = Rng::new(3);
    let mut alone = normal(&client, &url, 30, &mut rng).await;
    let before = process.resident_bytes();

    let address = url.strip_prefix("http://").unwrap().to_owned();
    let mut connections = JoinSet::new();
    for number in 0..bad {
        let (address, how) = (address.clone(), ALL[number % ALL.len()]);
        // One that is sent away comes back.
        connections.spawn(async move {
            loop {
                let _ = misbehave(&address, how).await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
    }
    let mut beside = normal(&client, &url, requests, &mut rng).await;
    let after = process.resident_bytes();
    println!("alone: {}", latencies(&mut alone));
    println!("beside {bad} bad connections: {}", latencies(&mut beside));
    println!("resident: {:.1} MiB before, {:.1} MiB after", mebibytes(before), mebibytes(after));
    // What the connections may take: buffers of each, and bodies that are held.
    let allowed = (bad as u64) * (256 << 10) + (128 << 20);
    assert!(after < before + allowed, "memory grew from {before} to {after}");
    drop(connections);
    normal(&client, &url, 10, &mut rng).await;
    assert!(process.lives());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_do_not_notice_a_hundred_bad_connections() {
    beside(100, 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs 2500 file descriptors and half a minute; docs/reliability.md has the command"]
async fn others_do_not_notice_a_thousand_bad_connections() {
    beside(setting("PLUMBLINE_CHAOS_CONNECTIONS", 1000), 3000).await;
}
