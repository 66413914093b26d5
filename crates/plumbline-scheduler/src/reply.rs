//! Collecting the outcomes of one submit.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use plumbline_core::{ModelError, ReferenceInfo, ScoreTiming, TokenScores};
use tokio::sync::oneshot;

use crate::ScoreError;

/// What a ticket resolves to.
pub(crate) type Answer = Result<Vec<SequenceOutcome>, ScoreError>;

/// The outcome of one sequence, since one may fail alone.
pub type SequenceOutcome = Result<Scored, ModelError>;

/// One scored sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// One value per scored token.
    pub scores: TokenScores,
    /// The model that scored it.
    pub reference: Arc<ReferenceInfo>,
    /// How it went.
    pub course: Course,
}

/// When a sequence was scored, and in what company.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Course {
    /// When it was admitted.
    pub admitted: Instant,
    /// When its batch started.
    pub started: Instant,
    /// Where the model says the batch's time went.
    pub timing: ScoreTiming,
    /// Rows of the batch's forward.
    pub tokens: usize,
    /// Sequences of the batch.
    pub sequences: usize,
}

/// The answer to one submit under construction: sent when its last sequence has its outcome.
#[derive(Debug)]
pub(crate) struct Reply {
    slots: Mutex<Slots>,
    /// Whose it is in the log, whatever thread writes there.
    span: tracing::Span,
}

#[derive(Debug)]
struct Slots {
    outcomes: Vec<Option<SequenceOutcome>>,
    missing: usize,
    /// `None` once answered.
    sender: Option<oneshot::Sender<Answer>>,
}

impl Reply {
    /// A reply for `sequences` sequences and where it will arrive; without any, it has arrived.
    pub(crate) fn new(sequences: usize) -> (Self, oneshot::Receiver<Answer>) {
        let (sender, receiver) = oneshot::channel();
        let mut slots = Slots { outcomes: vec![None; sequences], missing: sequences, sender: Some(sender) };
        if sequences == 0 {
            slots.send(Ok(Vec::new()));
        }
        (Self { slots: Mutex::new(slots), span: tracing::Span::current() }, receiver)
    }

    /// Whose it is in the log.
    pub(crate) fn span(&self) -> &tracing::Span {
        &self.span
    }

    /// Fills a slot; the last one sends the answer. Each slot is filled once: its queue entry is consumed by it.
    pub(crate) fn fill(&self, index: usize, outcome: SequenceOutcome) {
        let mut slots = self.lock();
        if let Some(slot @ None) = slots.outcomes.get_mut(index) {
            *slot = Some(outcome);
            slots.missing -= 1;
        }
        if slots.missing == 0 {
            let outcomes = std::mem::take(&mut slots.outcomes).into_iter().flatten().collect();
            slots.send(Ok(outcomes));
        }
    }

    /// Gives the caller an error instead of outcomes.
    pub(crate) fn fail(&self, error: ScoreError) {
        self.lock().send(Err(error));
    }

    /// Whether nobody waits any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.lock().sender.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slots {
    fn send(&mut self, answer: Answer) {
        if let Some(sender) = self.sender.take() {
            // A closed channel means that the caller left: then nobody needs the answer.
            drop(sender.send(answer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(text: &str) -> SequenceOutcome {
        Err(ModelError::Device(text.into()))
    }

    #[test]
    fn answers_once_all_slots_are_filled_in_the_order_of_the_submit() {
        let (reply, mut receiver) = Reply::new(2);
        reply.fill(1, failed("second"));
        assert!(receiver.try_recv().is_err(), "one slot is still empty");
        assert!(!reply.is_abandoned());
        reply.fill(0, failed("first"));
        assert_eq!(receiver.try_recv().unwrap(), Ok(vec![failed("first"), failed("second")]));
    }

    #[test]
    fn an_error_comes_before_missing_outcomes_and_only_once() {
        let (reply, mut receiver) = Reply::new(2);
        reply.fill(0, failed("first"));
        reply.fail(ScoreError::Stopped);
        reply.fill(1, failed("late"));
        assert_eq!(receiver.try_recv().unwrap(), Err(ScoreError::Stopped));
        assert!(reply.is_abandoned());
    }

    #[test]
    fn a_dropped_receiver_is_noticed() {
        let (reply, receiver) = Reply::new(1);
        drop(receiver);
        assert!(reply.is_abandoned());
        reply.fill(0, failed("nobody hears"));
    }
}
