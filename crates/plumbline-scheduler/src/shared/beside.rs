//! Jobs beside scoring on their way to the model threads.

use std::time::{Duration, Instant};

use super::Shared;
use crate::aside::Job;
use crate::{AsideError, SchedulerState};

impl Shared {
    /// Lets a job wait for a model thread.
    ///
    /// # Errors
    /// The scheduler is not serving, or too many jobs wait; the job is dropped.
    pub(crate) fn submit_aside(&self, job: Box<dyn Job>) -> Result<(), AsideError> {
        let mut work = self.lock();
        if *self.state.borrow() != SchedulerState::Ready {
            return Err(AsideError::NotServing);
        }
        let (admitted, _dropped) = work.aside.push(job);
        drop(work);
        admitted.map_err(|limit| AsideError::Full { limit })?;
        // All: any of them may be the one that has time.
        self.wake.notify_all();
        Ok(())
    }

    /// A thread's batch took so long, with so many tokens in its forwards.
    pub(crate) fn scored_for(&self, thread: usize, elapsed: Duration, tokens: usize) {
        self.lock().aside.scored(thread, Instant::now(), elapsed, tokens);
    }

    /// A thread's job took so long, from its budget.
    pub(crate) fn spent_aside(&self, thread: usize, elapsed: Duration) {
        self.lock().aside.spent(thread, elapsed);
    }
}
