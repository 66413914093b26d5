//! One sampled sequence as a rollout worker reports it.

use crate::{IrreproducibleMode, LogprobsMode, Sampling, ScoringSequence};

/// A token's id in the model's vocabulary.
pub type TokenId = u32;

/// One sampled sequence: prompt ids, completion ids, and the engine's logprob of each completion token.
///
/// The fields are as sent; [`Rollout::violations`] says what makes one unusable. Nothing here is ever re-tokenised,
/// truncated or clipped.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollout {
    /// The sender's name for the sequence, echoed in answers.
    pub id: String,
    /// Ids the engine was given. May be empty: then the first completion token has no context and cannot be scored.
    pub prompt_token_ids: Vec<TokenId>,
    /// Ids the engine sampled.
    pub completion_token_ids: Vec<TokenId>,
    /// `e_t` in nats, one per completion token; `None` where the engine gave none (JSON `null`), NaN and infinities kept.
    pub logprobs: Vec<Option<f64>>,
    /// One per completion token when present; `false` = shown, but in no sum (tool and observation tokens).
    pub loss_mask: Option<Vec<bool>>,
    /// How the engine sampled.
    pub sampling: Sampling,
    /// What the engine's number means.
    pub logprobs_mode: LogprobsMode,
    /// The engine's word for why it stopped (`stop`, `length`, ...), if it said one.
    pub finish_reason: Option<String>,
    /// Version of the weights that sampled it, an opaque string, if known.
    pub policy_version: Option<String>,
}

impl Rollout {
    /// Index, in prompt + completion, of the first completion token that has context (1 if the prompt is empty).
    #[must_use]
    pub fn first_scorable(&self) -> usize {
        self.prompt_token_ids.len().max(1)
    }

    /// Number of completion tokens without any context before them: 1 for an empty prompt, else 0.
    #[must_use]
    pub fn tokens_without_context(&self) -> usize {
        self.first_scorable() - self.prompt_token_ids.len()
    }

    /// The work that the reference has to do for this rollout: every completion token with context, at the temperature
    /// that reproduces [`Rollout::logprobs_mode`].
    ///
    /// # Errors
    /// [`IrreproducibleMode`] if the mode asks for a transform that the reference does not reproduce.
    pub fn scoring_sequence(&self) -> Result<ScoringSequence, IrreproducibleMode> {
        let temperature = self.logprobs_mode.reference_temperature(&self.sampling)?;
        let mut token_ids = Vec::with_capacity(self.prompt_token_ids.len() + self.completion_token_ids.len());
        token_ids.extend_from_slice(&self.prompt_token_ids);
        token_ids.extend_from_slice(&self.completion_token_ids);
        let first = self.first_scorable().min(token_ids.len());
        Ok(ScoringSequence { scored: first..token_ids.len(), token_ids, temperature })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rollout(prompt: &[TokenId], completion: &[TokenId]) -> Rollout {
        Rollout {
            id: "s".into(),
            prompt_token_ids: prompt.to_vec(),
            completion_token_ids: completion.to_vec(),
            logprobs: vec![Some(-1.0); completion.len()],
            loss_mask: None,
            sampling: Sampling { temperature: 0.7, ..Sampling::default() },
            logprobs_mode: LogprobsMode::Temperature,
            finish_reason: None,
            policy_version: None,
        }
    }

    #[test]
    fn scores_the_completion_at_the_modes_temperature() {
        let work = rollout(&[1, 2], &[3, 4, 5]).scoring_sequence().unwrap();
        assert_eq!(work.token_ids, [1, 2, 3, 4, 5]);
        assert_eq!(work.scored, 2..5);
        assert_eq!(work.temperature, 0.7);
    }

    #[test]
    fn an_empty_prompt_leaves_the_first_token_without_context() {
        let rollout = rollout(&[], &[3, 4]);
        assert_eq!(rollout.tokens_without_context(), 1);
        assert_eq!(rollout.scoring_sequence().unwrap().scored, 1..2);
    }

    #[test]
    fn a_single_token_without_a_prompt_leaves_nothing_to_score() {
        assert_eq!(rollout(&[], &[3]).scoring_sequence().unwrap().scored, 1..1);
    }
}
