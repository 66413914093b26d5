//! The handle that callers share.

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use plumbline_core::{ReferenceInfo, ReferenceModel, ScoringSequence};

use crate::shared::Shared;
use crate::{Observer, SchedulerConfig, StartError, SubmitError, Ticket, model_thread};

/// Where the scheduler is in its life. It moves only forward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SchedulerState {
    /// The model is being loaded.
    Loading,
    /// Takes work.
    Ready,
    /// Takes no new work and finishes what it has.
    Draining,
    /// The model thread has ended as asked.
    Stopped,
    /// The model could not be loaded, or its thread ended unexpectedly.
    Failed {
        /// What the loader or the panic said.
        reason: Arc<str>,
    },
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainOutcome {
    /// Everything admitted has been answered.
    Drained,
    /// The limit passed first.
    TimedOut {
        /// Sequences without an outcome: those that waited (their tickets resolve to [`ScoreError::Stopped`]) and those of
        /// the running batch (answered when its forward ends, if the process lives that long).
        ///
        /// [`ScoreError::Stopped`]: crate::ScoreError::Stopped
        sequences: usize,
    },
}

/// A cheap handle to the queue and the model thread. When the last one is dropped, the thread finishes what was admitted
/// and ends.
#[derive(Clone, Debug)]
pub struct Scheduler {
    handle: Arc<Handle>,
}

/// Tickets and the thread hold [`Shared`] too, so that the last handle is told apart from them by its own type.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

impl Scheduler {
    /// Starts the thread `plumbline-model`, which runs `load` and then scores what is submitted.
    ///
    /// Returns before the model is loaded; see [`Scheduler::ready`]. An error or a panic of `load` is kept as
    /// [`SchedulerState::Failed`].
    ///
    /// # Errors
    /// A limit of `config` is 0, or the thread could not be spawned.
    pub fn start<F, E>(config: SchedulerConfig, observer: Arc<dyn Observer>, load: F) -> io::Result<Self>
    where
        F: FnOnce() -> Result<Box<dyn ReferenceModel>, E> + Send + 'static,
        E: Display,
    {
        config.check()?;
        let shared = Arc::new(Shared::new(config, observer));
        let own = Arc::clone(&shared);
        thread::Builder::new().name("plumbline-model".into()).spawn(move || model_thread::run(&own, load))?;
        Ok(Self { handle: Arc::new(Handle { shared }) })
    }

    /// The present state.
    #[must_use]
    pub fn state(&self) -> SchedulerState {
        self.shared().state()
    }

    /// The current version of the resident model; `None` until it is loaded.
    #[must_use]
    pub fn reference(&self) -> Option<Arc<ReferenceInfo>> {
        self.shared().reference()
    }

    /// Waits until the model is loaded.
    ///
    /// # Errors
    /// [`StartError`] if loading failed or the scheduler no longer takes work.
    pub async fn ready(&self) -> Result<Arc<ReferenceInfo>, StartError> {
        let mut states = self.shared().watch();
        let state = match states.wait_for(|state| *state != SchedulerState::Loading).await {
            Ok(state) => state.clone(),
            Err(_closed) => return Err(StartError::Stopped),
        };
        match (state, self.reference()) {
            (SchedulerState::Failed { reason }, _) => Err(StartError::Failed { reason }),
            (SchedulerState::Ready, Some(reference)) => Ok(reference),
            _ => Err(StartError::Stopped),
        }
    }

    /// Admits all sequences or none. Never blocks. Those that name no version are all scored with the same, the current one.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was admitted then.
    pub fn submit(&self, sequences: Vec<ScoringSequence>) -> Result<Ticket, SubmitError> {
        self.shared().submit(sequences)
    }

    /// What waits, in tokens and in sequences.
    #[must_use]
    pub fn queued(&self) -> (usize, usize) {
        let amount = self.shared().queued();
        (amount.tokens, amount.sequences)
    }

    /// Measured speed over recent batches, exponentially weighted; `None` before the first.
    #[must_use]
    pub fn tokens_per_second(&self) -> Option<f64> {
        self.shared().tokens_per_second()
    }

    /// Refuses new work, waits until everything admitted is answered and the model thread has ended, but no longer than
    /// `limit`; then what still waits is answered with [`ScoreError::Stopped`](crate::ScoreError::Stopped).
    ///
    /// While the model is loading nothing can have been admitted: returns at once, and the thread ends when `load` returns.
    pub async fn drain(&self, limit: Duration) -> DrainOutcome {
        let shared = self.shared();
        shared.begin_drain();
        if shared.reference().is_none() {
            return DrainOutcome::Drained;
        }
        let mut states = shared.watch();
        let ended = states.wait_for(|state| matches!(state, SchedulerState::Stopped | SchedulerState::Failed { .. }));
        if tokio::time::timeout(limit, ended).await.is_ok() {
            return DrainOutcome::Drained;
        }
        match shared.abandon() {
            0 => DrainOutcome::Drained,
            sequences => DrainOutcome::TimedOut { sequences },
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.begin_drain();
    }
}
