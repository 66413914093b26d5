//! What is sent: short sequences, each of which exists once, in requests of every kind.

use serde_json::{Value, json};

use crate::rng::Rng;

/// Ids of the embedded model.
const VOCABULARY: usize = 2048;

/// Sequences of one request at most.
const MOST: usize = 4;

/// How a request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// JSON, answered with the result.
    Sync,
    /// JSON, accepted for later.
    Async,
    /// Newline-delimited JSON, answered with the results.
    Lines,
    /// Newline-delimited JSON, accepted for later.
    AsyncLines,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Sync, Self::Async, Self::Lines, Self::AsyncLines];

    pub(crate) fn is_async(self) -> bool {
        matches!(self, Self::Async | Self::AsyncLines)
    }

    pub(crate) fn is_lines(self) -> bool {
        matches!(self, Self::Lines | Self::AsyncLines)
    }
}

/// A request that is sent until it is acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) kind: Kind,
    pub(crate) key: Option<String>,
    pub(crate) run: String,
    pub(crate) sequences: Vec<Value>,
    /// Whether it is sent once more after it was acknowledged, as by a client that did not hear it.
    pub(crate) again: bool,
}

impl Item {
    pub(crate) fn body(&self) -> String {
        if !self.kind.is_lines() {
            return json!({"run": self.run, "engine": "vllm", "sequences": self.sequences}).to_string();
        }
        let lines = self.sequences.iter().map(|sequence| {
            let mut line = sequence.clone();
            line["run"] = self.run.as_str().into();
            line["engine"] = "vllm".into();
            format!("{line}\n")
        });
        lines.collect()
    }

    pub(crate) fn tokens(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence["logprobs"].as_array().unwrap().len()).sum()
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = &str> {
        self.sequences.iter().map(|sequence| sequence["id"].as_str().unwrap())
    }
}

/// Requests with so many sequences together, the same for the same seed.
pub(crate) fn items(sequences: usize, runs: usize, seed: u64) -> Vec<Item> {
    let mut rng = Rng::new(seed);
    let mut items = Vec::new();
    let mut made = 0;
    while made < sequences {
        let count = (1 + rng.below(MOST)).min(sequences - made);
        let kind = *rng.pick(&Kind::ALL);
        let own = (made..made + count).map(|number| sequence(&format!("s{number}"), &mut rng)).collect();
        made += count;
        items.push(Item {
            kind,
            key: (rng.below(2) == 0).then(|| format!("key-{seed}-{}", items.len())),
            run: format!("chaos-{}", rng.below(runs)),
            sequences: own,
            again: rng.below(10) == 0,
        });
    }
    items
}

/// A sequence that no other is like.
pub(crate) fn sequence(id: &str, rng: &mut Rng) -> Value {
    let (prompt, completion) = (3 + rng.below(8), 4 + rng.below(9));
    sequence_of(id, prompt, completion, rng)
}

pub(crate) fn sequence_of(id: &str, prompt: usize, completion: usize, rng: &mut Rng) -> Value {
    let ids = |length: usize, rng: &mut Rng| (0..length).map(|_| rng.below(VOCABULARY)).collect::<Vec<_>>();
    let (prompt, completion) = (ids(prompt, rng), ids(completion, rng));
    let logprobs: Vec<f64> = completion.iter().map(|_| -10.0 * rng.uniform() - 1e-3).collect();
    json!({"id": id, "prompt_token_ids": prompt, "completion_token_ids": completion, "logprobs": logprobs})
}
