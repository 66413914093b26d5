//! A job on its way to a model thread, and its caller's end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Instant;

use tokio::sync::oneshot;

use super::Models;
use crate::AsideError;
use crate::model_thread::catch_panic;

/// A job, whatever it returns.
pub(crate) trait Job: Send {
    /// Tokens of its forwards.
    fn tokens(&self) -> usize;

    /// Whether its caller still waits.
    fn is_wanted(&self) -> bool;

    /// Runs it and tells its caller; does nothing if that one left.
    fn run(self: Box<Self>, models: &mut dyn Models);
}

struct Answered<F, T> {
    tokens: usize,
    run: F,
    sender: oneshot::Sender<Result<T, AsideError>>,
}

/// A job and where its result will arrive.
pub(crate) fn job<F, T>(tokens: usize, run: F) -> (Box<dyn Job>, AsideTicket<T>)
where
    F: FnOnce(&mut dyn Models) -> T + Send + 'static,
    T: Send + 'static,
{
    let (sender, receiver) = oneshot::channel();
    (Box::new(Answered { tokens, run, sender }), AsideTicket { receiver })
}

impl<F, T> Job for Answered<F, T>
where
    F: FnOnce(&mut dyn Models) -> T + Send,
    T: Send,
{
    fn tokens(&self) -> usize {
        self.tokens
    }

    fn is_wanted(&self) -> bool {
        !self.sender.is_closed()
    }

    fn run(self: Box<Self>, models: &mut dyn Models) {
        let Self { run, sender, .. } = *self;
        if sender.is_closed() {
            return;
        }
        let result = catch_panic(|| run(models)).map_err(|panic| {
            tracing::error!(%panic, "a job beside scoring panicked");
            AsideError::Panicked(panic)
        });
        // Nobody listens any more if the caller left meanwhile.
        drop(sender.send(result));
    }
}

/// A claim on the result of a job. Dropping it cancels the job unless it has started.
#[derive(Debug)]
#[must_use = "dropping a ticket cancels its job"]
pub struct AsideTicket<T> {
    receiver: oneshot::Receiver<Result<T, AsideError>>,
}

impl<T> AsideTicket<T> {
    /// Waits until the job has run. Dropping the future cancels too.
    ///
    /// # Errors
    /// [`AsideError::Panicked`], or [`AsideError::Stopped`] if the scheduler drained first.
    pub async fn wait(self) -> Result<T, AsideError> {
        self.receiver.await.unwrap_or(Err(AsideError::Stopped))
    }

    /// Blocks the calling thread until the job has run, no longer than until `deadline`. Not for async code.
    ///
    /// # Errors
    /// The ticket, if the job has not ended by then; else inside what [`AsideTicket::wait`] says.
    pub fn wait_until(mut self, deadline: Instant) -> Result<Result<T, AsideError>, Self> {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(answer) = Pin::new(&mut self.receiver).poll(&mut context) {
                return Ok(answer.unwrap_or(Err(AsideError::Stopped)));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self);
            }
            thread::park_timeout(left);
        }
    }
}

/// Wakes a thread that waits for a ticket.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
