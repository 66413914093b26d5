//! The caller's end of a submit.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::ScoreError;
use crate::reply::{Answer, SequenceOutcome};
use crate::shared::Shared;

/// A claim on the outcomes of one submit. Dropping it cancels those of its sequences that have not started.
#[derive(Debug)]
#[must_use = "dropping a ticket cancels its sequences"]
pub struct Ticket {
    number: Option<u64>,
    receiver: oneshot::Receiver<Answer>,
    shared: Arc<Shared>,
}

impl Ticket {
    /// `number` is `None` where nothing was queued.
    pub(crate) fn new(number: Option<u64>, receiver: oneshot::Receiver<Answer>, shared: Arc<Shared>) -> Self {
        Self { number, receiver, shared }
    }

    /// Waits until all sequences have their outcome, in the order of the submit. Dropping the future cancels too.
    ///
    /// # Errors
    /// [`ScoreError`] if the scheduler ended first.
    pub async fn wait(mut self) -> Result<Vec<SequenceOutcome>, ScoreError> {
        match (&mut self.receiver).await {
            Ok(answer) => answer,
            Err(_closed) => Err(ScoreError::Stopped),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.shared.cancel(number);
        }
    }
}
