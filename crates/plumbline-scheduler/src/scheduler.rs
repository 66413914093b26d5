//! The handle that callers share.

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use plumbline_core::{ReferenceInfo, ReferenceModel, ScoringSequence};

use crate::restart::Load;
use crate::shared::Shared;
use crate::{Demand, Observer, SchedulerConfig, StartError, SubmitError, Ticket, model_thread};

/// Where the scheduler is in its life. It moves only forward, but for restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SchedulerState {
    /// The model is being loaded.
    Loading,
    /// Takes work.
    Ready,
    /// All model threads load their weights again after a failure; ready again afterwards.
    Restarting,
    /// Takes no new work and finishes what it has.
    Draining,
    /// The model threads have ended as asked.
    Stopped,
    /// A copy of the model could not be loaded, or a model thread ended unexpectedly.
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
        /// running batches (answered when their forwards end, if the process lives that long).
        ///
        /// [`ScoreError::Stopped`]: crate::ScoreError::Stopped
        sequences: usize,
    },
}

/// A cheap handle to the queue and the model threads. When the last one is dropped, the threads finish what was admitted
/// and end.
#[derive(Clone, Debug)]
pub struct Scheduler {
    handle: Arc<Handle>,
}

/// Tickets and the threads hold [`Shared`] too, so that the last handle is told apart from them by its own type.
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
    /// A limit of `config` is out of its range, or the thread could not be spawned.
    pub fn start<F, E>(config: SchedulerConfig, observer: Arc<dyn Observer>, load: F) -> io::Result<Self>
    where
        F: FnOnce() -> Result<Box<dyn ReferenceModel>, E> + Send + 'static,
        E: Display,
    {
        Self::start_copies(config, observer, vec![load])
    }

    /// Starts as many threads as there are `loads`. Each runs its own and then scores batches from the one queue with its
    /// own copy of the model, for instance one a device.
    ///
    /// The scheduler is ready when all copies are loaded; one that cannot be, or is not a copy of the others, fails it.
    ///
    /// # Errors
    /// There are no `loads`, a limit of `config` is out of its range, or a thread could not be spawned.
    pub fn start_copies<F, E>(config: SchedulerConfig, observer: Arc<dyn Observer>, loads: Vec<F>) -> io::Result<Self>
    where
        F: FnOnce() -> Result<Box<dyn ReferenceModel>, E> + Send + 'static,
        E: Display,
    {
        Self::start_all(config, observer, loads.into_iter().map(|load| (load, None)).collect())
    }

    /// [`Scheduler::start_copies`] with loads that the threads can run again: after a failure that stays in the device, and
    /// after [`SchedulerConfig::restart_after_panics`].
    ///
    /// # Errors
    /// As for [`Scheduler::start_copies`].
    pub fn start_restartable(
        config: SchedulerConfig,
        observer: Arc<dyn Observer>,
        loads: Vec<Load>,
    ) -> io::Result<Self> {
        let loads = loads.into_iter().map(|load| {
            let again = Arc::clone(&load);
            (move || load(), Some(again))
        });
        Self::start_all(config, observer, loads.collect())
    }

    fn start_all<F, E>(
        config: SchedulerConfig,
        observer: Arc<dyn Observer>,
        loads: Vec<(F, Option<Load>)>,
    ) -> io::Result<Self>
    where
        F: FnOnce() -> Result<Box<dyn ReferenceModel>, E> + Send + 'static,
        E: Display,
    {
        config.check()?;
        if loads.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is nothing to load a model with"));
        }
        let threads = loads.len();
        let shared = Arc::new(Shared::new(config, observer, threads));
        for (thread, (load, again)) in loads.into_iter().enumerate() {
            let own = Arc::clone(&shared);
            let builder = thread::Builder::new().name("plumbline-model".into());
            if let Err(error) = builder.spawn(move || model_thread::run(&own, thread, load, again)) {
                let reason: Arc<str> = format!("cannot start a model thread: {error}").into();
                // Tells the threads that did start that they wait for nothing.
                for missing in thread..threads {
                    shared.close(missing, SchedulerState::Failed { reason: Arc::clone(&reason) });
                }
                return Err(error);
            }
        }
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

    /// Waits until all copies of the model are loaded.
    ///
    /// # Errors
    /// [`StartError`] if loading failed or the scheduler no longer takes work.
    pub async fn ready(&self) -> Result<Arc<ReferenceInfo>, StartError> {
        let mut states = self.shared().watch();
        let waits = |state: &SchedulerState| matches!(state, SchedulerState::Loading | SchedulerState::Restarting);
        let state = match states.wait_for(|state| !waits(state)).await {
            Ok(state) => state.clone(),
            Err(_closed) => return Err(StartError::Stopped),
        };
        match (state, self.reference()) {
            (SchedulerState::Failed { reason }, _) => Err(StartError::Failed { reason }),
            (SchedulerState::Ready, Some(reference)) => Ok(reference),
            _ => Err(StartError::Stopped),
        }
    }

    /// [`Scheduler::submit_for`] nobody in particular.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was admitted then.
    pub fn submit(&self, sequences: Vec<ScoringSequence>) -> Result<Ticket, SubmitError> {
        self.submit_for(sequences, &Demand::default())
    }

    /// Admits all sequences or none. Never blocks. Those that name no version are all scored with the same, the current one.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was admitted then.
    pub fn submit_for(&self, sequences: Vec<ScoringSequence>, demand: &Demand) -> Result<Ticket, SubmitError> {
        self.shared().submit(sequences, demand)
    }

    /// Sequences that are refused for a while because they made the model panic.
    #[must_use]
    pub fn quarantined(&self) -> usize {
        self.shared().quarantined()
    }

    /// What waits, in tokens and in sequences.
    #[must_use]
    pub fn queued(&self) -> (usize, usize) {
        let amount = self.shared().queued();
        (amount.tokens, amount.sequences)
    }

    /// Measured speed over recent batches, exponentially weighted, of all model threads together; `None` before the first.
    #[must_use]
    pub fn tokens_per_second(&self) -> Option<f64> {
        self.shared().tokens_per_second()
    }

    /// Refuses new work, drops the jobs that wait, waits until everything admitted is answered and the model threads have ended, but no longer than
    /// `limit`; then what still waits is answered with [`ScoreError::Stopped`](crate::ScoreError::Stopped).
    ///
    /// While the model is loading nothing can have been admitted: returns at once, and the threads end when all have loaded.
    pub async fn drain(&self, limit: Duration) -> DrainOutcome {
        let shared = self.shared();
        shared.begin_drain();
        if shared.reference().is_none() {
            return DrainOutcome::Drained;
        }
        let mut alive = shared.watch_alive();
        let ended = alive.wait_for(|alive| *alive == 0);
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
