//! The thread that writes.
//!
//! It takes everything that waits, writes it in one transaction and answers after the `COMMIT`: while one sync runs, the next
//! writes gather. Between transactions it keeps the file small, in short steps.

mod documents;
mod finish;
mod intake;
mod jobs;
mod operation;
mod transaction;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::{Duration, Instant};

use rusqlite::Connection;

pub(crate) use self::documents::keep;
pub(crate) use self::finish::{finish, new_digests};
pub(crate) use self::intake::{known, submit};
pub(crate) use self::jobs::{fail, recover, requeue, start};
pub(crate) use self::operation::{Operation, Scope, Write};
use crate::ages::Ages;
use crate::error::Failure;
use crate::health::Health;
use crate::retention::Trim;
use crate::schema::MOVE_LOG;
use crate::statistics::Counters;
use crate::{MergeSummaries, Retention, StoreError, StoreState};

/// Writes of one transaction at most: bounds how long the first one waits for the last.
const MAX_WRITES: usize = 256;
/// How often the file is looked after while nobody writes, and how often one that fails is tried.
const TICK: Duration = Duration::from_secs(2);

/// What the thread is told.
pub(crate) enum Message {
    Write(Box<dyn Operation>),
    Close,
}

/// Everything that the thread works with.
pub(crate) struct Writer {
    pub(crate) connection: Connection,
    pub(crate) path: PathBuf,
    pub(crate) retention: Retention,
    pub(crate) ages: Ages,
    pub(crate) summaries: Arc<dyn MergeSummaries>,
    pub(crate) health: Arc<Health>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) trim: Trim,
}

impl Writer {
    /// Works until it is told to close or nobody can tell it anything any more.
    pub(crate) fn run(mut self, messages: &Receiver<Message>) -> Result<(), StoreError> {
        // Also after a panic: nothing that is sent from then on is written.
        let _ended = Ended(Arc::clone(&self.health));
        let mut looked_after: Option<Instant> = None;
        loop {
            let wait = if self.trim.is_due(&self.bounds(), self.fill()) { Duration::ZERO } else { TICK };
            let (batch, closing) = gather(messages, wait);
            self.commit(batch);
            if closing {
                return self.close(messages);
            }
            if looked_after.is_none_or(|at| at.elapsed() >= TICK) {
                looked_after = Some(Instant::now());
                self.trim.tick(&self.retention);
                self.try_again();
            }
            if self.trim.is_due(&self.bounds(), self.fill())
                && let Err(error) = self.trim_step()
            {
                // The next tick tries again.
                self.trim.rest();
                self.health.failed(&error);
            }
        }
    }

    /// Writes a batch and answers everybody in it.
    fn commit(&mut self, mut batch: Vec<Box<dyn Operation>>) {
        if batch.is_empty() {
            return;
        }
        while self.bounds().limit_reached(self.fill()).is_some() && self.make_room() {}
        match self.try_commit(&mut batch) {
            Ok(()) => self.answer(batch, None),
            // Without room for all there may be room for each; no other error differs between writes.
            Err(StoreError::Full { .. }) => batch.into_iter().for_each(|operation| self.commit_alone(operation)),
            Err(error) => {
                self.health.failed(&error);
                self.answer(batch, Some(&error));
            }
        }
    }

    fn commit_alone(&mut self, operation: Box<dyn Operation>) {
        let bytes = operation.bytes();
        let mut alone = vec![operation];
        let error = loop {
            match self.try_commit(&mut alone) {
                Err(StoreError::Full { .. }) if self.bounds().is_in_the_way(self.fill(), bytes) && self.make_room() => {
                }
                done => break done.err(),
            }
        };
        if let Some(error) = &error {
            self.health.failed(error);
        }
        self.answer(alone, error.as_ref());
    }

    fn answer(&self, batch: Vec<Box<dyn Operation>>, error: Option<&StoreError>) {
        self.counters.waiting.fetch_sub(batch.len() as u64, Ordering::Relaxed);
        for operation in batch {
            // Before the answer: who has it may look at the numbers.
            if let (None, Some(own)) = (error, operation.refused()) {
                self.health.failed(own);
            }
            operation.answer(error.cloned());
        }
    }

    /// Whether a store that failed works by now.
    fn try_again(&mut self) {
        let state = self.health.state();
        if matches!(state, StoreState::Full { .. }) {
            // What the log holds may have room in the file, and the log's own room can be used again then. Where it cannot be
            // moved, the disk is as full as before, which the next write says.
            let _as_before = self.connection.execute_batch("PRAGMA wal_checkpoint(PASSIVE)");
        }
        if !state.is_ok() {
            match self.probe() {
                Ok(()) => self.health.succeeded(),
                Err(error) => self.health.failed(&error),
            }
        }
    }

    /// Removes some of what may go; whether there was any.
    fn make_room(&mut self) -> bool {
        self.trim.ask();
        while self.trim.is_asked() {
            if let Err(error) = self.trim_step() {
                self.trim.rest();
                self.health.failed(&error);
            }
        }
        !self.trim.is_resting()
    }

    /// Whether something can be written at all.
    fn probe(&mut self) -> Result<(), StoreError> {
        let sql =
            "INSERT INTO totals (name, value) VALUES ('probes', 1) ON CONFLICT (name) DO UPDATE SET value = value + 1";
        self.in_transaction(|connection| Ok(connection.execute(sql, ()).map(|_| ())?))
    }

    fn close(self, messages: &Receiver<Message>) -> Result<(), StoreError> {
        self.health.closed();
        // Whoever came too late; after the state is set nobody sends any more but those who looked just before.
        while let Ok(message) = messages.try_recv() {
            if let Message::Write(operation) = message {
                self.counters.waiting.fetch_sub(1, Ordering::Relaxed);
                operation.answer(Some(StoreError::Closed));
            }
        }
        let checkpoint = self.connection.execute_batch(MOVE_LOG);
        let closed = self.connection.close().map_err(|(_, error)| error);
        checkpoint.and(closed).map_err(|error| Failure::from(error).at(&self.path))
    }
}

/// The thread has ended when this is dropped.
struct Ended(Arc<Health>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.closed();
    }
}

/// What waits, or the first that comes in time; and whether the end was announced.
fn gather(messages: &Receiver<Message>, wait: Duration) -> (Vec<Box<dyn Operation>>, bool) {
    let mut batch = Vec::new();
    match messages.recv_timeout(wait) {
        Ok(Message::Write(operation)) => batch.push(operation),
        Ok(Message::Close) | Err(RecvTimeoutError::Disconnected) => return (batch, true),
        Err(RecvTimeoutError::Timeout) => return (batch, false),
    }
    while batch.len() < MAX_WRITES {
        match messages.try_recv() {
            Ok(Message::Write(operation)) => batch.push(operation),
            Ok(Message::Close) | Err(TryRecvError::Disconnected) => return (batch, true),
            Err(TryRecvError::Empty) => break,
        }
    }
    (batch, false)
}

/// Sends a write; where nobody takes it, it is answered at once.
pub(crate) fn send(sender: &Sender<Message>, counters: &Counters, operation: Box<dyn Operation>) {
    counters.waiting.fetch_add(1, Ordering::Relaxed);
    if let Err(refused) = sender.send(Message::Write(operation))
        && let Message::Write(operation) = refused.0
    {
        counters.waiting.fetch_sub(1, Ordering::Relaxed);
        operation.answer(Some(StoreError::Closed));
    }
}
