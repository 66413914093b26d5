//! What a monitor can see of the scheduler.

use std::time::Duration;

use plumbline_core::{ModelError, ReferenceInfo, ScoreTiming};

use crate::{Class, Residents, SubmitError};

/// Receives what happens, for metrics. Every method does nothing unless it is overridden.
///
/// The methods are called from the model threads and from callers' threads, at the same time. They must be quick, must not panic and must not
/// call the scheduler: [`Observer::queue`], [`Observer::queue_of`] and [`Observer::residents`] run inside the queue's critical section.
pub trait Observer: Send + Sync + 'static {
    /// The waiting work after each change of the queue, in the order of the changes.
    fn queue(&self, tokens: usize, sequences: usize) {
        let _ = (tokens, sequences);
    }

    /// The waiting work of a class after each change of the queue, in the order of the changes.
    fn queue_of(&self, class: Class, tokens: usize, sequences: usize) {
        let _ = (class, tokens, sequences);
    }

    /// How long one sequence of a class waited, when its batch starts.
    fn queue_wait(&self, class: Class, wait: Duration) {
        let _ = (class, wait);
    }

    /// A submit of a class was refused.
    fn refused(&self, class: Class, error: &SubmitError) {
        let _ = (class, error);
    }

    /// A forward ended.
    fn batch(&self, batch: &BatchObservation) {
        let _ = batch;
    }

    /// A forward ran out of memory.
    fn out_of_memory(&self) {}

    /// A job beside scoring ended after so long.
    fn aside(&self, elapsed: Duration) {
        let _ = elapsed;
    }

    /// The weights were swapped, on all devices; `current` is the new version.
    fn swapped(&self, current: &ReferenceInfo) {
        let _ = current;
    }

    /// The versions in memory after each change.
    fn residents(&self, residents: &Residents) {
        let _ = residents;
    }

    /// These sequences had not started and are never scored.
    fn dropped(&self, reason: DropReason, sequences: usize, tokens: usize) {
        let _ = (reason, sequences, tokens);
    }

    /// A sequence alone made the model panic; `quarantined` are refused from now on.
    fn panicked(&self, quarantined: usize) {
        let _ = quarantined;
    }

    /// A model thread has loaded its weights again, which took so long; `None` = it begins to.
    fn restarted(&self, took: Option<Duration>) {
        let _ = took;
    }

    /// A batch failed because of `cause` and its two halves are now scored apart.
    fn batch_split(&self, sequences: usize, cause: &ModelError) {
        let _ = (sequences, cause);
    }
}

/// Why admitted sequences are never scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// Their caller left.
    Disconnected,
    /// Their deadline passed.
    Deadline,
    /// The drain limit passed, or a model thread ended unexpectedly.
    Stopped,
}

impl DropReason {
    /// All reasons.
    pub const ALL: [Self; 3] = [Self::Disconnected, Self::Deadline, Self::Stopped];

    /// Its name in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disconnected => "disconnected",
            Self::Deadline => "deadline",
            Self::Stopped => "stopped",
        }
    }
}

/// Observes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NullObserver;

impl Observer for NullObserver {}

/// One forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchObservation {
    /// Rows of the forward. A sequence with nothing to score has none.
    pub tokens: usize,
    /// Rows that were not computed because sequences shared them.
    pub saved_tokens: usize,
    /// Sequences of the batch.
    pub sequences: usize,
    /// Where the model says the time went; zero if it failed.
    pub timing: ScoreTiming,
    /// Wall time of packing and scoring, also of a failed batch.
    pub elapsed: Duration,
    /// Whether the batch as a whole failed.
    pub failed: bool,
}
