//! Why there is no answer.

use std::sync::Arc;
use std::time::Duration;

/// Why nothing of a submit was admitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The model is still being loaded.
    #[error("the reference model is still loading")]
    Loading,
    /// The model thread loads its weights again after the model failed. What was admitted is scored afterwards.
    #[error("the reference model is loading its weights again after a failure")]
    Restarting {
        /// How long that took the last time.
        retry_after: Duration,
    },
    /// The scheduler is shutting down, or has.
    #[error("the scheduler is draining and takes no new work")]
    Draining,
    /// A copy of the model could not be loaded, or its thread ended unexpectedly.
    #[error("the reference model is not available: {reason}")]
    Failed {
        /// What the loader or the panic said.
        reason: Arc<str>,
    },
    /// Too much is waiting already.
    #[error("the queue is full: {queued_tokens} of {limit} tokens are waiting")]
    QueueFull {
        /// Tokens that wait now.
        queued_tokens: usize,
        /// Most tokens that may wait.
        limit: usize,
        /// When there will be room, by the measured speed and after all who were told so before; whole seconds from 1 to
        /// 600. A place is kept for the same work, unless it is 600 or nothing is measured yet.
        retry_after: Duration,
    },
    /// Interactive work would take too long.
    #[error(
        "the answer would take {:.3} s, more than the {:.3} s that interactive work may take by what it takes alone",
        estimate.as_secs_f64(), bound.as_secs_f64()
    )]
    TooSlow {
        /// Estimated time to the answer.
        estimate: Duration,
        /// What it may be.
        bound: Duration,
        /// As for [`SubmitError::QueueFull`].
        retry_after: Duration,
    },
    /// A sequence made the model panic a while ago and is not tried again yet.
    #[error("sequence {index} made the reference model panic and is not tried again for {} s", retry_after.as_secs())]
    Quarantined {
        /// Which of the submitted sequences.
        index: usize,
        /// When it will be tried again.
        retry_after: Duration,
    },
    /// The submit alone is bigger than the queue: it could never be admitted.
    #[error("the sequences have {tokens} tokens together, the queue takes at most {limit}")]
    TooLarge {
        /// Tokens of the submit.
        tokens: usize,
        /// Most tokens that may wait of its class.
        limit: usize,
    },
    /// A sequence asks for a version of the weights that is not in memory.
    #[error("sequence {index} was sampled by policy version {policy_version:?}, which is not resident")]
    VersionUnavailable {
        /// Which of the submitted sequences.
        index: usize,
        /// The version that it asks for.
        policy_version: String,
    },
    /// A sequence is longer than the model's positions. Validation should have caught it.
    #[error("sequence {index} has {tokens} tokens, the limit is {limit} (sequences are never truncated)")]
    SequenceTooLong {
        /// Which of the submitted sequences.
        index: usize,
        /// Its length, prompt and completion together.
        tokens: usize,
        /// The model's positions.
        limit: usize,
    },
}

/// Why admitted sequences were not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScoreError {
    /// The deadline passed before all sequences were scored. Those that had not started never will be.
    #[error("the deadline passed before the sequences were scored")]
    DeadlineExceeded,
    /// The drain limit passed, or a model thread ended unexpectedly, before all sequences were scored.
    #[error("the scheduler stopped before the sequences were scored")]
    Stopped,
}

/// Why the model never became ready.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// Loading failed or panicked.
    #[error("the reference model could not be started: {reason}")]
    Failed {
        /// What the loader or the panic said.
        reason: Arc<str>,
    },
    /// The scheduler was told to drain.
    #[error("the scheduler was stopped")]
    Stopped,
}

/// Why a job beside scoring has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AsideError {
    /// There is no model to run it on: it is still loading, or the scheduler is ending.
    #[error("the reference model is not serving: it is loading or shutting down")]
    NotServing,
    /// Too many jobs wait already.
    #[error("{limit} jobs beside scoring are waiting already")]
    Full {
        /// Most jobs that may wait.
        limit: usize,
    },
    /// The scheduler drained, or a model thread ended unexpectedly, before the job ran.
    #[error("the scheduler stopped before the job ran")]
    Stopped,
    /// The job panicked; the model goes on serving.
    #[error("the job panicked: {0}")]
    Panicked(String),
}
