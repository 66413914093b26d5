//! What a real vLLM recorded, over HTTP, against Hugging Face in f64.

use crate::support::{Server, floats, recording, reference, series};

/// The project's promise for f32 on CPU.
const TOLERANCE: f64 = 2e-5;

#[tokio::test]
async fn reference_and_metrics_agree_with_f64() {
    let server = Server::start(&[]).await;
    for name in ["tiny-f32-raw", "tiny-bf16-raw", "tiny-bf16-stale"] {
        let lines = recording(name);
        let answer = server.verify(name, &lines).await;
        let sequences = answer["sequences"].as_array().unwrap();
        assert_eq!(sequences.len(), lines.len());
        let mut log_ratios = Vec::new();
        for ((line, (id, expected)), sequence) in lines.iter().zip(reference(name)).zip(sequences) {
            assert_eq!(sequence["id"], id);
            let scored = floats(&sequence["tokens"]["reference_logprobs"]);
            assert_eq!(scored.len(), expected.len());
            for (scored, expected) in scored.iter().zip(&expected) {
                assert!((scored - expected).abs() <= TOLERANCE, "{id}: {scored} is not {expected}");
            }
            log_ratios.extend(expected.iter().zip(floats(&line["logprobs"])).map(|(r, e)| r - e));
        }
        let count = log_ratios.len() as f64;
        let metric = |key: &str| answer["metrics"][key].as_f64().unwrap();
        assert_eq!(metric("tokens"), count);
        let mae = log_ratios.iter().map(|d| d.abs()).sum::<f64>() / count;
        assert!((metric("mae_logprob") - mae).abs() <= TOLERANCE, "{name}: {} is not {mae}", metric("mae_logprob"));
        // The sign: reference minus engine.
        let mean = log_ratios.iter().sum::<f64>() / count;
        assert!((metric("log_ratio_mean") - mean).abs() <= TOLERANCE);
        let page = server.metrics().await;
        let gauge = series(&page, "plumbline_logprob_mae_nats", &[&format!("run=\"{name}\""), "engine=\"vllm\""]);
        assert!((gauge - metric("mae_logprob")).abs() <= 1e-9 * gauge, "{gauge}");
    }
}

/// Every body that vLLM answered posts as it is, and gives the numbers of the same completions normalised.
#[tokio::test]
async fn exchanges_give_the_numbers_of_their_twins() {
    let server = Server::start(&[]).await;
    for name in ["tiny-f32-raw", "tiny-bf16-raw", "tiny-bf16-stale", "tiny-f32-processed", "tiny-bf16-processed"] {
        let twins = server.verify(name, &recording(name)).await;
        let lines = recording(&format!("{name}.raw"));
        let body = serde_json::json!(
            {"run": format!("{name}-bodies"), "engine": "vllm", "exchanges": lines, "include": ["tokens"]}
        );
        let (status, answer) = server.post(&body).await;
        assert_eq!(status, 200, "{answer}");
        let own: std::collections::HashMap<&str, &serde_json::Value> = answer["sequences"]
            .as_array()
            .unwrap()
            .iter()
            .map(|sequence| (sequence["id"].as_str().unwrap(), sequence))
            .collect();
        let twins = twins["sequences"].as_array().unwrap();
        // The streamed body and that of /inference/v1/generate have no twin.
        let extra = if name.ends_with("processed") { 0 } else { 2 };
        assert_eq!(own.len(), twins.len() + extra, "{name}");
        for twin in twins {
            let own = own[twin["id"].as_str().unwrap()];
            assert_eq!(own["logprobs_mode"], twin["logprobs_mode"]);
            assert_eq!(own["verdict"], twin["verdict"]);
            assert_eq!(own["tokens"], twin["tokens"], "{name}: {}", twin["id"]);
            assert_eq!(own["metrics"], twin["metrics"], "{name}: {}", twin["id"]);
        }
    }
}

#[tokio::test]
async fn stale_weights_are_divergent_and_healthy_noise_is_not() {
    let server = Server::start(&[]).await;
    for (name, expected, other) in
        [("tiny-bf16-raw", "consistent", "divergent"), ("tiny-bf16-stale", "divergent", "consistent")]
    {
        let answer = server.verify(name, &recording(name)).await;
        let count = |verdict: &str| {
            answer["sequences"].as_array().unwrap().iter().filter(|sequence| sequence["verdict"] == verdict).count()
        };
        assert!(count(expected) >= 40, "{name}: {} {expected} of 47", count(expected));
        assert_eq!(count(other), 0, "{name}");
    }
}

/// What an engine reports after penalties, temperature, top-k, top-p and min-p is reproduced from nothing but its parameters.
#[tokio::test]
async fn processed_logprobs_are_reproduced() {
    let server = Server::start(&[]).await;
    for (name, tokens, largest_mae, largest) in
        [("tiny-f32-processed", 1818.0, 2e-5, 1e-3), ("tiny-bf16-processed", 1908.0, 1.5e-2, 0.3)]
    {
        let answer = server.verify(name, &recording(name)).await;
        assert_eq!(answer["logprobs_mode"], "processed");
        let metric = |key: &str| answer["metrics"][key].as_f64().unwrap();
        let mismatches = answer["skipped"]["support_mismatch"].as_f64().unwrap();
        // Rounding moves the edge of a nucleus; a token that falls out of it is counted, not clamped.
        assert_eq!(metric("tokens") + mismatches, tokens, "{name}");
        assert!(mismatches <= 8.0, "{name}: {mismatches} mismatches");
        assert!(metric("mae_logprob") <= largest_mae, "{name}: {}", metric("mae_logprob"));
        assert!(metric("max_abs_logprob") <= largest, "{name}: {}", metric("max_abs_logprob"));
        let page = server.metrics().await;
        let labels = [&format!("run=\"{name}\""), "reason=\"support_mismatch\""];
        assert_eq!(series(&page, "plumbline_tokens_skipped_total", &labels), mismatches);
        for sequence in answer["sequences"].as_array().unwrap() {
            assert_ne!(sequence["verdict"], "divergent", "{name}: {sequence}");
        }
    }
}

