//! What the demo replays: completions that a real vLLM 0.32 sampled from the embedded model, with its own logprobs.

use anyhow::Context;
use plumbline_divergence::Verdict;
use serde::Deserialize;
use serde_json::Value;

/// The engine's name in requests and labels.
pub(super) const ENGINE: &str = "vllm";

/// One part of the demo.
#[derive(Debug)]
pub(super) struct Phase {
    pub(super) title: &'static str,
    /// The `run` label: each phase has its own series in `/metrics`.
    pub(super) run: &'static str,
    pub(super) explanation: &'static str,
    pub(super) expected: Verdict,
    recording: &'static str,
}

/// The phases in order.
pub(super) const PHASES: &[Phase] = &[
    Phase {
        title: "healthy",
        run: "demo-healthy",
        explanation: "vLLM in bf16 with the policy's current weights: rounding noise",
        expected: Verdict::Consistent,
        recording: include_str!("../../assets/recordings/tiny-bf16-raw.jsonl"),
    },
    Phase {
        title: "stale weights",
        run: "demo-stale-weights",
        explanation: "the same engine after it missed a weight update: it still samples from the version before",
        expected: Verdict::Divergent,
        recording: include_str!("../../assets/recordings/tiny-bf16-stale.jsonl"),
    },
];

/// One recorded completion.
#[derive(Debug, Deserialize)]
struct Recorded {
    group: String,
    #[serde(flatten)]
    fields: serde_json::Map<String, Value>,
}

/// Fields of a recorded line that are a sequence of the API as they are.
const SEQUENCE_FIELDS: [&str; 7] =
    ["id", "prompt_token_ids", "completion_token_ids", "logprobs", "sampling", "logprobs_mode", "finish_reason"];

impl Phase {
    /// Request bodies, one for each prompt with all its completions, as a rollout worker would post them.
    pub(super) fn requests(&self) -> anyhow::Result<Vec<Value>> {
        let body = |sequences| serde_json::json!({"run": self.run, "engine": ENGINE, "sequences": sequences});
        Ok(self.groups()?.into_iter().map(body).collect())
    }

    /// The recorded sequences by prompt, in their order.
    pub(super) fn groups(&self) -> anyhow::Result<Vec<Vec<Value>>> {
        let mut groups: Vec<(String, Vec<Value>)> = Vec::new();
        for line in self.recording.lines() {
            let mut recorded: Recorded = serde_json::from_str(line).context("an embedded recording is damaged")?;
            let fields = SEQUENCE_FIELDS.iter().filter_map(|field| recorded.fields.remove_entry(*field));
            let sequence = Value::Object(fields.collect());
            match groups.last_mut() {
                Some((group, sequences)) if *group == recorded.group => sequences.push(sequence),
                _ => groups.push((recorded.group, vec![sequence])),
            }
        }
        Ok(groups.into_iter().map(|(_, sequences)| sequences).collect())
    }
}
