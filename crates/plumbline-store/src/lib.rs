//! One SQLite file with everything that must outlive a restart: accepted work, results, idempotency, sequences and their tokens.
//!
//! One thread writes. Whatever waits is written in one transaction and answered after its `COMMIT`, which SQLite syncs to the
//! disk: many writes share one sync. Reading goes through connections of its own and never waits for the writer.
//!
//! Exactly-once effect rests on [`Store::finish`]: the response of a verification, its state, the sequences that nobody has
//! counted before and what they add to their group become durable together, or not at all.
//!
//! Blocking: every method that returns a `Result` reads from the disk; call it off the async workers. A write returns a
//! [`Pending`], which can be awaited or waited for.

mod ages;
mod check;
mod digest;
mod error;
mod health;
mod options;
mod packed;
mod pending;
mod read;
mod retention;
mod schema;
mod sequence;
mod statistics;
mod store;
mod time;
mod token_rows;
mod verification;
mod writer;

pub use check::{CheckReport, Finding, check};
pub use digest::Digest;
pub use error::{ErrorKind, StoreError};
pub use health::StoreState;
pub use options::{MergeSummaries, NoSummaries, Retention, StoreOptions};
pub use packed::Packed;
pub use pending::Pending;
pub use read::Reader;
pub use sequence::{Filter, GroupRow, NewSequence, SequenceRow, Sort};
pub use statistics::Statistics;
pub use store::{Store, Vacuumed, vacuum};
pub use token_rows::TokenRows;
pub use verification::{
    Class, Completion, Existing, Finished, Job, JobState, Known, NewVerification, Started, Submitted, Target,
    VerificationRow,
};

#[cfg(test)]
mod tests;
