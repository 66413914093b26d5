//! Sequences and the groups that they are counted in.

use std::time::SystemTime;

use crate::{Digest, Packed, TokenRows};

/// A sequence of a verification that is being finished.
#[derive(Clone, Debug)]
pub struct NewSequence {
    /// The server's id.
    pub id: String,
    /// Of its content: a digest is counted once, whoever sends it.
    pub digest: Digest,
    /// The sender's id.
    pub sequence_id: String,
    /// The worker.
    pub worker: Option<String>,
    /// Version of the weights that scored it.
    pub policy_version: Option<String>,
    /// The verdict.
    pub verdict: String,
    /// What the verdict rests on.
    pub verdict_reason: String,
    /// Completion tokens.
    pub tokens: u32,
    /// Tokens that enter the sums.
    pub compared: u32,
    /// Its k3 estimate, if it is defined.
    pub kl_k3: Option<f64>,
    /// Its mean absolute log ratio, if it is defined.
    pub mae: Option<f64>,
    /// Whatever its reader needs; opaque here.
    pub observation: Packed,
    /// Its tokens.
    pub token_rows: Option<TokenRows>,
    /// What it adds to its group's summary, if it is counted; opaque here.
    pub contribution: Vec<u8>,
}

/// What sequences are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// The k3 estimate.
    KlK3,
    /// The mean absolute log ratio.
    Mae,
    /// Completion tokens.
    Length,
    /// Arrival.
    Time,
}

/// Which sequences.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this run only.
    pub run: Option<String>,
    /// Not those before the latest one that is older than this.
    pub since: Option<SystemTime>,
    /// The last so many only.
    pub last: Option<u64>,
}

/// A counted sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct SequenceRow {
    /// Grows in the order of arrival.
    pub number: u64,
    /// The server's id.
    pub id: String,
    /// Id of its verification.
    pub verification: String,
    /// Its place among the verification's sequences.
    pub position: u32,
    /// The run.
    pub run: String,
    /// The engine.
    pub engine: String,
    /// The sender's id.
    pub sequence_id: String,
    /// The worker.
    pub worker: Option<String>,
    /// Version of the weights that scored it.
    pub policy_version: Option<String>,
    /// When it was counted.
    pub at: SystemTime,
    /// The verdict.
    pub verdict: String,
    /// What the verdict rests on.
    pub verdict_reason: String,
    /// Completion tokens.
    pub tokens: u32,
    /// Tokens that enter the sums.
    pub compared: u32,
    /// Its k3 estimate.
    pub kl_k3: Option<f64>,
    /// Its mean absolute log ratio.
    pub mae: Option<f64>,
    /// As it was given.
    pub observation: Packed,
}

/// Everything of a run and engine that was ever counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRow {
    /// The run.
    pub run: String,
    /// The engine.
    pub engine: String,
    /// Sequences.
    pub sequences: u64,
    /// Compared tokens.
    pub tokens: u64,
    /// Sequences that are no longer kept one by one.
    pub removed_sequences: u64,
    /// When the first one was counted.
    pub first_at: SystemTime,
    /// When the latest one was.
    pub last_at: SystemTime,
    /// What [`MergeSummaries`](crate::MergeSummaries) made of their contributions.
    pub summary: Vec<u8>,
}
