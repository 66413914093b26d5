//! Recognising work that comes again.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};

use plumbline_core::ScoringSequence;

/// Hashes what a forward does with a sequence. Keyed anew for each scheduler, so that nobody can make two sequences collide.
#[derive(Debug, Default)]
pub(crate) struct Digests(RandomState);

impl Digests {
    pub(crate) fn of(&self, sequence: &ScoringSequence) -> u64 {
        let mut hasher = self.0.build_hasher();
        sequence.token_ids.hash(&mut hasher);
        sequence.scored.hash(&mut hasher);
        sequence.policy_version.hash(&mut hasher);
        let processing = &sequence.processing;
        let numbers = [
            processing.temperature,
            processing.top_p,
            processing.min_p,
            processing.repetition_penalty,
            processing.presence_penalty,
            processing.frequency_penalty,
        ];
        numbers.map(f64::to_bits).hash(&mut hasher);
        (processing.top_k, processing.order).hash(&mut hasher);
        hasher.finish()
    }

    /// Of a whole submit.
    pub(crate) fn of_all(&self, digests: &[u64]) -> u64 {
        self.0.hash_one(digests)
    }
}
