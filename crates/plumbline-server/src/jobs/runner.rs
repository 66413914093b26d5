//! Takes jobs from the store and starts them as there is room.

use std::sync::Arc;
use std::time::Duration;

use plumbline_store::{Store, StoreError};
use tokio::sync::OwnedSemaphorePermit;

use super::backlog::Backlog;
use super::work::work;
use crate::ledger::read;
use crate::state::AppState;

/// Jobs that are read from the store at a time.
const PAGE: usize = 1000;
/// Until the store is asked again after it could not be read.
const STORE_INTERVAL: Duration = Duration::from_secs(1);

/// Works on what is accepted until the server drains; then returns. What is under way by then goes on by itself.
pub(crate) async fn run(state: Arc<AppState>) {
    let Some(store) = state.ledger.store().cloned() else { return };
    let (mut backlog, mut drain) = (Backlog::default(), state.drain.clone());
    // What was accepted before this start.
    state.jobs.wake();
    loop {
        let next_bytes = backlog.next().map(|job| job.request_bytes);
        if *drain.borrow() {
            return;
        }
        // At random: neither a stream of new ones nor a long backlog keeps the other waiting.
        let event = tokio::select! {
            _ = drain.wait_for(|draining| *draining) => Event::Drain,
            () = state.jobs.wake.notified() => Event::Accepted,
            room = state.jobs.room(next_bytes.unwrap_or_default()), if next_bytes.is_some() => Event::Room(room),
        };
        match event {
            Event::Drain | Event::Room(None) => return,
            Event::Accepted => {
                if let Err(error) = take_in(&store, &mut backlog).await {
                    tracing::warn!(%error, "accepted verifications cannot be read");
                    tokio::time::sleep(STORE_INTERVAL).await;
                    state.jobs.wake();
                }
            }
            Event::Room(Some(room)) => {
                let Some(job) = backlog.pop() else { continue };
                let own = Arc::clone(&state);
                tokio::spawn(async move {
                    let _room = room;
                    work(&own, job).await;
                });
            }
        }
    }
}

/// What the runner waits for.
enum Event {
    Drain,
    Accepted,
    /// `None` is never: rooms are not closed.
    Room(Option<OwnedSemaphorePermit>),
}

/// Reads all jobs that are not known yet.
async fn take_in(store: &Arc<Store>, backlog: &mut Backlog) -> Result<(), StoreError> {
    loop {
        let after = backlog.last();
        let jobs = read(store, move |reader| reader.jobs(after, PAGE)).await?;
        let whole = jobs.len() < PAGE;
        jobs.into_iter().for_each(|job| backlog.push(job));
        if whole {
            return Ok(());
        }
    }
}
