//! One waiting sequence, and what it counts.

use std::sync::Arc;
use std::time::Instant;

use plumbline_core::{ReferenceInfo, ScoringSequence};

use crate::group::Group;
use crate::reply::{Reply, SequenceOutcome};
use crate::{Class, ScoreError};

/// What a sequence costs in admission and in a batch.
pub(crate) fn cost(sequence: &ScoringSequence) -> usize {
    sequence.forward_tokens().max(1)
}

/// One waiting sequence.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) sequence: ScoringSequence,
    /// The version of the weights that it was admitted for.
    pub(crate) reference: Arc<ReferenceInfo>,
    /// When it was admitted.
    pub(crate) since: Instant,
    pub(crate) class: Class,
    pub(crate) run: Arc<str>,
    /// When it is no longer wanted.
    pub(crate) deadline: Option<Instant>,
    pub(crate) tokens: usize,
    /// Those that it shares its prompt with.
    pub(crate) group: Option<Group>,
    /// What it is recognised by when it comes again.
    pub(crate) digest: u64,
    pub(crate) index: usize,
    pub(crate) reply: Arc<Reply>,
}

impl Entry {
    /// Gives the caller this sequence's outcome.
    pub(crate) fn answer(self, outcome: SequenceOutcome) {
        self.reply.fill(self.index, outcome);
    }

    /// Gives the caller an error for its whole submit.
    pub(crate) fn fail(self, error: ScoreError) {
        self.reply.fail(error);
    }

    /// Whether the caller left.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.reply.is_abandoned()
    }
}

/// Tokens and sequences of a part of the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) tokens: usize,
    pub(crate) sequences: usize,
}

impl Amount {
    pub(crate) fn add(&mut self, entry: &Entry) {
        self.tokens += entry.tokens;
        self.sequences += 1;
    }
}
