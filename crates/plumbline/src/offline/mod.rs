//! Scoring without serving: what `verify` and `compare` have in common.
//!
//! A [`Session`] loads the reference and measures its noise floor. Rollouts that are submitted go through the same queue and
//! model threads as those of the service, with a bound on what is in flight; scored ones are compared, judged, diagnosed
//! within a budget and passed on to the report, one after the other. Memory does not grow with the number of rollouts.

mod arguments;
mod assess;
mod cases;
mod floor;
mod interrupt;
mod limit;
mod outcome;
mod pipeline;
mod progress;
mod session;
mod tallies;

pub(crate) use self::arguments::OfflineArguments;
pub(crate) use self::interrupt::{INTERRUPTED, Interrupt};
pub(crate) use self::outcome::Outcome;
pub(crate) use self::progress::Progress;
pub(crate) use self::session::{Ending, Incoming, Session, Submitted};
