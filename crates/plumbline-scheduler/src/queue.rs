//! The waiting work: first in, first out, counted in tokens.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use plumbline_core::ScoringSequence;

use crate::reply::{Reply, SequenceOutcome};
use crate::{SchedulerConfig, ScoreError};

/// What a sequence costs in admission and in a batch.
pub(crate) fn cost(sequence: &ScoringSequence) -> usize {
    sequence.forward_tokens().max(1)
}

/// One waiting sequence.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) sequence: ScoringSequence,
    /// When it was admitted.
    pub(crate) since: Instant,
    tokens: usize,
    ticket: u64,
    index: usize,
    reply: Arc<Reply>,
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

/// All waiting sequences. Those of one submit are adjacent and tickets ascend from front to back.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    entries: VecDeque<Entry>,
    tokens: usize,
    next_ticket: u64,
}

impl Queue {
    pub(crate) fn amount(&self) -> Amount {
        Amount { tokens: self.tokens, sequences: self.entries.len() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Appends the sequences of one submit and returns the number of its ticket.
    pub(crate) fn push(&mut self, sequences: Vec<ScoringSequence>, reply: &Arc<Reply>, since: Instant) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        for (index, sequence) in sequences.into_iter().enumerate() {
            let tokens = cost(&sequence);
            self.tokens += tokens;
            self.entries.push_back(Entry { sequence, since, tokens, ticket, index, reply: Arc::clone(reply) });
        }
        ticket
    }

    /// Takes the next batch from the front; empty only if nothing waits.
    ///
    /// The first entry always goes, even above the budget; the first one after it that does not fit ends the batch.
    pub(crate) fn take_batch(&mut self, limits: &SchedulerConfig) -> Vec<Entry> {
        let mut batch = Amount::default();
        for entry in &self.entries {
            let full = batch.sequences >= limits.max_batch_sequences
                || batch.tokens.saturating_add(entry.tokens) > limits.max_batch_tokens;
            if batch.sequences > 0 && full {
                break;
            }
            batch.tokens += entry.tokens;
            batch.sequences += 1;
        }
        self.tokens -= batch.tokens;
        self.entries.drain(..batch.sequences).collect()
    }

    /// Removes what still waits of a ticket.
    pub(crate) fn cancel(&mut self, ticket: u64) -> Amount {
        let first = self.entries.partition_point(|entry| entry.ticket < ticket);
        let end = self.entries.partition_point(|entry| entry.ticket <= ticket);
        let tokens = self.entries.drain(first..end).map(|entry| entry.tokens).sum();
        self.tokens -= tokens;
        Amount { tokens, sequences: end - first }
    }

    /// Removes everything.
    pub(crate) fn take_all(&mut self) -> Vec<Entry> {
        self.tokens = 0;
        self.entries.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sequence(tokens: usize) -> ScoringSequence {
        ScoringSequence::all_tokens(vec![0; tokens + 1])
    }

    fn push(queue: &mut Queue, tokens: &[usize]) -> u64 {
        let (reply, _receiver) = Reply::new(tokens.len());
        queue.push(tokens.iter().copied().map(sequence).collect(), &Arc::new(reply), Instant::now())
    }

    fn batches(queue: &mut Queue, max_batch_tokens: usize, max_batch_sequences: usize) -> Vec<Vec<usize>> {
        let limits = SchedulerConfig { max_queue_tokens: usize::MAX, max_batch_tokens, max_batch_sequences };
        std::iter::from_fn(|| (!queue.is_empty()).then(|| queue.take_batch(&limits)))
            .map(|batch| batch.iter().map(|entry| entry.tokens).collect())
            .collect()
    }

    #[test]
    fn the_first_entry_that_does_not_fit_ends_the_batch() {
        let mut queue = Queue::default();
        push(&mut queue, &[4, 5, 2, 1]);
        assert_eq!(batches(&mut queue, 8, 10), [vec![4], vec![5, 2, 1]], "2 and 1 do not overtake 5");
    }

    #[test]
    fn a_sequence_above_the_budget_goes_alone() {
        let mut queue = Queue::default();
        push(&mut queue, &[1, 9, 1]);
        assert_eq!(batches(&mut queue, 4, 10), [vec![1], vec![9], vec![1]]);
    }

    #[test]
    fn the_number_of_sequences_is_bounded_too() {
        let mut queue = Queue::default();
        push(&mut queue, &[1, 1, 1]);
        assert_eq!(batches(&mut queue, 100, 2), [vec![1, 1], vec![1]]);
    }

    #[test]
    fn a_sequence_with_nothing_to_score_counts_one() {
        let mut queue = Queue::default();
        push(&mut queue, &[0, 0]);
        assert_eq!(queue.amount(), Amount { tokens: 2, sequences: 2 });
    }

    #[test]
    fn cancelling_takes_only_what_waits_of_one_ticket() {
        let mut queue = Queue::default();
        push(&mut queue, &[1]);
        let second = push(&mut queue, &[2, 3, 4]);
        push(&mut queue, &[5]);
        let limits = SchedulerConfig { max_queue_tokens: 100, max_batch_tokens: 3, max_batch_sequences: 9 };
        assert_eq!(queue.take_batch(&limits).len(), 2, "the first ticket and a part of the second have started");
        assert_eq!(queue.cancel(second), Amount { tokens: 7, sequences: 2 });
        assert_eq!(queue.cancel(second), Amount::default());
        assert_eq!(batches(&mut queue, 100, 100), [[5]]);
        assert_eq!(queue.amount(), Amount::default());
    }

    proptest! {
        /// Order is kept, nothing is lost, every batch is within its limits unless it is a single, and none could be longer.
        #[test]
        fn batches_partition_the_queue(
            tokens in prop::collection::vec(0usize..30, 0..60),
            max_tokens in 1usize..40,
            max_sequences in 1usize..10,
        ) {
            let mut queue = Queue::default();
            push(&mut queue, &tokens);
            let costs: Vec<usize> = tokens.iter().map(|&tokens| tokens.max(1)).collect();
            prop_assert_eq!(queue.amount().tokens, costs.iter().sum::<usize>());
            let batches = batches(&mut queue, max_tokens, max_sequences);
            prop_assert_eq!(batches.concat(), costs);
            prop_assert_eq!(queue.amount(), Amount::default());
            for batch in &batches {
                prop_assert!(batch.len() <= max_sequences);
                prop_assert!(batch.len() == 1 || batch.iter().sum::<usize>() <= max_tokens);
            }
            for pair in batches.windows(2) {
                prop_assert!(pair[0].len() == max_sequences || pair[0].iter().sum::<usize>() + pair[1][0] > max_tokens);
            }
        }
    }
}
