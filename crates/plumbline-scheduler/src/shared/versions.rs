//! Versions of the weights on their way into the model threads and out of them. Each thread has its own copy of a version.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use plumbline_core::ReferenceInfo;
use tokio::sync::{OwnedMutexGuard, oneshot};

use super::{Shared, Step, Work};
use crate::SchedulerState;
use crate::copies::joined;
use crate::residents::Residents;
use crate::restart::Held;

/// A loaded version on its way to the model threads.
pub(crate) struct Arrival {
    /// Of all copies together.
    pub(crate) info: Arc<ReferenceInfo>,
    /// The copy of each model thread; `None` once it has taken it.
    pub(crate) copies: Vec<Option<Held>>,
    /// Model threads that have not taken their copy yet, or are only just doing so.
    pub(crate) missing: usize,
    /// Told when new work is scored with it; dropped if it never will be.
    pub(crate) done: oneshot::Sender<()>,
    /// The next update begins when all threads have this one, whether or not its caller still waits.
    pub(crate) turn: OwnedMutexGuard<()>,
}

impl Shared {
    /// A model thread has loaded its first copy. Waits for the other threads' and returns the version's identity; then the
    /// scheduler is open, unless a drain began during the load.
    ///
    /// # Errors
    /// Why there will be no such version: the copies differ, or another thread has none.
    pub(crate) fn loaded(
        &self,
        thread: usize,
        info: ReferenceInfo,
        took: Duration,
    ) -> Result<Arc<ReferenceInfo>, String> {
        let mut work = self.lock();
        work.load_time = work.load_time.max(took);
        work.loaded[thread] = Some(info);
        if let Some(copies) = work.loaded.iter().cloned().collect::<Option<Vec<_>>>() {
            let info = Arc::new(joined(&copies)?);
            self.change_residents(&work, |residents| residents.add(Arc::clone(&info), self.config.keep_versions));
            self.state.send_if_modified(|state| {
                let loading = *state == SchedulerState::Loading;
                if loading {
                    *state = SchedulerState::Ready;
                }
                loading
            });
            drop(work);
            self.wake.notify_all();
            return Ok(info);
        }
        loop {
            if let SchedulerState::Failed { reason } = &*self.state.borrow() {
                return Err(format!("another copy of the model failed: {reason}"));
            }
            // There is no later version yet: it would need this thread.
            if let Some(first) = self.residents.borrow().current() {
                return Ok(Arc::clone(first));
            }
            work = self.wake.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A copy of a version that a model thread should drop or take before it scores again.
    pub(super) fn change_of_versions(
        &self,
        work: &mut Work,
        thread: usize,
        holds: impl Fn(&Arc<ReferenceInfo>) -> bool,
    ) -> Option<Step> {
        let residents = self.residents.borrow();
        if let Some(idle) = residents.leaving().iter().find(|info| holds(info) && !work.queue.needs(info)) {
            return Some(Step::Release(Arc::clone(idle)));
        }
        let arrival = work.arrival.as_mut()?;
        let copy = arrival.copies[thread].take()?;
        Some(Step::Install(Arc::clone(&arrival.info), copy))
    }

    /// Gives the model threads a loaded version; it is dropped if one of them has ended.
    pub(crate) fn hand_over(&self, arrival: Arrival) {
        let mut work = self.lock();
        let open = matches!(
            *self.state.borrow(),
            SchedulerState::Ready | SchedulerState::Restarting | SchedulerState::Draining
        );
        if open && *self.alive.borrow() == self.threads() {
            work.arrival = Some(arrival);
        }
        drop(work);
        self.wake.notify_all();
    }

    /// A model thread has its copy of the version that has arrived. With the last one it becomes the current version.
    pub(crate) fn installed(&self) {
        let mut work = self.lock();
        let Some(arrival) = work.arrival.as_mut() else { return };
        arrival.missing -= 1;
        if arrival.missing > 0 {
            return;
        }
        let Some(Arrival { info, done, turn, .. }) = work.arrival.take() else { return };
        self.change_residents(&work, |residents| residents.add(Arc::clone(&info), self.config.keep_versions));
        drop(work);
        // What leaves for it may be dropped by threads that are idle.
        self.wake.notify_all();
        tracing::info!(policy_version = info.policy_version, "the weights are swapped");
        self.observer.swapped(&info);
        drop(turn);
        // Nobody listens any more if the caller left.
        let _ = done.send(());
    }

    /// A model thread has dropped its copy of a leaving version. With the last one the version is no longer in memory.
    pub(crate) fn released(&self, info: &Arc<ReferenceInfo>) {
        let mut work = self.lock();
        let known = work.dropped.iter().position(|(version, _)| Arc::ptr_eq(version, info));
        let index = known.unwrap_or(work.dropped.len());
        if known.is_none() {
            work.dropped.push((Arc::clone(info), 0));
        }
        work.dropped[index].1 += 1;
        if work.dropped[index].1 == self.threads() {
            work.dropped.remove(index);
            self.change_residents(&work, |residents| residents.left(info));
        }
    }

    /// Takes out old versions until the rest has at most so many bytes, as far as that goes. What is taken out stays in
    /// memory until nothing waits for it.
    pub(crate) fn retire_until(&self, weight_bytes: u64) {
        let work = self.lock();
        self.change_residents(&work, |residents| {
            let kept = |residents: &Residents| residents.kept().iter().map(|info| info.weight_bytes).sum::<u64>();
            while kept(residents) > weight_bytes && residents.retire_oldest() {}
        });
        drop(work);
        self.wake.notify_all();
    }

    /// The lock keeps changes, and what the observer hears of them, in order.
    pub(super) fn change_residents(&self, _locked: &MutexGuard<'_, Work>, change: impl FnOnce(&mut Residents)) {
        self.residents.send_modify(change);
        self.observer.residents(&self.residents.borrow());
    }
}
