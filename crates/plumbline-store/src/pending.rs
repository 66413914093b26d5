//! The end of a write that its caller holds.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::StoreError;

/// A write that is on its way: await it, or [`wait`](Self::wait) for it. It is durable once this says so. Dropping it does
/// not cancel the write.
#[derive(Debug)]
#[must_use = "what is written is durable only once this says so"]
pub struct Pending<T>(oneshot::Receiver<Result<T, StoreError>>);

impl<T> Pending<T> {
    pub(crate) fn new(receiver: oneshot::Receiver<Result<T, StoreError>>) -> Self {
        Self(receiver)
    }

    /// Blocks until the write is durable. Not for async code, which awaits.
    ///
    /// # Errors
    /// [`StoreError`] if it is not.
    pub fn wait(self) -> Result<T, StoreError> {
        self.0.blocking_recv().unwrap_or(Err(StoreError::Closed))
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T, StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|answer| answer.unwrap_or(Err(StoreError::Closed)))
    }
}
