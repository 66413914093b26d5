//! What a report says beside the measured numbers.

use std::collections::BTreeMap;

use plumbline_core::ReferenceInfo;
use plumbline_divergence::{ClusteredSums, Finding, NoiseFloor, SufficientStatistics, VerdictLevels};
use serde_json::{Map, Value};

/// Everything that a collector cannot know.
#[derive(Clone, Debug)]
pub struct Facts {
    /// What this is about, e.g. "vLLM 0.32 against Qwen3-4B".
    pub title: String,
    /// When it was made: RFC 3339, UTC. Shown as it is.
    pub created_at: String,
    /// The command line or request that made it, without secrets.
    pub command: Option<String>,
    /// The model that scored.
    pub reference: ReferenceInfo,
    /// How far a faithful bf16 engine would be from it; `None` = not measured.
    pub floor: Option<NoiseFloor>,
    /// What verdicts rest on.
    pub levels: VerdictLevels,
    /// By the engine's label; an engine that is missing has no facts.
    pub engines: BTreeMap<String, EngineFacts>,
    /// Engines against each other.
    pub cross: Vec<CrossComparison>,
    /// Causes of the run as a whole, the likeliest first.
    pub diagnosis: Vec<Finding>,
    /// What was read.
    pub inputs: Vec<InputFacts>,
    /// Sentences that a reader must see: interrupted, resumed, left out.
    pub notes: Vec<String>,
}

impl Facts {
    /// Facts with default levels and nothing else.
    #[must_use]
    pub fn new(title: impl Into<String>, created_at: impl Into<String>, reference: ReferenceInfo) -> Self {
        Self {
            title: title.into(),
            created_at: created_at.into(),
            command: None,
            reference,
            floor: None,
            levels: VerdictLevels::default(),
            engines: BTreeMap::new(),
            cross: Vec::new(),
            diagnosis: Vec::new(),
            inputs: Vec::new(),
            notes: Vec::new(),
        }
    }
}

/// What is known of an engine.
#[derive(Clone, Debug, Default)]
pub struct EngineFacts {
    /// Free JSON, shown as a table: versions, flags, served models; no credentials.
    pub facts: Map<String, Value>,
    /// Causes of the engine as a whole, the likeliest first.
    pub diagnosis: Vec<Finding>,
    /// Sequences that were not scored, by reason.
    pub not_scored: BTreeMap<String, u64>,
}

/// A file or a prompt set that was read.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct InputFacts {
    /// Its name.
    pub name: String,
    /// Sequences that were read from it.
    pub sequences: u64,
    /// Their completion tokens.
    pub tokens: u64,
    /// Records that could not be used, by reason.
    pub rejected: BTreeMap<String, u64>,
}

/// One engine's samples scored by another engine, teacher-forced: `e` is the sampler's logprob, `r` the scorer's, `d = r - e`.
#[derive(Clone, Debug)]
pub struct CrossComparison {
    /// Label of the engine that sampled.
    pub sampled_by: String,
    /// Label of the engine that scored.
    pub scored_by: String,
    /// Sums over all of the samples.
    pub statistics: SufficientStatistics,
    /// The same by sequence, for the intervals.
    pub clusters: ClusteredSums,
    /// What a reader must know of it.
    pub note: Option<String>,
}
