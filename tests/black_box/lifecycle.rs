//! Start and stop.

use serde_json::{Value, json};

use crate::support::{Server, json_lines, plumbline, recording, repository, series};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sigterm_answers_what_was_admitted_and_exits_0() {
    let server = Server::start(&[]).await;
    let lines = recording("tiny-bf16-raw");
    let posts: Vec<_> = (0..8)
        .map(|number| {
            let (client, url) = (server.client.clone(), server.at("/v1/verifications"));
            let body = json!({"run": format!("drain-{number}"), "engine": "vllm", "sequences": lines});
            tokio::spawn(async move { client.post(url).json(&body).send().await })
        })
        .collect();
    // Posts are under way once more than the scrape itself is in flight.
    let under_way = loop {
        let in_flight = series(&server.metrics().await, "plumbline_requests_in_flight", &[]) as usize;
        if in_flight > 1 {
            break in_flight - 1;
        }
    };
    server.signal("TERM");
    let (mut answered, mut unanswered) = (0, Vec::new());
    for post in posts {
        // Either admitted and answered in full, or refused with a reason: never dropped half-way.
        let response = match post.await.unwrap() {
            Ok(response) => response,
            Err(error) => {
                unanswered.push(format!("{error:?}"));
                continue;
            }
        };
        answered += 1;
        let status = response.status().as_u16();
        let answer: Value = response.json().await.unwrap();
        match status {
            200 => assert_eq!(answer["sequences"].as_array().unwrap().len(), lines.len()),
            503 => assert_eq!(answer["code"], "draining"),
            other => panic!("{other}: {answer}"),
        }
    }
    assert!(answered >= under_way, "{under_way} posts were under way, {answered} were answered: {unanswered:#?}");
    assert_eq!(server.exit_status().await.code(), Some(0));
}

#[test]
fn a_model_that_cannot_be_loaded_ends_the_server_with_its_reason() {
    let directory = repository("tests/fixtures/recordings");
    let output = plumbline().args(["serve", "--listen", "127.0.0.1:0", "--model"]).arg(&directory).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("config.json"), "{stderr}");
}

#[tokio::test]
async fn a_folder_is_served_under_its_name_and_version() {
    let folder = repository("tests/fixtures/tiny/policy-1");
    let server = Server::start(&["--model", folder.to_str().unwrap(), "--policy-version", "41"]).await;
    let reference: Value = server.client.get(server.at("/v1/reference")).send().await.unwrap().json().await.unwrap();
    assert_eq!((reference["model"].as_str(), reference["policy_version"].as_str()), (Some("policy-1"), Some("41")));
    let stale = recording("tiny-bf16-stale");
    // The engine of this recording served policy-1: against policy-1 it is healthy.
    let answer = server.verify("policy-1", &stale).await;
    assert!(answer["metrics"]["mae_logprob"].as_f64().unwrap() < 0.02, "{}", answer["metrics"]);
    assert_eq!(json_lines("tests/fixtures/recordings/tiny-bf16-stale.ref.jsonl").len(), stale.len());
}
