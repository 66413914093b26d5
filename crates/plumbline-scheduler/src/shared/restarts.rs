//! What follows the failures of a model.

use std::sync::Arc;
use std::time::{Duration, Instant};

use plumbline_core::ReferenceInfo;

use super::Shared;
use crate::SchedulerState;

impl Shared {
    /// A sequence alone made the model panic: it is refused for a while.
    pub(crate) fn quarantine(&self, digest: u64) {
        let (mut work, now) = (self.lock(), Instant::now());
        work.quarantine.hold(digest, now, self.config.quarantine);
        let held = work.quarantine.len(now);
        drop(work);
        self.observer.panicked(held);
    }

    /// Sequences that are refused because they made the model panic.
    pub(crate) fn quarantined(&self) -> usize {
        self.lock().quarantine.len(Instant::now())
    }

    /// A model thread begins to load its weights again. If no other one scores meanwhile, nothing new is admitted.
    pub(crate) fn restarting(&self, thread: usize) {
        let mut work = self.lock();
        work.admission.away(thread);
        let all_away = work.admission.all_away();
        self.state.send_if_modified(|state| {
            let stops = all_away && *state == SchedulerState::Ready;
            if stops {
                *state = SchedulerState::Restarting;
            }
            stops
        });
        drop(work);
        self.observer.restarted(None);
    }

    /// A model thread has loaded its weights again.
    pub(crate) fn restarted(&self, thread: usize, took: Duration) {
        let mut work = self.lock();
        work.admission.idle(thread);
        work.load_time = took;
        self.state.send_if_modified(|state| {
            let was_away = *state == SchedulerState::Restarting;
            if was_away {
                *state = SchedulerState::Ready;
            }
            was_away
        });
        drop(work);
        self.observer.restarted(Some(took));
    }

    /// A model thread could not load an old version again: work cannot ask for it any more.
    pub(crate) fn lost(&self, info: &Arc<ReferenceInfo>) {
        let work = self.lock();
        self.change_residents(&work, |residents| residents.retire_this(info));
        drop(work);
        self.released(info);
        self.wake.notify_all();
    }
}
