//! Every family and variant against Hugging Face in f64, on random weights and sequences longer than any window.

mod support;

use plumbline_core::ScoringSequence;
use serde_json::Value;
use support::{floats, ids, load, max_difference, repository, score};

/// Largest |logprob difference| allowed in f32; weights of standard deviation 0.2 make wrong maths show by far more.
const TOLERANCE: f64 = 1e-4;

#[test]
fn every_family_agrees_with_f64() {
    let mut problems = Vec::new();
    for name in [
        "llama",
        "llama-tied",
        "llama-bias",
        "llama-head-dim",
        "llama3-rope",
        "llama-linear-rope",
        "llama-sharded",
        "llama-bf16",
        "llama-f16",
        "qwen2",
        "qwen2-sliding",
        "qwen3",
        "qwen3-untied",
    ] {
        let folder = format!("tests/fixtures/models/{name}");
        let mut model = load(&folder);
        let expected: Value =
            serde_json::from_slice(&std::fs::read(repository(&folder).join("expected.json")).unwrap()).unwrap();
        let cases = expected["sequences"].as_array().unwrap();
        let sequences: Vec<_> = cases.iter().map(|case| ScoringSequence::all_tokens(ids(&case["token_ids"]))).collect();
        let difference = score(&mut model, &sequences)
            .iter()
            .zip(cases)
            .map(|(scores, case)| max_difference(&scores.logprobs, &floats(&case["logprobs"])))
            .fold(0.0, f64::max);
        println!("{name:24} {difference:.1e}");
        if !(difference <= TOLERANCE) {
            problems.push(format!("{name}: {difference:.1e}"));
        }
    }
    assert!(problems.is_empty(), "over {TOLERANCE:.0e}: {}", problems.join(", "));
}
