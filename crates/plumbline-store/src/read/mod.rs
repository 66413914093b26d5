//! Reading, beside the thread that writes and without waiting for it.

mod documents;
mod sequences;
mod verifications;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

use crate::error::Failure;
use crate::health::Health;
use crate::schema::{open_reader, version_of};
use crate::{StoreError, StoreState};

/// Connections that only read. Its methods block: they belong off the async workers.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    returned: Condvar,
    health: Arc<Health>,
}

impl Reader {
    /// Of a file that exists, whether it is being served or not.
    ///
    /// # Errors
    /// [`StoreError`] if it is not there, is none of plumbline's or cannot be read.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::with_health(path, 1, Arc::new(Health::new()))
    }

    pub(crate) fn with_health(path: &Path, connections: usize, health: Arc<Health>) -> Result<Self, StoreError> {
        let mut idle = Vec::with_capacity(connections);
        for _ in 0..connections.max(1) {
            let connection = open_reader(path)?;
            version_of(&connection, path)?;
            idle.push(connection);
        }
        Ok(Self { path: path.to_owned(), idle: Mutex::new(idle), returned: Condvar::new(), health })
    }

    /// Reads with a connection that nobody else has meanwhile.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Connection) -> Result<T, Failure>) -> Result<T, StoreError> {
        if self.health.state() == StoreState::Closed {
            return Err(StoreError::Closed);
        }
        let lent = Lent { reader: self, connection: Some(self.take()) };
        let Some(connection) = &lent.connection else { return Err(StoreError::Closed) };
        read(connection).map_err(|failure| {
            let error = failure.at(&self.path);
            self.health.failed(&error);
            error
        })
    }

    fn take(&self) -> Connection {
        let mut idle = self.lock();
        loop {
            match idle.pop() {
                Some(connection) => return connection,
                None => idle = self.returned.wait(idle).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that comes back, also from a panic.
struct Lent<'a> {
    reader: &'a Reader,
    connection: Option<Connection>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.reader.lock().extend(self.connection.take());
        self.reader.returned.notify_one();
    }
}
