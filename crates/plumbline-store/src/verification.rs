//! Verifications: what is taken in, worked on and finished.

use std::time::SystemTime;

use rusqlite::ToSql;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, ValueRef};

use crate::{Digest, NewSequence, Packed, TokenRows};

/// How a verification is worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Somebody waits for it.
    Interactive,
    /// Nobody does.
    Bulk,
}

/// How far a verification is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobState {
    /// Accepted, nothing done yet.
    Queued,
    /// Being scored.
    Running,
    /// Has its response.
    Done,
    /// Has a problem instead.
    Failed,
}

impl Class {
    /// Its name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Bulk => "bulk",
        }
    }
}

impl JobState {
    /// Its name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

impl ToSql for Class {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.as_str()))
    }
}

impl FromSql for Class {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        named(value, &[Self::Interactive, Self::Bulk], Self::as_str)
    }
}

impl ToSql for JobState {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.as_str()))
    }
}

impl FromSql for JobState {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        named(value, &[Self::Queued, Self::Running, Self::Done, Self::Failed], Self::as_str)
    }
}

fn named<T: Copy>(value: ValueRef<'_>, all: &[T], name: fn(T) -> &'static str) -> FromSqlResult<T> {
    let found = value.as_str()?;
    let unknown = || FromSqlError::Other(format!("unknown name {found:?}").into());
    all.iter().copied().find(|one| name(*one) == found).ok_or_else(unknown)
}

/// A verification that is new to the store.
#[derive(Clone, Debug)]
pub struct NewVerification {
    /// The server's id.
    pub id: String,
    /// The run.
    pub run: String,
    /// The engine.
    pub engine: String,
    /// How it is worked on.
    pub class: Class,
    /// When it was accepted.
    pub at: SystemTime,
    /// Of the request's content. The same content is the same verification, as long as that is not failed and has its response.
    pub digest: Digest,
    /// The sender's name for the request.
    pub idempotency_key: Option<String>,
}

/// A verification that a request is a retry of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Existing {
    /// Its id.
    pub id: String,
    /// How far it is.
    pub state: JobState,
}

/// Whether a request is a retry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// It is not.
    New,
    /// It is one of this.
    Known(Existing),
    /// Its key belongs to other content.
    KeyReused {
        /// The verification that has the key.
        verification: String,
    },
}

/// What became of a submit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Submitted {
    /// It is queued.
    Accepted,
    /// It is a retry of this; nothing was queued.
    Known(Existing),
    /// Its key belongs to other content; nothing was queued.
    KeyReused {
        /// The verification that has the key.
        verification: String,
    },
}

/// A queued verification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Grows in the order of acceptance.
    pub number: u64,
    /// The server's id.
    pub id: String,
    /// The run.
    pub run: String,
    /// The engine.
    pub engine: String,
    /// How it is worked on.
    pub class: Class,
    /// How often it was started; those starts did not end.
    pub attempts: u32,
    /// When it was accepted.
    pub created_at: SystemTime,
    /// Bytes of its request on the disk.
    pub request_bytes: u64,
}

/// A verification that is running now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// How often it was started, this time included. More than 1: the process ended while it ran.
    pub attempts: u32,
    /// Its request.
    pub request: Packed,
}

/// Which verification is finished.
#[derive(Clone, Debug)]
pub enum Target {
    /// One that was accepted before, by its id.
    Job(String),
    /// One that the store does not know: made and done in one step.
    Direct(NewVerification),
}

/// The end of a verification: all of it becomes durable, or nothing.
#[derive(Clone, Debug)]
pub struct Completion {
    /// Which verification.
    pub target: Target,
    /// What it is answered with.
    pub response: Packed,
    /// When.
    pub at: SystemTime,
    /// Its sequences, in order.
    pub sequences: Vec<NewSequence>,
    /// Which of them `response` says are new. Where that is no longer true nothing is written. `None`: it does not say.
    pub assumed_new: Option<Vec<bool>>,
}

impl Completion {
    /// About how many bytes it adds to the file.
    pub(crate) fn bytes(&self) -> usize {
        /// Of a row with its places in the indexes.
        const ROW: usize = 1024;
        let sequence = |sequence: &NewSequence| {
            ROW + sequence.observation.packed_len() + sequence.token_rows.as_ref().map_or(0, TokenRows::packed_len)
        };
        ROW + self.response.packed_len() + self.sequences.iter().map(sequence).sum::<usize>()
    }
}

/// What became of a completion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finished {
    /// It is done.
    Done {
        /// Whether each sequence is counted: nobody has stored its digest before.
        new: Vec<bool>,
    },
    /// The truth differs from what was assumed; nothing was written.
    Differs {
        /// Which sequences are new.
        new: Vec<bool>,
    },
    /// Direct: it is a retry of this. Job: it is at its end already, which may be that it failed. Nothing was written.
    Known(Existing),
    /// Direct: its key belongs to other content; nothing was written.
    KeyReused {
        /// The verification that has the key.
        verification: String,
    },
    /// Job: there is no such verification; nothing was written.
    Missing,
}

/// A verification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerificationRow {
    /// Grows in the order of acceptance.
    pub number: u64,
    /// The server's id.
    pub id: String,
    /// The run.
    pub run: String,
    /// The engine.
    pub engine: String,
    /// How it is worked on.
    pub class: Class,
    /// How far it is.
    pub state: JobState,
    /// How often it was started.
    pub attempts: u32,
    /// When it was accepted.
    pub created_at: SystemTime,
    /// When its state changed last.
    pub updated_at: SystemTime,
    /// What it is answered with, if it is done; `None` if that is no longer kept.
    pub response: Option<Packed>,
    /// Why it failed, if it did, as it was given.
    pub problem: Option<Vec<u8>>,
    /// If it is done: whether each of its sequences was counted.
    pub new: Vec<bool>,
}
