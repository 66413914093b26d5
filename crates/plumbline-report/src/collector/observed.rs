//! What a collector is told of one sequence.

use plumbline_core::Rollout;
use plumbline_divergence::{Finding, Judgement, SequenceComparison, SufficientStatistics};

/// One scored sequence, by reference: the collector keeps nothing that is not bounded.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// Label of the engine that sampled it.
    pub engine: &'a str,
    /// Label of the worker, if the sender said one.
    pub worker: Option<&'a str>,
    /// Version of the weights that scored it; `None` = unknown, or several.
    pub policy_version: Option<&'a str>,
    /// What sequences of the same prompt have in common, if the sender said so.
    pub group: Option<&'a str>,
    /// The rollout; `None` where it is no longer kept. Prompt, sampling and finish reason are shown from it.
    pub rollout: Option<&'a Rollout>,
    /// Its tokens beside the reference's.
    pub comparison: &'a SequenceComparison,
    /// Sums of exactly this sequence, with its noise floor where one is known.
    pub statistics: &'a SufficientStatistics,
    /// The verdict on it.
    pub judgement: &'a Judgement,
    /// Its causes, the likeliest first; empty = none, or not diagnosed.
    pub findings: &'a [Finding],
    /// The id under which a server keeps it, if one does.
    pub stored_id: Option<&'a str>,
}
