//! How a store is opened.

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Where the file is and how it is kept.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The file; SQLite's `-wal` and `-shm` and a `.lock` lie beside it.
    pub path: PathBuf,
    /// How much is kept.
    pub retention: Retention,
    /// How what new sequences contribute becomes the summary of their group.
    pub summaries: Arc<dyn MergeSummaries>,
    /// Connections for reading; at least one is opened.
    pub readers: usize,
}

impl StoreOptions {
    /// The file's name in a data folder.
    pub const FILE_NAME: &str = "plumbline.sqlite";

    /// A file that keeps everything and no summaries.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, retention: Retention::default(), summaries: Arc::new(NoSummaries), readers: 2 }
    }
}

/// How much is kept. What is over goes, the oldest first: tokens, then responses, then sequences, then the digests that tell
/// a retry. Queued and running work and the summaries of groups stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Bytes of the file; its write-ahead log comes on top. `None` = no limit. Old rows go before it is reached.
    pub max_bytes: Option<u64>,
    /// Age. `None` = no limit.
    pub max_age: Option<Duration>,
    /// Nothing goes for its age until the clock has run steadily for so long, since the start and since it was last set: a clock
    /// that is ahead makes everything old.
    pub clock_settles: Duration,
}

/// Keeps a summary of each run and engine, which outlives the sequences behind it.
pub trait MergeSummaries: Send + Sync + Debug {
    /// The new summary of a group: of the one it has, if any, and what newly counted sequences contribute, in order. Called on
    /// the writing thread, inside the transaction that stores the sequences.
    ///
    /// # Errors
    /// What is wrong, in words; the write fails with it.
    fn merge(&self, current: Option<&[u8]>, added: &[&[u8]]) -> Result<Vec<u8>, String>;
}

/// No summaries.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSummaries;

impl MergeSummaries for NoSummaries {
    fn merge(&self, _current: Option<&[u8]>, _added: &[&[u8]]) -> Result<Vec<u8>, String> {
        Ok(Vec::new())
    }
}
