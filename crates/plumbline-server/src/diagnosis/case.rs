//! One request that is to be diagnosed.

use std::sync::Arc;

use plumbline_core::{Rollout, TokenScores};
use plumbline_divergence::{Diagnosis, Finding, Floor, SequenceComparison, TokenFloor};
use plumbline_probe::PublishedFloor;

use crate::floors::MeasuredFloor;

/// Tokens of a request at most that waits without anybody waiting for it: its suspicious sequences come first.
const OFFERED_TOKENS: usize = 1 << 15;

/// The rollouts of one request, with everything that is known of them.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) run: String,
    pub(crate) engine: String,
    pub(crate) sequences: Vec<CaseSequence>,
    pub(crate) floor: CaseFloor,
}

#[derive(Debug)]
pub(crate) struct CaseSequence {
    /// The server's id of it.
    pub(crate) stored_id: String,
    pub(crate) rollout: Rollout,
    pub(crate) scores: TokenScores,
    pub(crate) comparison: SequenceComparison,
    /// Tokens of the prompt that the engine took from its prefix cache, if the sender said so.
    pub(crate) cached_tokens: Option<usize>,
    /// Whether its verdict is not `consistent`. The others are there to compare with.
    pub(crate) suspicious: bool,
}

impl CaseSequence {
    fn tokens(&self) -> usize {
        self.rollout.prompt_token_ids.len() + self.rollout.completion_token_ids.len()
    }
}

/// What a faithful engine would show.
#[derive(Clone, Debug)]
pub(crate) enum CaseFloor {
    /// As measured on the resident model.
    Measured(Arc<MeasuredFloor>),
    /// As published of other models.
    Published,
}

impl Floor for CaseFloor {
    fn token(&self, entropy: f64) -> TokenFloor {
        match self {
            Self::Measured(measured) => measured.curve.token(entropy),
            Self::Published => PublishedFloor.token(entropy),
        }
    }
}

impl Case {
    /// What it takes in memory, in tokens.
    pub(crate) fn tokens(&self) -> usize {
        self.sequences.iter().map(CaseSequence::tokens).sum()
    }

    /// The same case, no larger than one that waits without anybody waiting for it may be.
    pub(crate) fn trimmed_to_be_offered(self) -> Self {
        self.trimmed(OFFERED_TOKENS)
    }

    /// The same case with no more than `most` tokens if it had more: without sequences that are not suspicious, then without
    /// the last suspicious ones. One always stays.
    fn trimmed(mut self, most: usize) -> Self {
        if self.tokens() > most {
            self.sequences.retain(|sequence| sequence.suspicious);
            let mut tokens = 0;
            let fits = |sequence: &&CaseSequence| {
                tokens += sequence.tokens();
                tokens <= most
            };
            let fitting = self.sequences.iter().take_while(fits).count();
            self.sequences.truncate(fitting.max(1));
        }
        self
    }

    /// Shows `each` what was found out about each suspicious sequence, with the server's id of it.
    pub(crate) fn each_finding(&self, diagnosis: &Diagnosis, mut each: impl FnMut(&str, &[Finding])) {
        let pairs = self.sequences.iter().zip(&diagnosis.sequences);
        pairs
            .filter(|(sequence, _)| sequence.suspicious)
            .for_each(|(sequence, found)| each(&sequence.stored_id, &found.findings));
    }

    /// What was found out about each suspicious sequence.
    pub(crate) fn findings<'a>(&self, diagnosis: &'a Diagnosis) -> Vec<&'a [Finding]> {
        let pairs = self.sequences.iter().zip(&diagnosis.sequences);
        pairs.filter(|(sequence, _)| sequence.suspicious).map(|(_, found)| found.findings.as_slice()).collect()
    }
}
