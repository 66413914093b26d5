//! Bombs, half-open and slow connections: others are served meanwhile, and memory stays.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::sequence;
use crate::support::{PATIENCE, Server, series};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

async fn post(server: &Server, encoding: Option<&str>, body: Vec<u8>) -> (StatusCode, Value) {
    let mut request = server.client.post(server.at("/v1/verifications")).header("content-type", "application/json");
    if let Some(encoding) = encoding {
        request = request.header("content-encoding", encoding);
    }
    let response = request.body(body).send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

#[tokio::test]
async fn encoded_bodies_are_as_good_as_plain_ones() {
    let server = Server::start(&[]).await;
    let body = json!({"run": "r", "engine": "vllm", "sequences": [sequence()]}).to_string().into_bytes();
    let (_, plain) = post(&server, None, body.clone()).await;
    for (encoding, encoded) in [("gzip", gzip(&body)), ("zstd", zstd::encode_all(&body[..], 3).unwrap())] {
        let (status, answer) = post(&server, Some(encoding), encoded).await;
        assert_eq!((status, &answer["metrics"]), (StatusCode::OK, &plain["metrics"]), "{encoding}");
    }
}

#[tokio::test]
async fn bombs_are_refused_and_take_no_memory() {
    let server = Server::start(&[]).await;
    server.verify("good", &[sequence()]).await;
    let resident = async || series(&server.metrics().await, "process_resident_memory_bytes", &[]);
    let before = resident().await;
    let spaces = vec![b' '; 1 << 30];
    let bombs = [("gzip", gzip(&spaces)), ("zstd", zstd::encode_all(&spaces[..], 1).unwrap())];
    drop(spaces);
    for _ in 0..3 {
        for (encoding, bomb) in &bombs {
            assert!(bomb.len() < (1 << 30) / 900);
            let (status, problem) = post(&server, Some(encoding), bomb.clone()).await;
            assert_eq!(
                (status, &problem["code"]),
                (StatusCode::PAYLOAD_TOO_LARGE, &json!("compression_ratio")),
                "{encoding}"
            );
        }
    }
    let deep = format!(r#"{{"run":"r","engine":"vllm","exchanges":[{{"request":{}}}]}}"#, "[".repeat(100_000));
    assert_eq!(post(&server, None, deep.into_bytes()).await.0, StatusCode::BAD_REQUEST);
    let closed = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let closed = format!(r#"{{"run":"r","engine":"vllm","exchanges":[{{"request":{closed},"response":{{}}}}]}}"#);
    let (status, problem) = post(&server, None, closed.into_bytes()).await;
    assert_eq!((status, &problem["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("too_deep")));
    // A million of the smallest ones that fit a body: what is no sequence ends the reading at once, what is one is counted.
    let many = format!(r#"{{"run":"r","engine":"vllm","sequences":[{}{{}}]}}"#, "{},".repeat(1_000_000));
    assert_eq!(post(&server, None, many.into_bytes()).await.1["code"], "missing_field");
    let one = r#"{"prompt_token_ids":[1],"completion_token_ids":[7],"logprobs":[-1]}"#;
    let many = format!(r#"{{"run":"r","engine":"vllm","sequences":[{}{one}]}}"#, format!("{one},").repeat(400_000));
    let (status, problem) = post(&server, None, many.into_bytes()).await;
    assert_eq!((status, &problem["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("too_many_sequences")));
    let ids = json!({"run": "r", "engine": "vllm", "sequences": [{"prompt_token_ids": [u64::MAX], "completion_token_ids": [7],
        "logprobs": [-1.0]}]});
    assert_eq!(post(&server, None, ids.to_string().into_bytes()).await.1["code"], "token_out_of_vocabulary");
    let after = resident().await;
    assert!(after - before < (160 << 20) as f64, "memory grew from {before} to {after}");
    assert_eq!(series(&server.metrics().await, "plumbline_body_bytes", &[]), 0.0);
    server.verify("good", &[sequence()]).await;
}

#[tokio::test]
async fn slow_and_half_open_connections_keep_nobody_out() {
    let server = Server::start(&["--max-connections", "200"]).await;
    let address = server.url.strip_prefix("http://").unwrap().to_owned();
    let starts = [
        "",
        "POST /v1/verif",
        "POST /v1/verifications HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 10000000\r\n\r\n{\"run\":",
        "POST /v1/verifications HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"run",
    ];
    let mut held = Vec::new();
    for index in 0..500 {
        let mut stream = TcpStream::connect(&address).unwrap();
        // The server may have closed it already, which is what this is about.
        let _ = stream.write_all(starts[index % starts.len()].as_bytes());
        held.push(stream);
        if index % 100 == 99 {
            server.verify("good", &[sequence()]).await;
        }
    }
    // Who was told to leave counts until it is gone.
    let few = async {
        while series(&server.metrics().await, "plumbline_connections", &[]) > 200.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, few).await.expect("evicted connections do not go");
    assert!(series(&server.metrics().await, "plumbline_connections_closed_total", &["reason=\"evicted\""]) >= 290.0);
    server.verify("good", &[sequence()]).await;
    server.signal("TERM");
    assert_eq!(server.exit_status().await.code(), Some(0));
}
