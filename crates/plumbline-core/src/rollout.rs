//! One sampled sequence as a rollout worker reports it.

use crate::{LogprobsMode, Sampling, VersionSpan};

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
    /// Which version sampled which completion tokens, where the engine's weights changed within the sequence; empty =
    /// [`Rollout::policy_version`] sampled all of them.
    pub weight_versions: Vec<VersionSpan>,
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
}
