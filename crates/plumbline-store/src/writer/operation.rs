//! One write, whatever it writes.

use std::path::Path;

use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::error::Failure;
use crate::statistics::Changes;
use crate::{MergeSummaries, Pending, StoreError};

/// What a write works in.
pub(crate) struct Scope<'a> {
    /// In a transaction.
    pub(crate) connection: &'a Connection,
    pub(crate) summaries: &'a dyn MergeSummaries,
    pub(crate) changes: &'a mut Changes,
    /// The bytes that the file may have, if it is so full that nothing new is to be taken in: what was begun has to end.
    pub(crate) limit: Option<u64>,
    pub(crate) path: &'a Path,
}

/// A write of any type of answer. It may be run again after its transaction was rolled back.
pub(crate) trait Operation: Send {
    /// About how many bytes it adds.
    fn bytes(&self) -> u64;
    /// Writes, and keeps what is to be answered. The error is one of the whole file, or of this write alone.
    fn run(&mut self, scope: &mut Scope<'_>) -> Result<(), Failure>;
    /// This write alone is rolled back.
    fn refuse(&mut self, error: StoreError);
    /// The error of this write alone, if it has one.
    fn refused(&self) -> Option<&StoreError>;
    /// Answers: with the error, if there is one, else with what was kept.
    fn answer(self: Box<Self>, error: Option<StoreError>);
}

/// A write as a function.
pub(crate) struct Write<T, F> {
    bytes: u64,
    write: F,
    kept: Option<Result<T, StoreError>>,
    sender: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Write<T, F>
where
    T: Send + 'static,
    F: FnMut(&mut Scope<'_>) -> Result<T, Failure> + Send + 'static,
{
    /// To be sent, and its end to be waited for.
    pub(crate) fn with_end(bytes: usize, write: F) -> (Box<dyn Operation>, Pending<T>) {
        let (sender, receiver) = oneshot::channel();
        (Box::new(Self { bytes: bytes as u64, write, kept: None, sender }), Pending::new(receiver))
    }
}

impl<T, F> Operation for Write<T, F>
where
    T: Send + 'static,
    F: FnMut(&mut Scope<'_>) -> Result<T, Failure> + Send + 'static,
{
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn run(&mut self, scope: &mut Scope<'_>) -> Result<(), Failure> {
        self.kept = Some(Ok((self.write)(scope)?));
        Ok(())
    }

    fn refuse(&mut self, error: StoreError) {
        self.kept = Some(Err(error));
    }

    fn refused(&self) -> Option<&StoreError> {
        self.kept.as_ref().and_then(|kept| kept.as_ref().err())
    }

    fn answer(self: Box<Self>, error: Option<StoreError>) {
        let answer = match (error, self.kept) {
            (Some(error), _) => Err(error),
            (None, Some(kept)) => kept,
            (None, None) => Err(StoreError::Closed),
        };
        // Whoever asked may have gone: the write is done all the same.
        let _gone = self.sender.send(answer);
    }
}
