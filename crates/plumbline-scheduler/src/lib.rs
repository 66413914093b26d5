//! Between many callers and a model, or several copies of it: admission, batching, the model threads, drain.
//!
//! [`Scheduler::submit_for`] admits sequences by their number of tokens, interactive ones by the estimated time to their
//! answer, or refuses them at once and says when there will be room; a [`Ticket`] waits for the answer. A thread owns the [`ReferenceModel`](plumbline_core::ReferenceModel): whenever it is idle and something waits, it
//! takes a batch from the front of the queue and scores it. There is no wait timer. An idle model starts at once with what
//! is there, and while it is busy the next batch grows. With several devices there is such a thread for each, with its own
//! copy of every version of the weights, and still one queue.
//!
//! Rules that callers can rely on:
//! - More urgent classes go first, but each keeps a share of the tokens. Within a class, runs get equal numbers of tokens, and
//!   a run is first in, first out, but for two things: a batch is of one version of the weights, and members of an RL group,
//!   which share their prompt, are batched together. The front of a line is in every batch, so nothing starves.
//! - Who is refused for lack of room and comes again when told finds room.
//! - What has not started by its deadline never does.
//! - What sequences of a batch have in common at their beginning is computed once, with the same numbers.
//! - A sequence above the batch budget is scored alone, never truncated and never stuck.
//! - All sequences of one submit are admitted or none, by the same rule for one sequence and for a group.
//! - Every admitted sequence is answered exactly once, unless its caller left before it started: then it is never scored.
//! - Every sequence is scored with the version of the weights that it was admitted for, whatever is loaded meanwhile. New
//!   weights are the current ones once every model thread has them.
//! - A forward that fails or panics costs only the sequence that causes it: its batch is halved until that is found. One on
//!   which the model panicked is refused for a while. A model that fails everything is loaded again, where it can be. One that
//!   runs out of memory makes the model save memory first, and later batches of that thread smaller for a while.
//! - Jobs beside scoring ([`Scheduler::aside`]) run when there is nothing to score, and else get their configured share of a
//!   thread's time: neither waits for the other for ever.
//! - A model thread that ends unexpectedly ends the scheduler: what waits is told so, what other threads are scoring is
//!   answered.
//!
//! Locking: the queue, admission and all accounts are behind a `std` mutex with a condition variable. Critical sections only move entries
//! and counts (and tell the [`Observer`] the new counts, so that they arrive in order). No lock is held over a forward or
//! an await, and no async code touches the model.

mod admission;
mod aside;
mod backoff;
mod batching;
mod bookings;
mod config;
mod copies;
mod demand;
mod digest;
mod entry;
mod error;
mod group;
mod line;
mod model_thread;
mod observer;
mod pace;
mod quarantine;
mod queue;
mod reply;
mod residents;
mod restart;
mod scheduler;
mod shared;
mod throughput;
mod ticket;
mod update;

pub use aside::{AsideModel, AsideTicket, Models};
pub use config::SchedulerConfig;
pub use demand::{Class, Demand};
pub use error::{AsideError, ScoreError, StartError, SubmitError};
pub use observer::{BatchObservation, DropReason, NullObserver, Observer};
pub use reply::{Course, Scored, SequenceOutcome};
pub use residents::Residents;
pub use restart::Load;
pub use scheduler::{DrainOutcome, Scheduler, SchedulerState};
pub use ticket::Ticket;
pub use update::UpdateError;
