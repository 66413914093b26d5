//! Bodies that are more than they look. Each is refused for what it is, and costs little.

use std::io::Write;

use reqwest::Client;
use serde_json::{Value, json};

use crate::process::Command;
use crate::statistics::mebibytes;
use crate::support::client;

/// A body, how it is encoded, and the codes that it may be refused with.
struct Bomb {
    name: &'static str,
    encoding: Option<&'static str>,
    media: &'static str,
    body: Vec<u8>,
    codes: &'static [&'static str],
}

fn gzip(times: usize, unit: &[u8]) -> Vec<u8> {
    let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    (0..times).for_each(|_| to.write_all(unit).unwrap());
    to.finish().unwrap()
}

fn zstd(times: usize, unit: &[u8]) -> Vec<u8> {
    let mut to = zstd::Encoder::new(Vec::new(), 3).unwrap();
    (0..times).for_each(|_| to.write_all(unit).unwrap());
    to.finish().unwrap()
}

fn bombs() -> Vec<Bomb> {
    const JSON: &str = "application/json";
    let spaces = vec![b' '; 1 << 20];
    let plain = |name, body: Vec<u8>, codes| Bomb { name, encoding: None, media: JSON, body, codes };
    let packed = |name, encoding, body, codes| Bomb { name, encoding: Some(encoding), media: JSON, body, codes };
    let too_much: &[&str] = &["compression_ratio", "body_too_large"];
    let sequence = r#"{"prompt_token_ids":[],"completion_token_ids":[1],"logprobs":[-1]}"#;
    let sequences = |count: usize| {
        let all = format!("{sequence},").repeat(count);
        format!(r#"{{"run":"r","engine":"vllm","sequences":[{}]}}"#, all.trim_end_matches(',')).into_bytes()
    };
    let deep = |field: &str| {
        format!(r#"{{"run":"r","engine":"vllm","{field}":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000))
            .into_bytes()
    };
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep_response =
        format!(r#"{{"run":"r","engine":"vllm","exchanges":[{{"request":{{}},"response":{nested}}}]}}"#);
    let wide_id = json!({"run": "r", "engine": "vllm", "sequences": [
        {"prompt_token_ids": [u64::MAX], "completion_token_ids": [1], "logprobs": [-1]}]});
    let empty_sequences = format!(r#"{{"run":"r","engine":"vllm","sequences":[{}{{}}]}}"#, "{},".repeat(1_000_000));
    vec![
        packed("a gigabyte of spaces as gzip", "gzip", gzip(1024, &spaces), too_much),
        packed("a gigabyte of spaces as zstd", "zstd", zstd(1024, &spaces), too_much),
        packed("a gzip of a gzip", "gzip", gzip(1, &gzip(1024, &spaces)), &["malformed_json"]),
        packed(
            "a window of two gigabytes",
            "zstd",
            b"\x28\xb5\x2f\xfd\x04\xa8\x01\x00\x00".to_vec(),
            &["malformed_encoding", "compression_ratio", "body_too_large"],
        ),
        packed("no gzip at all", "gzip", b"{}".to_vec(), &["malformed_encoding"]),
        plain("sequences nested 10^5 deep", deep("sequences"), &["invalid_type", "too_deep", "malformed_json"]),
        plain("an unknown field nested 10^5 deep", deep("more"), &["unknown_field", "too_deep"]),
        plain(
            "a response nested 10^5 deep",
            deep_response.into_bytes(),
            &["too_deep", "invalid_value", "unknown_engine"],
        ),
        plain("10^6 empty sequences", empty_sequences.into_bytes(), &["missing_field", "too_many_sequences"]),
        plain("4 * 10^5 sequences", sequences(400_000), &["too_many_sequences"]),
        packed(
            "10^6 sequences as zstd",
            "zstd",
            zstd(1, &sequences(1_000_000)),
            &["too_many_sequences", "compression_ratio", "body_too_large"],
        ),
        plain("an id of 64 bits", wide_id.to_string().into_bytes(), &["token_out_of_vocabulary"]),
        Bomb {
            name: "10^6 lines",
            encoding: None,
            media: "application/x-ndjson",
            body: b"{}\n".repeat(1_000_000),
            codes: &["too_many_lines"],
        },
    ]
}

async fn send(client: &Client, url: &str, bomb: &Bomb) -> (u16, Value) {
    let mut request = client.post(format!("{url}/v1/verifications")).header("content-type", bomb.media);
    if let Some(encoding) = bomb.encoding {
        request = request.header("content-encoding", encoding);
    }
    let response = request.body(bomb.body.clone()).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bombs_are_refused_for_what_they_are() {
    let client = client();
    let (process, url) = Command::default().ready(&client).await;
    let bombs = bombs();
    let mut highest = 0;
    for bomb in &bombs {
        let (status, problem) = send(&client, &url, bomb).await;
        assert!((400..500).contains(&status), "{}: {status} {problem}", bomb.name);
        assert!(bomb.codes.contains(&problem["code"].as_str().unwrap()), "{}: {problem}", bomb.name);
        highest = highest.max(process.resident_bytes());
    }
    // All of them at once, several times.
    let before = process.resident_bytes();
    let bombs = std::sync::Arc::new(bombs);
    let volleys: Vec<_> = (0..4)
        .map(|_| {
            let (client, url, bombs) = (client.clone(), url.clone(), std::sync::Arc::clone(&bombs));
            tokio::spawn(async move {
                for bomb in bombs.iter() {
                    let (status, problem) = send(&client, &url, bomb).await;
                    assert!((400..500).contains(&status), "{}: {status} {problem}", bomb.name);
                }
            })
        })
        .collect();
    for volley in volleys {
        volley.await.unwrap();
    }
    let after = process.resident_bytes();
    println!(
        "resident: at most {:.0} MiB, {:.0} MiB before the volleys, {:.0} MiB after",
        mebibytes(highest),
        mebibytes(before),
        mebibytes(after)
    );
    assert!(after < before + (300 << 20), "memory grew from {before} to {after}");
    let good = json!({"run": "good", "engine": "vllm", "sequences": [
        {"prompt_token_ids": [5], "completion_token_ids": [7, 8], "logprobs": [-1.0, -1.0]}]});
    let response = client.post(format!("{url}/v1/verifications")).json(&good).send().await.unwrap();
    assert_eq!(response.status(), 200);
}
