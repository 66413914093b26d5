//! Questions of a diagnosis to the model, as jobs beside scoring.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use plumbline_core::{ModelError, ReferenceModel, ScoringSequence, TokenId, TokenScores, TokenText, Variant};
use plumbline_divergence::{ProbeError, Prober};
use plumbline_scheduler::{AsideError, Models, Scheduler};

use crate::pieces::{PieceError, PieceLimits, cut, forward_tokens, score_piece};

/// How often a diagnosis that waits for the model looks whether it should go on.
const LOOK: Duration = Duration::from_millis(50);

/// Bytes of logits that wait to be looked at, whatever the vocabulary.
const LOGIT_BYTES: usize = 64 << 20;

/// Asks the model in small jobs, with a limit of tokens and of time.
#[allow(missing_debug_implementations, reason = "borrows closures")]
pub struct AsideProber<'a> {
    /// Where the model is.
    pub scheduler: &'a Scheduler,
    /// Sizes of jobs.
    pub limits: PieceLimits,
    /// Tokens of forwards that are left.
    pub tokens_left: usize,
    /// When to stop asking.
    pub deadline: Option<Instant>,
    /// Whether to stop for another reason.
    pub give_up: &'a dyn Fn() -> bool,
    /// The text of tokens, if the model has a tokenizer.
    pub text: Option<&'a dyn TokenText>,
    /// What [`Prober::supports`] found out.
    pub supported: RefCell<Vec<(Variant, bool)>>,
}

impl AsideProber<'_> {
    fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now()) || (self.give_up)()
    }

    /// Not exhausted: shorter sequences can still be asked for.
    fn too_long(&self) -> ProbeError {
        ProbeError::Unsupported(format!("sequences of more than {} tokens are not scored again", self.limits.longest))
    }

    fn pay(&mut self, tokens: usize) -> Result<(), ProbeError> {
        self.tokens_left = self.tokens_left.checked_sub(tokens).ok_or(ProbeError::Exhausted)?;
        Ok(())
    }

    fn job<T, F>(&self, tokens: usize, run: F) -> Result<T, ProbeError>
    where
        F: FnOnce(&mut dyn Models) -> Result<T, PieceError> + Send + 'static,
        T: Send + 'static,
    {
        if self.is_over() {
            return Err(ProbeError::Exhausted);
        }
        let mut ticket = self.scheduler.aside(tokens, run).map_err(|error| failed(&error))?;
        loop {
            let look = Instant::now() + LOOK;
            match ticket.wait_until(self.deadline.map_or(look, |deadline| deadline.min(look))) {
                Ok(Ok(result)) => {
                    return result.map_err(|error| match error {
                        PieceError::Model(ModelError::Unsupported(what)) => ProbeError::Unsupported(what),
                        PieceError::Model(error) => ProbeError::Model(error),
                        PieceError::Gone(_) => ProbeError::Unsupported(error.to_string()),
                    });
                }
                Ok(Err(error)) => return Err(failed(&error)),
                // Dropping the ticket cancels the job.
                Err(_) if self.is_over() => return Err(ProbeError::Exhausted),
                Err(waiting) => ticket = waiting,
            }
        }
    }

    fn scores(
        &mut self,
        sequences: &[ScoringSequence],
        variant: Option<Variant>,
    ) -> Result<Vec<TokenScores>, ProbeError> {
        let pieces = cut(sequences, self.limits).ok_or_else(|| self.too_long())?;
        self.pay(forward_tokens(sequences))?;
        let sequences: Arc<[ScoringSequence]> = sequences.into();
        let mut scores = Vec::with_capacity(sequences.len());
        for piece in pieces {
            let sequences = Arc::clone(&sequences);
            let tokens = forward_tokens(&sequences[piece.clone()]);
            scores.extend(self.job(tokens, move |models| score_piece(models, &sequences[piece], variant.as_ref()))?);
        }
        Ok(scores)
    }
}

impl Prober for AsideProber<'_> {
    fn rescore(&mut self, sequences: &[ScoringSequence]) -> Result<Vec<TokenScores>, ProbeError> {
        self.scores(sequences, None)
    }

    fn variant(&mut self, sequences: &[ScoringSequence], variant: &Variant) -> Result<Vec<TokenScores>, ProbeError> {
        self.scores(sequences, Some(*variant))
    }

    fn logits(
        &mut self,
        sequence: &ScoringSequence,
        places: &[usize],
        visit: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), ProbeError> {
        let reference = self.scheduler.reference().ok_or(ProbeError::Exhausted)?;
        let row = reference.limits.vocab_size * size_of::<f32>();
        for places in places.chunks((LOGIT_BYTES / row.max(1)).max(1)) {
            let Some(last) = places.last() else { continue };
            // What comes after the last row that is asked for is not computed.
            let end = (sequence.scored.start + last + 1).min(sequence.scored.end);
            let asked = ScoringSequence {
                token_ids: sequence.token_ids[..end].to_vec(),
                scored: sequence.scored.start..end,
                ..sequence.clone()
            };
            if asked.forward_tokens() > self.limits.longest {
                return Err(self.too_long());
            }
            self.pay(asked.forward_tokens())?;
            let own = places.to_vec();
            // The rows are looked at here and not on the model thread, whose time is traffic's.
            let rows = self.job(asked.forward_tokens(), move |models| {
                let version = match (&asked.policy_version, models.current()) {
                    (Some(version), _) => version.clone(),
                    (None, Some(current)) => current.policy_version.clone(),
                    (None, None) => return Err(PieceError::Gone(String::new())),
                };
                let mut model = models.model(&version).ok_or(PieceError::Gone(version))?;
                let mut rows = Vec::with_capacity(own.len());
                model.logits(&asked, &own, &mut |place, logits| rows.push((place, logits.to_vec())))?;
                Ok(rows)
            })?;
            rows.iter().for_each(|(place, logits)| visit(*place, logits));
        }
        Ok(())
    }

    fn supports(&self, variant: &Variant) -> bool {
        let known = self.supported.borrow().iter().find(|(other, _)| other == variant).map(|(_, supported)| *supported);
        if let Some(supported) = known {
            return supported;
        }
        let own = *variant;
        let supported = self.job(0, move |models| {
            let version = models.current().map(|current| current.policy_version.clone()).unwrap_or_default();
            Ok(models.model(&version).is_some_and(|model| model.supports(&own)))
        });
        // Whoever cannot ask cannot use it either, now.
        let Ok(supported) = supported else { return false };
        self.supported.borrow_mut().push((own, supported));
        supported
    }

    fn versions(&self) -> Vec<String> {
        self.scheduler.residents().kept().iter().map(|info| info.policy_version.clone()).collect()
    }

    fn respellings(&mut self, ids: &[TokenId]) -> Vec<Vec<TokenId>> {
        self.text.map(|text| text.respellings(ids)).unwrap_or_default()
    }
}

fn failed(error: &AsideError) -> ProbeError {
    match error {
        AsideError::Panicked(panic) => ProbeError::Model(ModelError::Device(format!("the model panicked: {panic}"))),
        AsideError::Full { .. } | AsideError::NotServing | AsideError::Stopped => ProbeError::Exhausted,
    }
}
