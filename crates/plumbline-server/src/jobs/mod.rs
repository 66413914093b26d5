//! Accepted verifications are worked on, one run's after another's, until they are answered or have failed.
//!
//! What is accepted is on disk. A job that is under way when the process ends is queued again at the next start.

mod backlog;
mod runner;
mod work;

use std::sync::Arc;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

pub(crate) use self::runner::run;

/// Jobs under way at a time: enough to fill batches with small ones.
const MAX_UNDER_WAY: u32 = 64;
/// Bytes on disk that count as one small job; a larger one counts as several, so that memory is bounded.
const UNIT_BYTES: u64 = 1 << 18;

/// What requests, the runner and the drain share.
#[derive(Debug)]
pub(crate) struct Jobs {
    wake: Notify,
    room: Arc<Semaphore>,
}

impl Default for Jobs {
    fn default() -> Self {
        Self { wake: Notify::new(), room: Arc::new(Semaphore::new(MAX_UNDER_WAY as usize)) }
    }
}

impl Jobs {
    /// Something was accepted.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Waits for room for a job of so many bytes.
    async fn room(&self, request_bytes: u64) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(1 + request_bytes / UNIT_BYTES).unwrap_or(MAX_UNDER_WAY).min(MAX_UNDER_WAY);
        Arc::clone(&self.room).acquire_many_owned(units).await.ok()
    }

    /// Waits until no job is under way. To be called when none is begun any more.
    pub(crate) async fn idle(&self) {
        // Closed is never: then there would be none under way either.
        drop(self.room.acquire_many(MAX_UNDER_WAY).await);
    }
}
