//! Reads what `tests/fixtures/metrics/make_expected.py` wrote.

use std::path::Path;

use plumbline_core::{LogprobsMode, Rollout, Sampling, TokenScores};
use plumbline_divergence::{SequenceComparison, compare};
use serde::Deserialize;
use serde_json::Value;

/// The recordings that were turned into cases, one case each.
pub(crate) const RECORDINGS: [&str; 4] = ["tiny-f32-raw", "tiny-bf16-raw", "tiny-bf16-stale", "smollm2-bf16-raw"];

#[derive(Deserialize)]
struct File {
    cases: Vec<Case>,
}

/// A set of sequences with the expected pooled values.
#[derive(Deserialize)]
pub(crate) struct Case {
    pub(crate) name: String,
    eos_token_ids: Vec<u32>,
    pub(crate) sequences: Vec<Sequence>,
    pub(crate) expected: Value,
}

/// One sequence with its own expected values.
#[derive(Deserialize)]
pub(crate) struct Sequence {
    id: String,
    prompt_token_ids: Vec<u32>,
    completion_token_ids: Vec<u32>,
    logprobs: Vec<Option<Logprob>>,
    loss_mask: Option<Vec<bool>>,
    reference: Vec<f64>,
    entropy: Vec<f64>,
    rank: Vec<u32>,
    eos_probability: Vec<f64>,
    pub(crate) expected: Value,
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Logprob {
    Finite(f64),
    /// `nan`, `inf` or `-inf`, which JSON has no numbers for.
    NonFinite(String),
}

/// The cases of one file.
pub(crate) fn cases(file: &str) -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/metrics").join(file);
    let text = std::fs::read_to_string(format!("{}.json", path.display())).unwrap();
    serde_json::from_str::<File>(&text).unwrap().cases
}

impl Case {
    /// Every sequence compared.
    pub(crate) fn comparisons(&self) -> Vec<SequenceComparison> {
        self.sequences.iter().map(|sequence| sequence.comparison(&self.eos_token_ids)).collect()
    }
}

impl Sequence {
    fn comparison(&self, eos_token_ids: &[u32]) -> SequenceComparison {
        let number = |logprob: &Logprob| match logprob {
            Logprob::Finite(value) => *value,
            Logprob::NonFinite(name) => name.parse().unwrap(),
        };
        let rollout = Rollout {
            id: self.id.clone(),
            prompt_token_ids: self.prompt_token_ids.clone(),
            completion_token_ids: self.completion_token_ids.clone(),
            logprobs: self.logprobs.iter().map(|logprob| logprob.as_ref().map(number)).collect(),
            loss_mask: self.loss_mask.clone(),
            sampling: Sampling::default(),
            logprobs_mode: LogprobsMode::Raw,
            finish_reason: None,
            policy_version: None,
            weight_versions: Vec::new(),
        };
        let scores = TokenScores {
            logprobs: self.reference.clone(),
            logprobs_in_mode: self.reference.clone(),
            entropy: self.entropy.clone(),
            rank: self.rank.clone(),
            eos_probability: self.eos_probability.clone(),
        };
        compare(&rollout, &scores, eos_token_ids).unwrap()
    }
}
