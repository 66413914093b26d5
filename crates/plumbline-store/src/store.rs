//! The store: the writing thread and those who read.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime};

use crate::ages::Ages;
use crate::error::Failure;
use crate::health::Health;
use crate::retention::Trim;
use crate::schema::{MOVE_LOG, open_writer};
use crate::statistics::{Counters, Statistics};
use crate::writer::{Message, Scope, Write, Writer, fail, finish, keep, recover, requeue, send, start, submit};
use crate::{
    Completion, Finished, NewVerification, Packed, Pending, Reader, Retention, Started, StoreError, StoreOptions,
    StoreState, Submitted,
};

/// An open store. Shared by reference; dropping it writes what waits and closes the file.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    reader: Reader,
    health: Arc<Health>,
    counters: Arc<Counters>,
    sender: Sender<Message>,
    thread: Mutex<Option<JoinHandle<Result<(), StoreError>>>>,
    /// Nobody else serves the file as long as this is held.
    _lock: File,
}

impl Store {
    /// Opens the file, or makes it with its folder. What was running when the process ended is queued again.
    ///
    /// # Errors
    /// [`StoreError`] with the file's name if another process serves it, if it is damaged, of something else or of a newer
    /// version, or cannot be written. Nothing in it is changed then, and no other file takes its place.
    pub fn open(options: StoreOptions) -> Result<Self, StoreError> {
        let StoreOptions { path, retention, summaries, readers } = options;
        make_folder(&path)?;
        let lock = lock(&path)?;
        let mut connection = open_writer(&path, &retention)?;
        let (health, counters) = (Arc::new(Health::new()), Arc::new(Counters::default()));
        let mut begin = || {
            let recovered = recover(&mut connection)?;
            counters.load(&connection)?;
            Ok(recovered)
        };
        let recovered = begin().map_err(|failure: rusqlite::Error| StoreError::of_sqlite(&failure, &path))?;
        if recovered > 0 {
            tracing::info!(recovered, file = %path.display(), "queued again what was running when the process ended");
        }
        let reader = Reader::with_health(&path, readers, Arc::clone(&health))?;
        let (sender, receiver) = channel();
        let writer = Writer {
            connection,
            path: path.clone(),
            ages: Ages::new(retention.clock_settles, SystemTime::now(), Instant::now()),
            retention,
            summaries,
            health: Arc::clone(&health),
            counters: Arc::clone(&counters),
            trim: Trim::default(),
        };
        let thread = std::thread::Builder::new().name("store".into()).spawn(move || writer.run(&receiver));
        let thread = thread.map_err(|error| StoreError::of_io(&error, &path))?;
        Ok(Self { path, reader, health, counters, sender, thread: Mutex::new(Some(thread)), _lock: lock })
    }

    /// Reading.
    #[must_use]
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// How the store is.
    #[must_use]
    pub fn state(&self) -> StoreState {
        self.health.state()
    }

    /// What it holds and has done.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        // A file that is not there has no bytes: there may be no log.
        let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        Statistics {
            file_bytes: bytes(&self.path),
            wal_bytes: bytes(&beside(&self.path, "-wal")),
            errors: self.health.errors(),
            ..self.counters.statistics()
        }
    }

    /// Queues a verification, if it is no retry. What it says is durable.
    pub fn submit(&self, verification: NewVerification, request: Packed) -> Pending<Submitted> {
        self.write(request.packed_len(), move |scope| submit(scope, &verification, &request))
    }

    /// Begins a queued verification; `None` if it is not queued (any more).
    pub fn start(&self, id: &str) -> Pending<Option<Started>> {
        let id = id.to_owned();
        self.write(0, move |scope| start(scope, &id))
    }

    /// Puts a running verification back, as if it had not been started; false if it does not run.
    pub fn requeue(&self, id: &str) -> Pending<bool> {
        let id = id.to_owned();
        self.write(0, move |scope| requeue(scope, &id))
    }

    /// Ends a verification with a problem instead of a response; false if it is at its end already. Its content and its key may
    /// be tried again then.
    pub fn fail(&self, id: &str, problem: Vec<u8>, at: SystemTime) -> Pending<bool> {
        let id = id.to_owned();
        self.write(problem.len(), move |scope| fail(scope, &id, &problem, at))
    }

    /// Ends a verification: its response, its state, the sequences that nobody has counted yet and what they add to their group
    /// become durable together. Repeating it, after whatever error, counts nothing twice.
    pub fn finish(&self, completion: Completion) -> Pending<Finished> {
        self.write(completion.bytes(), move |scope| finish(scope, &completion))
    }

    /// Keeps a small document under a name, in place of the one that had it.
    pub fn keep_document(&self, name: &'static str, bytes: Vec<u8>) -> Pending<()> {
        self.write(bytes.len(), move |scope| keep(scope, name, &bytes))
    }

    /// Writes what waits, moves the write-ahead log to the file and closes it. Later calls fail.
    ///
    /// # Errors
    /// [`StoreError`] if the file cannot be closed in order; what was acknowledged is safe in its log.
    pub fn close(&self) -> Result<(), StoreError> {
        let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() else { return Ok(()) };
        // Nobody listens if the thread has ended by itself.
        let _ended = self.sender.send(Message::Close);
        let closed = thread.join().unwrap_or_else(|_| {
            self.health.closed();
            let reason = "the thread that writes has panicked".to_owned();
            Err(StoreError::Sql { path: self.path.clone(), reason })
        });
        closed.inspect_err(|error| self.health.failed(error))
    }

    /// Sends a write that adds about so many bytes.
    pub(crate) fn write<T: Send + 'static>(
        &self,
        bytes: usize,
        write: impl FnMut(&mut Scope<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Pending<T> {
        let (operation, pending) = Write::with_end(bytes, write);
        send(&self.sender, &self.counters, operation);
        pending
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Counted and logged where it fails.
        let _seen = self.close();
    }
}

/// Sizes before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vacuumed {
    /// Bytes of the file before.
    pub before: u64,
    /// And after.
    pub after: u64,
}

/// Writes a file that nobody serves anew, without gaps.
///
/// # Errors
/// [`StoreError`] if it is not there, is being served, or for any reason for which it cannot be opened.
pub fn vacuum(path: &Path) -> Result<Vacuumed, StoreError> {
    let size = || std::fs::metadata(path).map(|file| file.len()).map_err(|error| StoreError::of_io(&error, path));
    let before = size()?;
    let _lock = lock(path)?;
    let connection = open_writer(path, &Retention::default())?;
    let run = || {
        connection.execute_batch("VACUUM")?;
        connection.execute_batch(MOVE_LOG)
    };
    run().map_err(|error| StoreError::of_sqlite(&error, path))?;
    Ok(Vacuumed { before, after: size()? })
}

/// A file's name with something behind it.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn make_folder(path: &Path) -> Result<(), StoreError> {
    let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) else { return Ok(()) };
    std::fs::create_dir_all(folder).map_err(|error| StoreError::of_io(&error, path))
}

fn lock(path: &Path) -> Result<File, StoreError> {
    let name = beside(path, ".lock");
    let file = File::options().create(true).truncate(false).write(true).open(&name);
    let file = file.map_err(|error| StoreError::of_io(&error, path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(StoreError::of_io(&error, path)),
    }
}
