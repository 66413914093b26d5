//! Reading files on a thread of its own, a few records ahead.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread;

use anyhow::Context;
use plumbline_engines::dumps::{Dump, DumpError, DumpOptions, DumpRollout, open_dump};
use tokio::sync::mpsc;

/// Rollouts that are read ahead: each may be as large as a record.
const AHEAD: usize = 4;

/// What was read.
#[derive(Debug)]
pub(super) enum Read {
    /// The next path begins.
    Input(String),
    /// Its records have this format.
    Format(String),
    Rollout(Box<DumpRollout>),
    /// A record, or the rest of a file, cannot be used.
    Bad(DumpError),
    /// At its end: records without a token in the loss.
    WithoutTokens(u64),
}

/// Paths that are being read. Dropping it stops the thread at its next record.
#[derive(Debug)]
pub(super) struct Reading {
    read: mpsc::Receiver<Read>,
    bytes: u64,
    bytes_read: Vec<Arc<AtomicU64>>,
}

impl Reading {
    /// Opens all paths and starts reading.
    ///
    /// # Errors
    /// The first path that cannot be opened.
    pub(super) fn open(paths: &[PathBuf], options: &DumpOptions) -> anyhow::Result<Self> {
        let dumps = paths
            .iter()
            .map(|path| Ok((path.display().to_string(), open_dump(path, options)?)))
            .collect::<Result<Vec<(String, Dump)>, DumpError>>()?;
        let bytes = dumps.iter().map(|(_, dump)| dump.bytes()).sum();
        let bytes_read = dumps.iter().map(|(_, dump)| dump.bytes_read()).collect();
        let (sender, read) = mpsc::channel(AHEAD);
        let thread = thread::Builder::new().name("plumbline-reader".into());
        // Whoever drops the receiver wants no more.
        thread.spawn(move || drop(send_all(dumps, &sender))).context("cannot start the reader's thread")?;
        Ok(Self { read, bytes, bytes_read })
    }

    /// Bytes of all files, as they lie on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many of them have been read, by path.
    pub(super) fn bytes_read(&self) -> Vec<Arc<AtomicU64>> {
        self.bytes_read.clone()
    }

    /// The next thing; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Read> {
        self.read.recv().await
    }
}

fn send_all(dumps: Vec<(String, Dump)>, sender: &mpsc::Sender<Read>) -> Result<(), mpsc::error::SendError<Read>> {
    for (name, mut dump) in dumps {
        sender.blocking_send(Read::Input(name))?;
        let mut format = None;
        while let Some(next) = dump.next() {
            if format != dump.format() {
                format = dump.format();
                if let Some(format) = format {
                    sender.blocking_send(Read::Format(format.to_string()))?;
                }
            }
            sender.blocking_send(match next {
                Ok(rollout) => Read::Rollout(Box::new(rollout)),
                Err(error) => Read::Bad(error),
            })?;
        }
        sender.blocking_send(Read::WithoutTokens(dump.without_tokens()))?;
    }
    Ok(())
}
