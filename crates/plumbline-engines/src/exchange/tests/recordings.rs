//! What vLLM 0.32 really answered, against the same completions normalised.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::*;

/// The folders with recordings.
fn folders() -> [PathBuf; 2] {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    [here.join("../../tests/fixtures/recordings"), here.join("../plumbline/assets/recordings")]
}

fn lines(name: &str) -> Vec<Value> {
    let path = folders().map(|folder| folder.join(name)).into_iter().find(|path| path.exists());
    let text = std::fs::read_to_string(path.unwrap_or_else(|| panic!("{name} is nowhere"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn recorded(line: &Value) -> Exchange {
    let mode = match line["logprobs_mode"].as_str().unwrap() {
        "raw_logprobs" => LogprobsMode::Raw,
        "processed_logprobs" => LogprobsMode::Processed,
        other => panic!("{other}"),
    };
    Exchange {
        id: line["id"].as_str().unwrap().into(),
        path: line["path"].as_str().map(str::to_owned),
        logprobs_mode: Some(mode),
        ..exchange(line["request"].clone(), line["response"].clone())
    }
}

/// Reads a recording and compares every rollout with its normalised twin. Gives the numbers of rollouts with and without one.
fn compare(name: &str) -> (usize, usize) {
    let mut twins: HashMap<String, Value> = lines(&format!("{name}.jsonl"))
        .into_iter()
        .map(|twin| (twin["id"].as_str().unwrap().to_owned(), twin))
        .collect();
    let (all, mut without) = (twins.len(), 0);
    for line in lines(&format!("{name}.raw.jsonl")) {
        let exchange = recorded(&line);
        let read = read(&exchange);
        assert_eq!(read.engine, EngineKind::Vllm);
        for own in read.rollouts {
            let rollout = own.rollout;
            let Some(twin) = twins.remove(&rollout.id) else {
                without += 1;
                continue;
            };
            assert_eq!(twin["prompt_token_ids"], json!(rollout.prompt_token_ids), "{}", rollout.id);
            assert_eq!(twin["completion_token_ids"], json!(rollout.completion_token_ids), "{}", rollout.id);
            assert_eq!(twin["logprobs"], json!(rollout.logprobs), "{}", rollout.id);
            assert_eq!(twin["finish_reason"], json!(rollout.finish_reason), "{}", rollout.id);
            assert_eq!(twin["logprobs_mode"], json!(rollout.logprobs_mode), "{}", rollout.id);
            assert_eq!(twin["group"], json!(exchange.id), "{}", rollout.id);
            let sampling: HashMap<String, f64> = serde_json::from_value(twin["sampling"].clone()).unwrap();
            let own = serde_json::to_value(rollout.sampling).unwrap();
            for (parameter, value) in own.as_object().unwrap() {
                let neutral = serde_json::to_value(Sampling::default()).unwrap()[parameter].as_f64();
                if parameter != "order" {
                    assert_eq!(
                        value.as_f64(),
                        sampling.get(parameter).copied().or(neutral),
                        "{} {parameter}",
                        rollout.id
                    );
                }
            }
            assert_eq!((rollout.policy_version, rollout.weight_versions.len()), (None, 0), "vLLM says default");
        }
    }
    assert_eq!(twins.len(), 0, "every twin was in an exchange");
    (all, without)
}

#[test]
fn recordings_read_as_their_twins() {
    let mut seen = Vec::new();
    for folder in folders() {
        for file in std::fs::read_dir(folder).unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            if let Some(name) = name.strip_suffix(".raw.jsonl") {
                // One streamed body and one of /inference/v1/generate stand in tiny's recordings in raw mode beside.
                let extra = if name.starts_with("tiny") && !name.ends_with("processed") { 2 } else { 0 };
                let (with_twin, without_twin) = compare(name);
                assert!(with_twin >= 20, "{name}");
                assert_eq!(without_twin, extra, "{name}");
                seen.push(name.to_owned());
            }
        }
    }
    seen.sort();
    let tiny = ["tiny-bf16-processed", "tiny-bf16-raw", "tiny-bf16-stale", "tiny-f32-processed", "tiny-f32-raw"];
    assert!(tiny.iter().all(|name| seen.iter().any(|own| own == name)), "{seen:?}");
}

#[test]
fn the_streamed_body_has_what_its_events_say() {
    let line = &lines("tiny-f32-raw.raw.jsonl")[13];
    let own = only(&recorded(line));
    let rollout = own.rollout;
    assert_eq!(rollout.prompt_token_ids, [380, 295, 81, 267, 314]);
    assert_eq!((rollout.completion_token_ids.len(), rollout.logprobs.len()), (12, 12));
    assert_eq!((rollout.completion_token_ids[0], rollout.completion_token_ids[11]), (1406, 533));
    assert_eq!((rollout.logprobs[0], rollout.logprobs[11]), (Some(-7.3351898193359375), Some(-2.2597241401672363)));
    assert_eq!(rollout.finish_reason.as_deref(), Some("length"));
}
