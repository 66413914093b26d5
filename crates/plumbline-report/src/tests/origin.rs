//! The metrics of the script that Plumbline began as, on the same rows.

use std::path::Path;

use serde_json::Value;

use super::{Sequence, collected, comparison, facts, json, token};

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::fs::read_to_string(root.join(path)).unwrap()
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

#[test]
fn a_report_has_the_origin_scripts_numbers() {
    let expected: Value = serde_json::from_str(&read("tests/fixtures/report/origin_metrics.json")).unwrap();
    let cases = expected["metrics"].as_object().unwrap();
    assert_eq!(cases.len(), 4);
    for (name, expected) in cases {
        let folder = if name.starts_with("tiny-bf16") {
            "crates/plumbline/assets/recordings"
        } else {
            "tests/fixtures/recordings"
        };
        let lines = |path: String| -> Vec<Value> {
            read(&path).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        };
        let engine = lines(format!("{folder}/{name}.jsonl"));
        let reference = lines(format!("tests/fixtures/recordings/{name}.ref.jsonl"));
        let sequences: Vec<_> = engine
            .iter()
            .zip(&reference)
            .map(|(engine, reference)| {
                assert_eq!(engine["id"], reference["id"]);
                let pairs = floats(&engine["logprobs"]).into_iter().zip(floats(&reference["f64"]));
                let tokens = pairs.map(|(engine, reference)| token(engine, reference)).collect();
                Sequence::new("vllm", comparison(engine["id"].as_str().unwrap(), tokens))
            })
            .collect();
        let json = json(&collected(&sequences).finish(facts(), None));
        let metrics = &json["engines"][0]["metrics"];
        for (ours, theirs) in [
            ("tokens", "n_tokens"),
            ("mae_logprob", "mae_logprob"),
            ("rmse_logprob", "rmse_logprob"),
            ("pearson_logprob", "pearson_r"),
            ("prob_diff_mean", "rollout_probs_diff_mean"),
            ("bernoulli_kl", "kl_divergence"),
            ("p99_abs_logprob", "p99_abs_logprob"),
        ] {
            let (ours, theirs) = (metrics[ours].as_f64().unwrap(), expected[theirs].as_f64().unwrap());
            // The script's formula of the Bernoulli KL cancels to about 1e-16.
            let tolerance = 1e-9 * theirs.abs() + 3e-16;
            assert!((ours - theirs).abs() <= tolerance, "{name}: {ours:e} is not the script's {theirs:e}");
        }
    }
}
