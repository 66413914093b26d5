//! Transactions of the writer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use rusqlite::Connection;

use super::Writer;
use super::operation::{Operation, Scope};
use crate::error::Failure;
use crate::retention::{Bounds, Fill, Step};
use crate::statistics::Changes;
use crate::time::to_millis;
use crate::{StoreError, StoreState};

impl Writer {
    /// Writes all of a batch in one transaction. A write that fails for itself is rolled back alone and keeps its error.
    ///
    /// # Errors
    /// Of the whole file; then nothing of the batch is written.
    pub(super) fn try_commit(&mut self, batch: &mut [Box<dyn Operation>]) -> Result<(), StoreError> {
        let mut changes = Changes::default();
        let (summaries, path) = (Arc::clone(&self.summaries), self.path.clone());
        let limit = self.bounds().limit_reached(self.fill());
        self.in_transaction(|connection| {
            for operation in batch.iter_mut() {
                let before = changes.clone();
                connection.execute_batch("SAVEPOINT one")?;
                let mut scope = Scope { connection, summaries: &*summaries, changes: &mut changes, limit, path: &path };
                if let Err(failure) = operation.run(&mut scope) {
                    let error = failure.at(&path);
                    if error.is_of_the_file() {
                        return Err(error.into());
                    }
                    connection.execute_batch("ROLLBACK TO one")?;
                    changes = before;
                    operation.refuse(error);
                }
                connection.execute_batch("RELEASE one")?;
            }
            Ok(changes.store(connection)?)
        })?;
        self.counters.committed(&changes, batch.len());
        self.health.succeeded();
        Ok(())
    }

    /// One step of retention, if one is due.
    pub(super) fn trim_step(&mut self) -> Result<(), StoreError> {
        let cutoff = self.retention.max_age.and_then(|age| self.ages.cutoff(age, SystemTime::now(), Instant::now()));
        let Some(step) = self.trim.next(&self.bounds(), self.fill()) else { return Ok(()) };
        let mut changes = Changes::default();
        let mut removed = 0;
        self.in_transaction(|connection| {
            removed = step.remove(connection, cutoff.map(to_millis), &mut changes)?;
            Ok(changes.store(connection)?)
        })?;
        self.counters.committed(&changes, 0);
        self.trim.done(step, removed);
        if step == Step::Shrink {
            let limited = crate::schema::limit_size(&self.connection, &self.retention);
            limited.map_err(|error| StoreError::of_sqlite(&error, &self.path))?;
        }
        Ok(())
    }

    pub(super) fn bounds(&self) -> Bounds {
        Bounds::of(&self.retention)
    }

    /// How full the file is.
    pub(super) fn fill(&self) -> Fill {
        let number = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Fill { content: number(&self.counters.content_bytes), free: number(&self.counters.free_bytes) }
    }

    /// Runs something in a transaction of its own, and looks at the file's size after it.
    pub(super) fn in_transaction(
        &mut self,
        work: impl FnOnce(&Connection) -> Result<(), Failure>,
    ) -> Result<(), StoreError> {
        // What is damaged gets worse by writing.
        if let StoreState::Corrupt { reason } = self.health.state() {
            return Err(StoreError::Corrupt { path: self.path.clone(), reason });
        }
        let connection = &self.connection;
        let run = || {
            connection.execute_batch("BEGIN IMMEDIATE")?;
            work(connection)?;
            connection.execute_batch("COMMIT")?;
            Ok(())
        };
        let done: Result<(), Failure> = run();
        if done.is_err() && !connection.is_autocommit() {
            // Of what failed before, the first error says more than one of the rollback.
            let _after_the_first = connection.execute_batch("ROLLBACK");
        }
        done.map_err(|failure| failure.at(&self.path))?;
        // What was committed is committed, whether the size can be read or not.
        if let Err(error) = self.counters.measure(connection) {
            self.health.failed(&StoreError::of_sqlite(&error, &self.path));
        }
        Ok(())
    }
}
