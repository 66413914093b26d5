//! Questions to the model, and what they cost.

use std::ops::Range;

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

    /// Tokens that can still be asked for.
    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// Whether questions of this many tokens can still be asked.
    pub(super) fn affords(&mut self, tokens: usize) -> bool {
        let affords = tokens <= self.left;
        self.exhausted |= !affords;
        affords
    }

    /// Scores of rollouts, which may be altered ones, in their own modes and by their own versions or by `variant`; `None` for
    /// those that were not affordable or have no answer. Asked together: the model computes them in fewer forwards.
    pub(super) fn score(&mut self, rollouts: &[Rollout], variant: Option<&Variant>) -> Vec<Option<TokenScores>> {
        let mut sequences: Vec<ScoringSequence> = Vec::new();
        let mut asked: Vec<(usize, Range<usize>)> = Vec::new();
        for (index, rollout) in rollouts.iter().enumerate() {
            let own = match rollout.scoring_sequences() {
                Ok(own) => own,
                Err(error) => {
                    self.failed(&error);
                    continue;
                }
            };
            if self.pay(own.iter().map(ScoringSequence::forward_tokens).sum()) {
                asked.push((index, sequences.len()..sequences.len() + own.len()));
                sequences.extend(own);
            }
        }
        let mut scores = vec![None; rollouts.len()];
        if sequences.is_empty() {
            return scores;
        }
        match self.put(&sequences, variant) {
            Ok(parts) => {
                for (index, range) in asked {
                    scores[index] = rollouts[index].join_scores(&parts[range].iter().collect::<Vec<_>>());
                }
            }
            // One of them alone may be too long.
            Err(ProbeError::Unsupported(_)) if asked.len() > 1 => {
                for (index, range) in asked {
                    scores[index] = match self.put(&sequences[range], variant) {
                        Ok(parts) => rollouts[index].join_scores(&parts.iter().collect::<Vec<_>>()),
                        Err(error) => self.refused(&error),
                    };
                }
            }
            Err(error) => {
                self.refused::<()>(&error);
            }
        }
        scores
    }

    fn put(
        &mut self,
        sequences: &[ScoringSequence],
        variant: Option<&Variant>,
    ) -> Result<Vec<TokenScores>, ProbeError> {
        match variant {
            None => self.prober.rescore(sequences),
            Some(variant) => self.prober.variant(sequences, variant),
        }
    }

    /// Rows of logits of a rollout's tokens with context, of one version's weights: those of the first that sampled it.
    pub(super) fn logits(&mut self, rollout: &Rollout, places: &[usize], visit: &mut dyn FnMut(usize, &[f32])) -> bool {
        let single = Rollout { weight_versions: Vec::new(), ..rollout.clone() };
        let sequence = match single.scoring_sequences().map(|sequences| sequences.into_iter().next()) {
            Ok(Some(sequence)) => sequence,
            Ok(None) => return false,
            Err(error) => {
                self.failed(&error);
                return false;
            }
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
        self.failed(error);
        None
    }

    fn failed(&mut self, error: &dyn std::fmt::Display) {
        let failure = error.to_string();
        if !self.failures.contains(&failure) {
            self.failures.push(failure);
        }
    }
}