/// A token that the reference's own top-k leaves out has no log ratio.
#[tokio::test]
async fn a_token_outside_the_references_support_is_counted() {
    let server = Server::start(&[]).await;
    let mut lines = recording("tiny-f32-raw");
    lines.truncate(4);
    for line in &mut lines {
        line["logprobs_mode"] = "processed".into();
        line["sampling"] = serde_json::json!({"top_k": 1});
    }
    let answer = server.verify("narrow", &lines).await;
    let (mut kept, mut outside) = (0, 0);
    for sequence in answer["sequences"].as_array().unwrap() {
        let tokens = &sequence["tokens"];
        let columns = ["rank", "reference_logprobs", "log_ratio"].map(|key| tokens[key].as_array().unwrap());
        for ((rank, reference), log_ratio) in columns[0].iter().zip(columns[1]).zip(columns[2]) {
            if rank == 0 {
                kept += 1;
                assert!(reference.as_f64().unwrap().abs() < 1e-9, "the only kept token is certain, not {reference}");
            } else {
                outside += 1;
                assert!(reference.is_null() && log_ratio.is_null());
            }
        }
    }
    assert!(kept > 10 && outside > 10, "{kept} {outside}");
    assert_eq!(answer["skipped"]["support_mismatch"], outside);
    assert_eq!(answer["metrics"]["tokens"], kept);
}

#[tokio::test]
async fn a_run_shows_what_is_wrong_with_its_engine() {
    let server = Server::start(&[]).await;
    let get = async |path: &str| -> serde_json::Value {
        server.client.get(server.at(path)).send().await.unwrap().json().await.unwrap()
    };
    for (name, verdict) in [("tiny-bf16-raw", "consistent"), ("tiny-bf16-stale", "divergent")] {
        let lines = recording(name);
        let answer = server.verify(name, &lines).await;
        let run = get(&format!("/v1/runs/{name}")).await;
        let engine = &run["engines"][0];
        assert_eq!(engine["verdict"], verdict, "{}", engine["verdict_reason"]);
        assert_eq!(engine["metrics"]["tokens"], answer["metrics"]["tokens"]);
        let mae = answer["metrics"]["mae_logprob"].as_f64().unwrap();
        let interval = &engine["metrics"]["mae_logprob_ci95"];
        let (low, high) = (interval["low"].as_f64().unwrap(), interval["high"].as_f64().unwrap());
        assert!(0.5 * mae < low && low < mae && mae < high && high < 1.5 * mae, "{low} to {high}");
        let longest = get(&format!("/v1/runs/{name}/sequences?sort=length&limit=1")).await["sequences"][0].clone();
        let longest_line = lines.iter().map(|line| floats(&line["logprobs"]).len()).max().unwrap();
        assert_eq!(longest["length"], longest_line);
        let tokens = get(&format!("/v1/sequences/{}", longest["id"].as_str().unwrap())).await["tokens"].clone();
        assert_eq!(tokens.as_array().unwrap().len(), longest_line);
    }
}

/// Numbers after all kinds of processing, stated as raw: each rollout names what was done to its own numbers.
#[tokio::test]
async fn processing_that_was_not_stated_is_named() {
    let server = Server::start(&[]).await;
    let expected = |sampling: &serde_json::Value| -> &[&str] {
        let set = |key: &str, neutral: f64| sampling[key].as_f64().is_some_and(|value| value != neutral);
        if set("repetition_penalty", 1.0) || set("presence_penalty", 0.0) || set("frequency_penalty", 0.0) {
            &["penalties_applied"]
        } else if set("temperature", 1.0) && set("top_p", 1.0) {
            &["temperature_applied", "top_p_renormalised", "top_k_renormalised"]
        } else if set("temperature", 1.0) {
            &["temperature_applied"]
        } else if set("top_p", 1.0) {
            &["top_p_renormalised"]
        } else if set("min_p", 0.0) {
            &["min_p_renormalised"]
        } else {
            &["top_k_renormalised"]
        }
    };
    for name in ["tiny-f32-processed", "tiny-bf16-processed"] {
        let mut lines = recording(name);
        for line in &mut lines {
            line["logprobs_mode"] = "raw".into();
        }
        let body = serde_json::json!({"run": name, "engine": "vllm", "sequences": lines, "include": ["diagnosis"]});
        let answer: serde_json::Value =
            server.client.post(server.at("/v1/verifications")).json(&body).send().await.unwrap().json().await.unwrap();
        let mut diagnosed = 0;
        for (line, sequence) in lines.iter().zip(answer["sequences"].as_array().unwrap()) {
            if sequence["verdict"] == "divergent" {
                diagnosed += 1;
                let first = &sequence["diagnosis"][0];
                let cause = first["cause"].as_str().unwrap();
                assert!(expected(&line["sampling"]).contains(&cause), "{name}: {} is {first}", line["sampling"]);
                assert!(first["explained"].as_f64().unwrap() > 0.8, "{name}: {first}");
            }
        }
        assert!(diagnosed >= 20, "{name}: {diagnosed}");
    }
}
