//! Every family and variant against Hugging Face in f64, on random weights and sequences longer than any window.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap in a test is a failed test")]

mod support;

use plumbline_core::{FloatType, ScoringSequence};
use serde_json::Value;
use support::{floats, ids, load_as, max_difference, repository, score};

#[test]
fn every_family_agrees_with_f64_in_f32() {
    // Weights of standard deviation 0.2 make wrong maths show by far more.
    check(FloatType::F32, 1e-4);
}

#[test]
fn every_family_agrees_with_f64_in_f64() {
    check(FloatType::F64, 1e-9);
}

/// Scores every variant in `dtype` and compares it with Hugging Face in f64.
fn check(dtype: FloatType, tolerance: f64) {
    let mut problems = Vec::new();
    for name in variants() {
        let folder = format!("tests/fixtures/models/{name}");
        let mut model = load_as(&folder, dtype);
        let expected: Value =
            serde_json::from_slice(&std::fs::read(repository(&folder).join("expected.json")).unwrap()).unwrap();
        let cases = expected["sequences"].as_array().unwrap();
        let sequences: Vec<_> = cases.iter().map(|case| ScoringSequence::all_tokens(ids(&case["token_ids"]))).collect();
        let difference = score(&mut model, &sequences)
            .iter()
            .zip(cases)
            .map(|(scores, case)| max_difference(&scores.logprobs, &floats(&case["logprobs"])))
            .fold(0.0, f64::max);
        eprintln!("{name:24} {difference:.1e}");
        if difference.is_nan() || difference > tolerance {
            problems.push(format!("{name}: {difference:.1e}"));
        }
    }
    assert!(problems.is_empty(), "over {tolerance:.0e}: {}", problems.join(", "));
}

/// Every folder of `tests/fixtures/models`.
fn variants() -> Vec<String> {
    let folder = repository("tests/fixtures/models");
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join("expected.json").is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(names.len() >= 30, "fixtures are missing: {names:?}");
    names
}

/// A configuration that leaves out `rope_theta` means its family's `default_theta`, as transformers 5.23 has it.
#[test]
fn a_rotary_base_that_is_left_out_is_the_familys() {
    for (variant, theta) in [
        ("llama", 10_000.0),
        ("cohere", 500_000.0),
        ("mixtral", 1_000_000.0),
        ("smollm3", 2_000_000.0),
        ("gemma3-text-legacy", 1_000_000.0),
    ] {
        let path = support::repository("tests/fixtures/models").join(variant).join("config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let keys = config.as_object_mut().unwrap();
        keys.remove("rope_theta");
        if let Some(parameters) = keys.get_mut("rope_parameters").and_then(serde_json::Value::as_object_mut) {
            parameters.remove("rope_theta");
        }
        let spec = plumbline_model::DecoderSpec::from_config_json(config.to_string().as_bytes()).unwrap();
        assert_eq!(spec.ropes[0].theta, theta, "{variant}");
    }
}
