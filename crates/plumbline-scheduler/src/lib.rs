//! Between many callers and a model, or several copies of it: admission, batching, the model threads, drain.
//!
//! [`Scheduler::submit`] admits sequences by their number of tokens or refuses them at once; a [`Ticket`] waits for the
//! answer. A thread owns the [`ReferenceModel`](plumbline_core::ReferenceModel): whenever it is idle and something waits, it
//! takes a batch from the front of the queue and scores it. There is no wait timer. An idle model starts at once with what
//! is there, and while it is busy the next batch grows. With several devices there is such a thread for each, with its own
//! copy of every version of the weights, and still one queue.
//!
//! Rules that callers can rely on:
//! - First in, first out, but for two things: a batch is of one version of the weights, and members of an RL group, which
//!   share their prompt, are batched together. The oldest waiting sequence is in every batch, so nothing starves.
//! - What sequences of a batch have in common at their beginning is computed once, with the same numbers.
//! - A sequence above the batch budget is scored alone, never truncated and never stuck.
//! - All sequences of one submit are admitted or none, by the same rule for one sequence and for a group.
//! - Every admitted sequence is answered exactly once, unless its caller left before it started: then it is never scored.
//! - Every sequence is scored with the version of the weights that it was admitted for, whatever is loaded meanwhile. New
//!   weights are the current ones once every model thread has them.
//! - A forward that fails or panics costs only the sequence that causes it: its batch is halved until that is found. One that
//!   runs out of memory makes the model save memory first, and later batches of that thread smaller for a while.
//! - Jobs beside scoring ([`Scheduler::aside`]) run when there is nothing to score, and else get their configured share of a
//!   thread's time: neither waits for the other for ever.
//! - A model thread that ends unexpectedly ends the scheduler: what waits is told so, what other threads are scoring is
//!   answered.
//!
//! Locking: the queue is a `VecDeque` behind a `std` mutex with a condition variable. Critical sections only move entries
//! and counts (and tell the [`Observer`] the new counts, so that they arrive in order). No lock is held over a forward or
//! an await, and no async code touches the model.

mod aside;
mod backoff;
mod batching;
mod config;
mod copies;
mod entry;
mod error;
mod group;
mod model_thread;
mod observer;
mod queue;
mod reply;
mod residents;
mod scheduler;
mod shared;
mod throughput;
mod ticket;
mod update;

pub use aside::{AsideModel, AsideTicket, Models};
pub use config::SchedulerConfig;
pub use error::{AsideError, ScoreError, StartError, SubmitError};
pub use observer::{BatchObservation, NullObserver, Observer};
pub use reply::{Scored, SequenceOutcome};
pub use residents::Residents;
pub use scheduler::{DrainOutcome, Scheduler, SchedulerState};
pub use ticket::Ticket;
pub use update::UpdateError;
