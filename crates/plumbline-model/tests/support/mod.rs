//! Helpers of this crate's integration tests.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::path::PathBuf;

use plumbline_core::{FloatType, PackedBatch, Processing, ReferenceModel, ScoringSequence, TokenScores};
use plumbline_model::{CandleReference, LoadOptions, ModelSource};
use serde_json::Value;

pub(crate) fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

pub(crate) fn load(folder: &str) -> CandleReference {
    load_as(folder, FloatType::F32)
}

pub(crate) fn load_as(folder: &str, dtype: FloatType) -> CandleReference {
    let options = LoadOptions { policy_version: "test".into(), dtype, head_dtype: dtype, ..LoadOptions::default() };
    ModelSource::Directory(repository(folder)).load(&options).unwrap()
}

pub(crate) fn tiny() -> CandleReference {
    load("crates/plumbline/assets/tiny/policy-2")
}

pub(crate) fn json_lines(path: &str) -> Vec<Value> {
    let path = repository(path);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The normalised recording of a name, wherever it lives.
pub(crate) fn recording(name: &str) -> Vec<Value> {
    let demo = format!("crates/plumbline/assets/recordings/{name}.jsonl");
    if repository(&demo).is_file() {
        json_lines(&demo)
    } else {
        json_lines(&format!("tests/fixtures/recordings/{name}.jsonl"))
    }
}

pub(crate) fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

pub(crate) fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

/// Prompt and completion of a recorded line, scored at its own temperature.
pub(crate) fn scoring_sequence(line: &Value) -> ScoringSequence {
    let mut token_ids = ids(&line["prompt_token_ids"]);
    let first = token_ids.len();
    token_ids.extend(ids(&line["completion_token_ids"]));
    let temperature = line["sampling"]["temperature"].as_f64().filter(|t| *t > 0.0).unwrap_or(1.0);
    ScoringSequence {
        scored: first..token_ids.len(),
        token_ids,
        prompt_tokens: first,
        processing: Processing::at_temperature(temperature),
        policy_version: None,
    }
}

/// The same in the mode that the recording says, processed as vLLM does.
pub(crate) fn processed_sequence(line: &Value) -> ScoringSequence {
    let mode = serde_json::from_value(line["logprobs_mode"].clone()).unwrap();
    let sampling = serde_json::from_value(line["sampling"].clone()).unwrap();
    ScoringSequence { processing: Processing::of(mode, &sampling).unwrap(), ..scoring_sequence(line) }
}

pub(crate) fn score(model: &mut CandleReference, sequences: &[ScoringSequence]) -> Vec<TokenScores> {
    model.score(&PackedBatch::pack(sequences)).unwrap().sequences
}

pub(crate) fn max_difference(ours: &[f64], theirs: &[f64]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// The bits of everything that was scored: equal only if every number is the same to the last digit.
pub(crate) fn bits(scores: &TokenScores) -> Vec<u64> {
    let floats = [&scores.logprobs, &scores.logprobs_in_mode, &scores.entropy, &scores.eos_probability];
    floats.into_iter().flatten().map(|x| x.to_bits()).chain(scores.rank.iter().map(|r| u64::from(*r))).collect()
}
