//! New weights beside the current ones: make room, load, hand over to the model threads.

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::thread;

use plumbline_core::{ReferenceInfo, ReferenceModel};
use tokio::sync::oneshot;

use crate::copies::{Difference, difference, joined};
use crate::model_thread::load_model;
use crate::residents::Residents;
use crate::restart::{Held, Load};
use crate::shared::{Arrival, Shared};
use crate::{Scheduler, SchedulerState};

/// Why the weights were not replaced. The current ones go on serving.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// There is no current model to replace: it is still loading, or the scheduler is ending.
    #[error("the reference model is not serving: it is loading or shutting down")]
    NotServing,
    /// Loading failed or panicked, or did not give the same version for each model thread.
    #[error("{0}")]
    Load(String),
    /// There must be one copy for each model thread.
    #[error("{given} copies of the weights for {threads} model threads")]
    Copies {
        /// Loads that were given.
        given: usize,
        /// Model threads.
        threads: usize,
    },
    /// What was loaded is not the same model with other weights.
    #[error("the checkpoint is another model: {field} is {found}, the resident model has {expected}")]
    OtherModel {
        /// What differs.
        field: &'static str,
        /// Of the checkpoint.
        found: String,
        /// Of the resident model.
        expected: String,
    },
    /// The new weights do not fit beside the current ones.
    #[error(
        "no room: new weights of {needed} bytes beside {held} bytes of current ones exceed the limit of {limit} bytes"
    )]
    NoRoom {
        /// Bytes of the new weights.
        needed: u64,
        /// Bytes of the current weights.
        held: u64,
        /// The configured limit.
        limit: u64,
    },
    /// The thread that loads could not be started.
    #[error("cannot start a thread to load with: {0}")]
    Thread(#[from] io::Error),
}

impl Scheduler {
    /// Replaces the current weights: loads new ones on a thread of their own while scoring goes on, and swaps between two
    /// batches. Work that was admitted before is scored with the version that it was admitted for.
    ///
    /// Updates run one after the other. A load that has begun is finished even if the caller leaves; then its result is
    /// dropped.
    ///
    /// # Errors
    /// [`UpdateError`]; the current weights go on serving.
    pub async fn update_weights<F, E>(&self, load: F) -> Result<Arc<ReferenceInfo>, UpdateError>
    where
        F: FnOnce() -> Result<Box<dyn ReferenceModel>, E> + Send + 'static,
        E: Display,
    {
        self.update_copies(vec![load]).await
    }

    /// [`Scheduler::update_weights`] of several model threads: one load for each, in their order. They run one after the
    /// other. The new version is the current one as soon as all threads have their copy.
    ///
    /// # Errors
    /// [`UpdateError`]; the current weights go on serving.
    pub async fn update_copies<F, E>(&self, loads: Vec<F>) -> Result<Arc<ReferenceInfo>, UpdateError>
    where
        F: FnOnce() -> Result<Box<dyn ReferenceModel>, E> + Send + 'static,
        E: Display,
    {
        self.update(loads.into_iter().map(|load| (load, None)).collect()).await
    }

    /// [`Scheduler::update_copies`] with loads that model threads can run again after a failure.
    ///
    /// # Errors
    /// [`UpdateError`]; the current weights go on serving.
    pub async fn update_restartable(&self, loads: Vec<Load>) -> Result<Arc<ReferenceInfo>, UpdateError> {
        let loads = loads.into_iter().map(|load| {
            let again = Arc::clone(&load);
            (move || load(), Some(again))
        });
        self.update(loads.collect()).await
    }

    async fn update<F, E>(&self, loads: Vec<(F, Option<Load>)>) -> Result<Arc<ReferenceInfo>, UpdateError>
    where
        F: FnOnce() -> Result<Box<dyn ReferenceModel>, E> + Send + 'static,
        E: Display,
    {
        let shared = self.shared();
        let (given, threads) = (loads.len(), shared.threads());
        if given != threads {
            return Err(UpdateError::Copies { given, threads });
        }
        // Travels with the load and then with its result: a second update must not begin before all threads have that.
        let turn = Arc::clone(&shared.updates).lock_owned().await;
        let current = serving(shared).await?;
        make_room(shared, &current).await?;
        let (sender, loaded) = oneshot::channel();
        thread::Builder::new().name("plumbline-load".into()).spawn(move || {
            let copies = loads
                .into_iter()
                .map(|(load, again)| load_model(load).map(|(model, info)| (Some(Held { model, again }), info)));
            let copies: Result<Vec<_>, String> = copies.collect();
            // Nobody listens any more if the caller left.
            drop(sender.send((copies, turn)));
        })?;
        let (result, turn) = loaded.await.map_err(|_| UpdateError::Load("the loading thread died".into()))?;
        let (copies, infos): (Vec<_>, Vec<_>) = result.map_err(UpdateError::Load)?.into_iter().unzip();
        let info = Arc::new(joined(&infos).map_err(UpdateError::Load)?);
        check_same_model(&current, &info)?;
        let (done, installed) = oneshot::channel();
        shared.hand_over(Arrival { info: Arc::clone(&info), copies, missing: threads, done, turn });
        installed.await.map_err(|_| UpdateError::NotServing)?;
        Ok(info)
    }

    /// The versions of the weights that are in memory.
    #[must_use]
    pub fn residents(&self) -> Residents {
        self.shared().residents()
    }

    /// Waits until `wanted` holds for the versions in memory; `None` if the scheduler ended first.
    pub async fn residents_when(&self, wanted: impl FnMut(&Residents) -> bool) -> Option<Residents> {
        let mut versions = self.shared().watch_residents();
        versions.wait_for(wanted).await.ok().map(|residents| residents.clone())
    }
}

async fn serving(shared: &Shared) -> Result<Arc<ReferenceInfo>, UpdateError> {
    let mut states = shared.watch();
    // Threads that load their weights again are there in a while.
    let settled = states.wait_for(|state| *state != SchedulerState::Restarting).await;
    match settled.map_err(|_| UpdateError::NotServing)?.clone() {
        SchedulerState::Ready => shared.reference().ok_or(UpdateError::NotServing),
        _ => Err(UpdateError::NotServing),
    }
}

/// Lets old versions go until another one of the current one's size fits.
async fn make_room(shared: &Shared, current: &ReferenceInfo) -> Result<(), UpdateError> {
    let limit = shared.config().max_weight_bytes;
    if limit == 0 {
        return Ok(());
    }
    let needed = current.weight_bytes;
    if needed.saturating_mul(2) > limit {
        return Err(UpdateError::NoRoom { needed, held: current.weight_bytes, limit });
    }
    shared.retire_until(limit - needed);
    let mut versions = shared.watch_residents();
    let fits = versions.wait_for(|residents| residents.weight_bytes() <= limit - needed);
    let mut states = shared.watch();
    tokio::select! {
        fits = fits => fits.map(|_| ()).map_err(|_| UpdateError::NotServing),
        _ = states.wait_for(|state| !matches!(state, SchedulerState::Ready | SchedulerState::Restarting)) => Err(UpdateError::NotServing),
    }
}

/// Weights of another model would be another ruler.
fn check_same_model(current: &ReferenceInfo, new: &ReferenceInfo) -> Result<(), UpdateError> {
    let device = (new.device != current.device).then(|| Difference {
        field: "device",
        found: new.device.clone(),
        expected: current.device.clone(),
    });
    match difference(current, new).or(device) {
        Some(Difference { field, found, expected }) => Err(UpdateError::OtherModel { field, found, expected }),
        None => Ok(()),
    }
}
