//! Questions to the model, and what they cost.

use plumbline_core::{ModelError, Rollout, ScoringSequence, TokenId, TokenScores, Variant};

/// Answers a diagnosis's questions with the resident model. Synchronous.
pub trait Prober {
    /// Scores, one per sequence, in order; `ScoringSequence::policy_version` names the weights.
    ///
    /// # Errors
    /// [`ProbeError`].
    fn rescore(&mut self, sequences: &[ScoringSequence]) -> Result<Vec<TokenScores>, ProbeError>;

    /// As [`Prober::rescore`], by a variant of the model that [`Prober::supports`].
    ///
    /// # Errors
    /// [`ProbeError`].
    fn variant(&mut self, sequences: &[ScoringSequence], variant: &Variant) -> Result<Vec<TokenScores>, ProbeError>;

    /// As [`plumbline_core::ReferenceModel::logits`]: calls `visit` for each of `places`, indices into
    /// [`ScoringSequence::scored`] in ascending order, with the row that predicts that token.
    ///
    /// # Errors
    /// [`ProbeError`].
    fn logits(
        &mut self,
        sequence: &ScoringSequence,
        places: &[usize],
        visit: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), ProbeError>;

    /// Whether [`Prober::variant`] can compute this variant.
    fn supports(&self, variant: &Variant) -> bool;

    /// Resident policy versions, oldest first.
    fn versions(&self) -> Vec<String>;

    /// Other ids that spell the same text as these one to three ids. Needs a tokenizer; without one there are none.
    fn respellings(&mut self, _ids: &[TokenId]) -> Vec<Vec<TokenId>> {
        Vec::new()
    }
}

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// No budget is left for it.
    #[error("the budget is spent")]
    Exhausted,
    /// It cannot be answered here.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// The model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// A prober that counts what is asked of it.
pub(super) struct Budgeted<'a> {
    prober: &'a mut dyn Prober,
    left: usize,
    /// Tokens of all forwards so far.
    pub(super) spent: usize,
    /// Whether a question was too expensive.
    pub(super) exhausted: bool,
    /// Questions that failed, each kind of failure once.
    pub(super) failures: Vec<String>,
}

impl<'a> Budgeted<'a> {
    pub(super) fn new(prober: &'a mut dyn Prober, tokens: usize) -> Self {
        Self { prober, left: tokens, spent: 0, exhausted: false, failures: Vec::new() }
    }

    pub(super) fn supports(&self, variant: &Variant) -> bool {
        self.prober.supports(variant)
    }

    pub(super) fn versions(&self) -> Vec<String> {
        self.prober.versions()
    }

    pub(super) fn respellings(&mut self, ids: &[TokenId]) -> Vec<Vec<TokenId>> {
        self.prober.respellings(ids)
    }

    /// Whether questions of this many tokens can still be asked.
    pub(super) fn affords(&mut self, tokens: usize) -> bool {
        let affords = tokens <= self.left;
        self.exhausted |= !affords;
        affords
    }

    /// Scores of a rollout, which may be an altered one, in its own mode and by its own versions or by `variant`.
    pub(super) fn score(&mut self, rollout: &Rollout, variant: Option<&Variant>) -> Option<TokenScores> {
        let sequences = match rollout.scoring_sequences() {
            Ok(sequences) => sequences,
            Err(error) => return self.failed(&error),
        };
        let tokens = sequences.iter().map(ScoringSequence::forward_tokens).sum();
        if !self.pay(tokens) {
            return None;
        }
        let answer = match variant {
            None => self.prober.rescore(&sequences),
            Some(variant) => self.prober.variant(&sequences, variant),
        };
        match answer {
            Ok(parts) => rollout.join_scores(&parts.iter().collect::<Vec<_>>()),
            Err(error) => self.refused(&error),
        }
    }

    /// Rows of logits of a rollout's tokens with context, of one version's weights: those of the first that sampled it.
    pub(super) fn logits(&mut self, rollout: &Rollout, places: &[usize], visit: &mut dyn FnMut(usize, &[f32])) -> bool {
        let single = Rollout { weight_versions: Vec::new(), ..rollout.clone() };
        let sequence = match single.scoring_sequences().map(|sequences| sequences.into_iter().next()) {
            Ok(Some(sequence)) => sequence,
            Ok(None) => return false,
            Err(error) => return self.failed::<()>(&error).is_some(),
        };
        if !self.pay(sequence.forward_tokens()) {
            return false;
        }
        match self.prober.logits(&sequence, places, visit) {
            Ok(()) => true,
            Err(error) => self.refused::<()>(&error).is_some(),
        }
    }

    fn pay(&mut self, tokens: usize) -> bool {
        let affords = self.affords(tokens);
        if affords {
            self.left -= tokens;
            self.spent += tokens;
        }
        affords
    }

    fn refused<T>(&mut self, error: &ProbeError) -> Option<T> {
        if *error == ProbeError::Exhausted {
            self.exhausted = true;
            self.left = 0;
            return None;
        }
        self.failed(error)
    }

    fn failed<T>(&mut self, error: &dyn std::fmt::Display) -> Option<T> {
        let failure = error.to_string();
        if !self.failures.contains(&failure) {
            self.failures.push(failure);
        }
        None
    }
}
