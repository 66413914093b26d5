//! Many workers at once: everyone is answered, batches form, nothing is padded, and company changes no bit.

use serde_json::{Value, json};

use crate::support::{Server, recording, series};

/// 200 sequences of mixed length, cut from a recording.
fn sequences() -> Vec<Value> {
    let lines = recording("tiny-bf16-raw");
    (0..200)
        .map(|index| {
            let line = &lines[index % lines.len()];
            let full = line["logprobs"].as_array().unwrap().len();
            let len = 1 + (index * 37) % full;
            let cut = |key: &str| Value::from(line[key].as_array().unwrap()[..len].to_vec());
            json!({
                "id": format!("s{index}"),
                "prompt_token_ids": line["prompt_token_ids"],
                "completion_token_ids": cut("completion_token_ids"),
                "logprobs": cut("logprobs"),
            })
        })
        .collect()
}

/// Rows that a forward without padding needs: every token but the last, which is only a target.
fn forward_tokens(sequence: &Value) -> usize {
    let len = |key: &str| sequence[key].as_array().unwrap().len();
    len("prompt_token_ids") + len("completion_token_ids") - 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_hundred_concurrent_posts_equal_one_by_one_scoring() {
    let server = Server::start(&[]).await;
    let sequences = sequences();
    let alone = futures_in_order(&server, &sequences, 1).await;
    let before = server.metrics().await;
    let together = futures_in_order(&server, &sequences, 200).await;
    let after = server.metrics().await;

    assert_eq!(together.len(), 200);
    for (alone, together) in alone.iter().zip(&together) {
        // The whole answer for the sequence: every number of it, as printed in full.
        assert_eq!(alone["sequences"], together["sequences"]);
        assert_eq!(alone["metrics"], together["metrics"]);
    }
    let grown = |name: &str| series(&after, name, &[]) - series(&before, name, &[]);
    let (batches, scored) = (grown("plumbline_batch_sequences_count"), grown("plumbline_batch_sequences_sum"));
    assert_eq!(scored, 200.0);
    assert!(batches <= 150.0, "{batches} batches for 200 concurrent sequences");
    let tokens: usize = sequences.iter().map(forward_tokens).sum();
    let (computed, saved) = (grown("plumbline_batch_tokens_sum"), grown("plumbline_prefix_tokens_saved_total"));
    assert_eq!(computed + saved, tokens as f64, "padding, or work done twice");
    assert!(saved > 0.0, "sequences of one prompt share it");
}

/// Posts every sequence in a request of its own, `at_once` at a time, and answers in the order of the sequences.
async fn futures_in_order(server: &Server, sequences: &[Value], at_once: usize) -> Vec<Value> {
    let mut answers = Vec::new();
    for group in sequences.chunks(at_once) {
        let tasks: Vec<_> = group
            .iter()
            .map(|sequence| {
                let (client, url) = (server.client.clone(), server.at("/v1/verifications"));
                let include = ["tokens", "importance_weights"];
                // Another run each time: the same request again would get the stored answer.
                let run = format!("{at_once} at once");
                let body = json!({"run": run, "engine": "vllm", "sequences": [sequence], "include": include});
                tokio::spawn(async move {
                    let response = client.post(url).json(&body).send().await.unwrap();
                    assert_eq!(response.status(), 200);
                    response.json::<Value>().await.unwrap()
                })
            })
            .collect();
        for task in tasks {
            answers.push(task.await.unwrap());
        }
    }
    answers
}
