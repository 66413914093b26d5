//! Sequences that share their prompt.

use std::hash::{DefaultHasher, Hash, Hasher};

use plumbline_core::{MIN_SHARED_TOKENS, ScoringSequence};

/// Sequences with the same prompt, as an RL group has them. Prompts too short to be shared make no group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// Hash of the prompt. Two prompts with one hash would only be batched together for nothing.
    pub(crate) hash: u64,
    /// Rows of the prompt.
    tokens: usize,
}

impl Group {
    pub(crate) fn of(sequence: &ScoringSequence) -> Option<Self> {
        let tokens = sequence.scored.start.min(sequence.forward_tokens());
        if tokens < MIN_SHARED_TOKENS {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        sequence.token_ids[..tokens].hash(&mut hasher);
        Some(Self { hash: hasher.finish(), tokens })
    }

    /// Rows that a further member of the group saves at least. Other sequences can cut the shared run once more, and what
    /// is cut off is not shared if it is too short.
    pub(crate) fn saving(self) -> usize {
        self.tokens - (MIN_SHARED_TOKENS - 1)
    }
}
