//! The one place where work enters the scheduler.

use plumbline_core::ScoringSequence;
use plumbline_scheduler::{SubmitError, Ticket};
use plumbline_store::Class;

use crate::body::{Origin, Verification};
use crate::problem::{Code, Problem};
use crate::state::{AppState, draining, loading, reference_failed};

/// On what terms work is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Whether somebody waits for it.
    pub(crate) class: Class,
}

impl Terms {
    /// Of a request that is answered at once.
    pub(crate) fn interactive() -> Self {
        Self { class: Class::Interactive }
    }

    /// Of what nobody waits for.
    pub(crate) fn bulk() -> Self {
        Self { class: Class::Bulk }
    }
}

/// Submits the work of a verification, all of it or none.
///
/// # Errors
/// 429 while the queue is full, 503 while nothing is taken, 413 and 422 for what never will be.
pub(super) fn admit(
    state: &AppState,
    verification: &Verification,
    work: Vec<ScoringSequence>,
    terms: &Terms,
) -> Result<Ticket, Problem> {
    state.scheduler.submit(work).map_err(|refused| {
        tracing::debug!(run = verification.run, class = terms.class.as_str(), %refused, "not admitted");
        let detail = refused.to_string();
        match refused {
            SubmitError::Loading => loading(),
            SubmitError::Draining => draining(),
            SubmitError::Failed { reason } => reference_failed(&reason),
            SubmitError::QueueFull { retry_after, .. } => {
                Problem::new(Code::QueueFull, detail).retry_after(retry_after)
            }
            SubmitError::TooLarge { .. } => {
                Problem::new(Code::RequestTooLarge, format!("{detail}; send fewer sequences at a time"))
            }
            // It left between the look and the submit.
            SubmitError::VersionUnavailable { .. } => Problem::new(Code::PolicyVersionUnavailable, detail),
            SubmitError::SequenceTooLong { index, .. } => {
                let pointer = origin_of(verification, index).map(|origin| origin.pointer("/completion_token_ids"));
                Problem::field(Code::SequenceTooLong, pointer.unwrap_or_default(), detail)
            }
        }
    })
}

/// What a piece of the work was read from: a rollout has one for each version of the weights that sampled it.
fn origin_of(verification: &Verification, piece: usize) -> Option<&Origin> {
    let pieces = verification.rollouts.iter().zip(&verification.origins);
    pieces.flat_map(|(rollout, origin)| rollout.versions().into_iter().map(move |_| origin)).nth(piece)
}
