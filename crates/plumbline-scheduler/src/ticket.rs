//! The caller's end of a submit.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use crate::reply::{Answer, SequenceOutcome};
use crate::shared::Shared;
use crate::{DropReason, ScoreError};

/// A claim on the outcomes of one submit. Dropping it cancels those of its sequences that have not started.
#[derive(Debug)]
#[must_use = "dropping a ticket cancels its sequences"]
pub struct Ticket {
    number: Option<u64>,
    receiver: oneshot::Receiver<Answer>,
    deadline: Option<Instant>,
    /// Why the sequences that have not started by the time the ticket is dropped are cancelled.
    reason: DropReason,
    shared: Arc<Shared>,
}

impl Ticket {
    /// `number` is `None` where nothing was queued.
    pub(crate) fn new(
        number: Option<u64>,
        receiver: oneshot::Receiver<Answer>,
        deadline: Option<Instant>,
        shared: Arc<Shared>,
    ) -> Self {
        Self { number, receiver, deadline, reason: DropReason::Disconnected, shared }
    }

    /// Waits until all sequences have their outcome, in the order of the submit, but no longer than until the deadline.
    /// Dropping the future cancels too.
    ///
    /// # Errors
    /// [`ScoreError`] if the deadline passed or the scheduler ended first.
    pub async fn wait(mut self) -> Result<Vec<SequenceOutcome>, ScoreError> {
        let answer = match self.deadline {
            None => (&mut self.receiver).await,
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), &mut self.receiver).await {
                Ok(answer) => answer,
                Err(_elapsed) => {
                    self.reason = DropReason::Deadline;
                    return Err(ScoreError::DeadlineExceeded);
                }
            },
        };
        answer.unwrap_or(Err(ScoreError::Stopped))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.shared.cancel(number, self.reason);
        }
    }
}
