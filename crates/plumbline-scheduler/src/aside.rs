//! Small jobs on the model threads, beside scoring: measuring a noise floor, looking for the cause of a divergence.
//!
//! A job runs between two batches and has the thread's models to itself. Nothing that scores waits for jobs but for their
//! share of the time: see [`SchedulerConfig::aside_share`](crate::SchedulerConfig::aside_share).

mod budget;
mod lane;
mod models;
mod ticket;

pub(crate) use self::lane::{Lane, Next};
pub(crate) use self::models::ResidentModels;
pub use self::models::{AsideModel, Models};
pub use self::ticket::AsideTicket;
pub(crate) use self::ticket::{Job, job};
use crate::{AsideError, Scheduler};

impl Scheduler {
    /// Runs `job` on a model thread, whichever is free first, between two batches: at once when nothing waits to be scored
    /// and nothing was scored a moment ago, else as soon as the share of the time has saved up what `tokens` tokens of a
    /// forward take, as fast as batches go. First in, first out.
    ///
    /// A job must be small: a batch that arrives while it runs waits for its end, whatever the share. Whoever has much to
    /// do cuts it into jobs of a few hundred tokens. It must not wait for another job or for scores, which the thread
    /// that it holds may have to compute.
    ///
    /// # Errors
    /// [`AsideError::Full`] and [`AsideError::NotServing`]; the job is dropped then.
    pub fn aside<T, F>(&self, tokens: usize, run: F) -> Result<AsideTicket<T>, AsideError>
    where
        F: FnOnce(&mut dyn Models) -> T + Send + 'static,
        T: Send + 'static,
    {
        let (job, ticket) = job(tokens, run);
        self.shared().submit_aside(job)?;
        Ok(ticket)
    }
}
