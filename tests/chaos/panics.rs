//! A model that panics on one chosen sequence. Its neighbours in the batch do not notice.

use std::sync::Arc;

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

use crate::process::{Command, ready};
use crate::rng::Rng;
use crate::support::client;
use crate::work::sequence;

/// Ids in a row on which the model panics.
const CHOSEN: [u32; 3] = [7, 2, 9];

/// Sequences of one volley; one of them is the chosen one.
const VOLLEY: usize = 24;

fn request(sequence: &Value) -> Value {
    json!({"run": "panics", "engine": "vllm", "sequences": [sequence], "include": ["tokens"]})
}

fn chosen(id: &str, rng: &mut Rng) -> Value {
    let mut sequence = sequence(id, rng);
    sequence["completion_token_ids"] = json!([3, CHOSEN[0], CHOSEN[1], CHOSEN[2]]);
    sequence["logprobs"] = json!([-1.0, -1.0, -1.0, -1.0]);
    sequence
}

async fn post(client: &Client, url: &str, body: &Value) -> (StatusCode, Value) {
    let response = client.post(format!("{url}/v1/verifications")).json(body).send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

/// Sends all at once and gives the answers in order.
async fn volley(client: &Client, url: &str, sequences: &Arc<Vec<Value>>) -> Vec<(StatusCode, Value)> {
    let posts: Vec<_> = (0..sequences.len())
        .map(|index| {
            let (client, url, sequences) = (client.clone(), url.to_owned(), Arc::clone(sequences));
            tokio::spawn(async move { post(&client, &url, &request(&sequences[index])).await })
        })
        .collect();
    let mut answers = Vec::new();
    for post in posts {
        answers.push(post.await.unwrap());
    }
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_chosen_sequence_fails() {
    let client = client();
    let mut rng = Rng::new(31);
    let tokens = CHOSEN.map(|id| id.to_string()).join(",");
    let (mut process, url) = Command::default().env("PLUMBLINE_FAULT_PANIC_ON_TOKENS", tokens).ready(&client).await;
    let (_sound, sound_url) = Command::default().ready(&client).await;
    for round in 0..6 {
        let mut sequences: Vec<Value> =
            (1..VOLLEY).map(|number| sequence(&format!("p{round}-{number}"), &mut rng)).collect();
        let place = rng.below(VOLLEY);
        sequences.insert(place, chosen(&format!("p{round}-chosen"), &mut rng));
        let sequences = Arc::new(sequences);
        let expected = volley(&client, &sound_url, &sequences).await;
        let answers = volley(&client, &url, &sequences).await;
        for (index, ((status, answer), (_, expected))) in answers.iter().zip(&expected).enumerate() {
            if index == place {
                assert_eq!(*status, StatusCode::INTERNAL_SERVER_ERROR, "{answer}");
                assert_eq!(answer["code"], "scoring_failed", "{answer}");
                assert!(answer["request_id"].is_string() && !answer.to_string().contains("panicked"), "{answer}");
                continue;
            }
            assert_eq!(*status, StatusCode::OK, "a neighbour of the chosen one failed: {answer}");
            assert_eq!(answer["sequences"], expected["sequences"], "a neighbour has other numbers");
        }
        // It may load its weights anew after several panics, and says so meanwhile.
        ready(&client, &url).await;
        assert!(process.lives());
    }
    process.terminate();
    assert_eq!(process.exit().await.code(), Some(0), "{:#?}", process.log());
}
