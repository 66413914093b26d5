//! Lining up what the engine said with what the reference says, token by token.

use plumbline_core::{Rollout, SkipCounts, SkipReason, TokenScores};
use serde::{Deserialize, Serialize};

use crate::terms;

/// One completion token: both logprobs, what the reference knows about it, and whether it enters the sums.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenComparison {
    /// The sampled token.
    pub token_id: u32,
    /// `e_t` in nats exactly as sent, sentinels and NaN included; `None` where the engine gave none.
    pub engine: Option<f64>,
    /// `r_t` in nats in the mode of the engine's number; `None` where the token has no context, or the reference's own
    /// truncation leaves it out.
    pub reference: Option<f64>,
    /// Entropy in nats of the reference's next-token distribution.
    pub entropy: Option<f64>,
    /// Number of tokens that the reference prefers to this one; 0 = its own first choice.
    pub rank: Option<u32>,
    /// Probability that the reference gives to ending the sequence here.
    pub eos_probability: Option<f64>,
    /// Why the token enters no sum; `None` if it does.
    pub skipped: Option<SkipReason>,
}

impl TokenComparison {
    /// `d_t = r_t - e_t` in nats (reference over engine), also of a masked token: shown, but in no sum.
    ///
    /// `None` where one of the two is missing or the engine's value is no logprob (sentinel, NaN, infinite, positive).
    #[must_use]
    pub fn log_ratio(&self) -> Option<f64> {
        self.comparable().map(|(engine, reference)| reference - engine)
    }

    /// `rho_t = exp(d_t)`, the exponent limited to +-[`EXPONENT_LIMIT`](crate::EXPONENT_LIMIT).
    #[must_use]
    pub fn importance_ratio(&self) -> Option<f64> {
        self.log_ratio().map(terms::limited_exp)
    }

    /// `(e_t, r_t)` of a token that enters the sums, else `None`.
    #[must_use]
    pub fn compared(&self) -> Option<(f64, f64)> {
        if self.skipped.is_some() { None } else { self.comparable() }
    }

    fn comparable(&self) -> Option<(f64, f64)> {
        let engine = self.engine.filter(|engine| SkipReason::of_value(Some(*engine)).is_none())?;
        let reference = self.reference.filter(|reference| reference.is_finite())?;
        Some((engine, reference))
    }
}

/// One rollout beside the reference's scores.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SequenceComparison {
    /// The rollout's id.
    pub id: String,
    /// One per completion token, in order.
    pub tokens: Vec<TokenComparison>,
    /// The tokens that enter no sum, by reason.
    pub skipped: SkipCounts,
    /// `P_ref(EOS)` where the sequence ended: at its last token, if that is an EOS token which has context and is not
    /// masked. Near 0 = the reference would not have ended there. `None` for a sequence that ended otherwise.
    pub eos_probability: Option<f64>,
}

/// Why a rollout and scores cannot be lined up. Either is a defect of the caller, not of the engine that is verified.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CompareError {
    /// Two arrays that must be parallel are not.
    #[error("{field} has {actual} values, expected {expected}")]
    LengthMismatch {
        /// The array, as a path into the rollout or the scores.
        field: &'static str,
        /// Its length.
        actual: usize,
        /// The length it must have.
        expected: usize,
    },
    /// The reference's value is no logprob.
    #[error("reference logprob of completion token {index} is {value}, not the logarithm of a probability")]
    InvalidReference {
        /// Index of the completion token.
        index: usize,
        /// The reference's value.
        value: f64,
    },
}

/// Largest reference value above 0 that is still rounding: the target's logit and the log-sum-exp may come from different
/// f32 kernels, and one unit in the last place of a logit of 1000 is 6e-5.
const REFERENCE_ROUNDING: f64 = 1e-4;

/// Lines up one rollout with its scores. The reference's value is `logprobs_in_mode`. A token that cannot be compared gets the
/// first reason that applies: masked, no context, what is wrong with the engine's value, then support mismatch, where the
/// reference's value is minus infinity.
///
/// # Errors
/// [`CompareError`] if an array of the rollout or the scores has the wrong length (the scores cover the completion tokens
/// that have context), or a reference value is above 0 or neither finite nor minus infinity.
pub fn compare(
    rollout: &Rollout,
    scores: &TokenScores,
    eos_token_ids: &[u32],
) -> Result<SequenceComparison, CompareError> {
    let completion = rollout.completion_token_ids.len();
    let without_context = rollout.tokens_without_context().min(completion);
    check_lengths(rollout, scores, completion, completion - without_context)?;

    let mut tokens = Vec::with_capacity(completion);
    let mut skipped = SkipCounts::default();
    for (index, (&token_id, &engine)) in rollout.completion_token_ids.iter().zip(&rollout.logprobs).enumerate() {
        let scored = index.checked_sub(without_context);
        let reference = scored.map(|scored| scores.logprobs_in_mode[scored]);
        if let Some(value) = reference.filter(|value| value.is_nan() || *value > REFERENCE_ROUNDING) {
            return Err(CompareError::InvalidReference { index, value });
        }
        let supported = reference.filter(|value| *value != f64::NEG_INFINITY);
        let masked = rollout.loss_mask.as_ref().is_some_and(|mask| !mask[index]);
        let reason = if masked {
            Some(SkipReason::Masked)
        } else if scored.is_none() {
            Some(SkipReason::NoContext)
        } else {
            SkipReason::of_value(engine).or(supported.is_none().then_some(SkipReason::SupportMismatch))
        };
        if let Some(reason) = reason {
            skipped.add(reason);
        }
        tokens.push(TokenComparison {
            token_id,
            engine,
            reference: supported,
            entropy: scored.map(|scored| scores.entropy[scored]),
            rank: scored.map(|scored| scores.rank[scored]),
            eos_probability: scored.map(|scored| scores.eos_probability[scored]),
            skipped: reason,
        });
    }
    let eos_probability = tokens
        .last()
        .filter(|last| eos_token_ids.contains(&last.token_id) && last.skipped != Some(SkipReason::Masked))
        .and_then(|last| last.eos_probability);
    Ok(SequenceComparison { id: rollout.id.clone(), tokens, skipped, eos_probability })
}

fn check_lengths(
    rollout: &Rollout,
    scores: &TokenScores,
    completion: usize,
    scored: usize,
) -> Result<(), CompareError> {
    let mask = rollout.loss_mask.as_ref().map_or(completion, Vec::len);
    let lengths = [
        ("rollout.logprobs", rollout.logprobs.len(), completion),
        ("rollout.loss_mask", mask, completion),
        ("scores.logprobs", scores.logprobs.len(), scored),
        ("scores.logprobs_in_mode", scores.logprobs_in_mode.len(), scored),
        ("scores.entropy", scores.entropy.len(), scored),
        ("scores.rank", scores.rank.len(), scored),
        ("scores.eos_probability", scores.eos_probability.len(), scored),
    ];
    match lengths.into_iter().find(|(_, actual, expected)| actual != expected) {
        Some((field, actual, expected)) => Err(CompareError::LengthMismatch { field, actual, expected }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use plumbline_core::{LogprobsMode, Sampling};

    use super::*;

    const EOS: u32 = 9;

    fn rollout(prompt: &[u32], completion: &[u32], logprobs: &[Option<f64>]) -> Rollout {
        Rollout {
            id: "s".into(),
            prompt_token_ids: prompt.to_vec(),
            completion_token_ids: completion.to_vec(),
            logprobs: logprobs.to_vec(),
            loss_mask: None,
            sampling: Sampling { temperature: 0.5, ..Sampling::default() },
            logprobs_mode: LogprobsMode::Temperature,
            finish_reason: None,
            policy_version: None,
            weight_versions: Vec::new(),
        }
    }

    fn scores(at_temperature: &[f64]) -> TokenScores {
        TokenScores {
            logprobs: vec![-50.0; at_temperature.len()],
            logprobs_in_mode: at_temperature.to_vec(),
            entropy: vec![0.5; at_temperature.len()],
            rank: (0..at_temperature.len() as u32).collect(),
            eos_probability: (1..=at_temperature.len()).map(|index| index as f64 / 100.0).collect(),
        }
    }

    #[test]
    fn the_log_ratio_is_reference_over_engine_at_the_rollouts_temperature() {
        let compared = compare(&rollout(&[1], &[2], &[Some(-1.0)]), &scores(&[-0.25]), &[]).unwrap();
        assert_eq!(compared.tokens[0].log_ratio(), Some(0.75));
        assert_eq!(compared.tokens[0].importance_ratio(), Some(0.75f64.exp()));
        assert_eq!(compared.tokens[0].compared(), Some((-1.0, -0.25)));
    }

    #[test]
    fn exponents_are_limited() {
        let compared = compare(&rollout(&[1], &[2], &[Some(-100.0)]), &scores(&[-1.0]), &[]).unwrap();
        assert_eq!(compared.tokens[0].log_ratio(), Some(99.0));
        assert_eq!(compared.tokens[0].importance_ratio(), Some(20f64.exp()));
    }

    #[test]
    fn every_token_is_compared_or_skipped_for_its_first_reason() {
        use SkipReason as S;
        let engine = [Some(-9999.0), None, Some(-9999.0), Some(f64::NAN), Some(0.5), Some(-1.0), Some(-2.0)];
        let mut rollout = rollout(&[], &[1; 7], &engine);
        rollout.loss_mask = Some(vec![true, true, true, true, true, false, true]);
        let compared = compare(&rollout, &scores(&[-1.5; 6]), &[]).unwrap();
        let reasons: Vec<_> = compared.tokens.iter().map(|token| token.skipped).collect();
        let expected = [S::NoContext, S::Missing, S::Sentinel, S::NonFinite, S::Positive, S::Masked].map(Some);
        assert_eq!(reasons[..6], expected);
        assert_eq!(reasons[6], None);
        assert_eq!(compared.skipped.total(), 6);
        let ratios: Vec<_> = compared.tokens.iter().map(TokenComparison::log_ratio).collect();
        assert_eq!(ratios, [None, None, None, None, None, Some(-0.5), Some(0.5)], "a masked token is shown");
        assert_eq!(compared.tokens[5].compared(), None, "but in no sum");
    }

    #[test]
    fn a_token_outside_the_references_support_has_no_ratio_and_is_counted() {
        let engine = [Some(-1.0), Some(-1.0), None, Some(-1.0)];
        let mut rollout = rollout(&[1], &[2, 3, 4, 5], &engine);
        rollout.loss_mask = Some(vec![true, true, true, false]);
        let outside = f64::NEG_INFINITY;
        let compared = compare(&rollout, &scores(&[-0.5, outside, outside, outside]), &[]).unwrap();
        let reasons: Vec<_> = compared.tokens.iter().map(|token| token.skipped).collect();
        use SkipReason as S;
        assert_eq!(reasons, [None, Some(S::SupportMismatch), Some(S::Missing), Some(S::Masked)]);
        assert_eq!(compared.skipped.get(S::SupportMismatch), 1);
        let token = &compared.tokens[1];
        assert_eq!((token.reference, token.log_ratio(), token.compared()), (None, None, None), "never clamped");
        assert!(token.entropy.is_some(), "what is known of the row is shown");
    }

    #[test]
    fn a_masked_first_token_without_context_is_masked() {
        let mut rollout = rollout(&[], &[1, 2], &[Some(-1.0); 2]);
        rollout.loss_mask = Some(vec![false, true]);
        let compared = compare(&rollout, &scores(&[-1.0]), &[]).unwrap();
        assert_eq!(compared.tokens[0].skipped, Some(SkipReason::Masked));
        assert_eq!(compared.tokens[0].reference, None);
    }

    #[test]
    fn the_end_is_judged_only_where_the_sequence_really_ended() {
        let end = |rollout: &Rollout, scores: &TokenScores| compare(rollout, scores, &[EOS]).unwrap().eos_probability;
        let mut ended = rollout(&[1], &[2, EOS], &[Some(-1.0), Some(-9999.0)]);
        assert_eq!(end(&ended, &scores(&[-1.0; 2])), Some(0.02), "a bad engine value does not hide the end");
        ended.loss_mask = Some(vec![true, false]);
        assert_eq!(end(&ended, &scores(&[-1.0; 2])), None);
        assert_eq!(end(&rollout(&[1], &[EOS, 2], &[Some(-1.0); 2]), &scores(&[-1.0; 2])), None);
        assert_eq!(end(&rollout(&[], &[EOS], &[Some(-1.0)]), &scores(&[])), None);
    }

    #[test]
    fn lengths_that_disagree_are_named() {
        let field = |rollout: &Rollout, scores: &TokenScores| match compare(rollout, scores, &[]) {
            Err(CompareError::LengthMismatch { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        let good = rollout(&[1], &[2, 3], &[Some(-1.0); 2]);
        assert_eq!(field(&good, &scores(&[-1.0])), "scores.logprobs");
        let mut short = scores(&[-1.0; 2]);
        short.rank.pop();
        assert_eq!(field(&good, &short), "scores.rank");
        assert_eq!(field(&rollout(&[1], &[2, 3], &[None]), &scores(&[-1.0; 2])), "rollout.logprobs");
        let mut masked = good.clone();
        masked.loss_mask = Some(vec![true]);
        assert_eq!(field(&masked, &scores(&[-1.0; 2])), "rollout.loss_mask");
        let error = compare(&rollout(&[], &[2, 3], &[None; 2]), &scores(&[-1.0; 2]), &[]).unwrap_err();
        assert_eq!(error.to_string(), "scores.logprobs has 2 values, expected 1");
    }

    #[test]
    fn a_broken_reference_is_an_error_and_rounding_is_not() {
        let of = |reference: f64| compare(&rollout(&[1], &[2], &[Some(-1.0)]), &scores(&[reference]), &[]);
        for broken in [f64::NAN, f64::INFINITY, 0.01] {
            assert!(matches!(of(broken), Err(CompareError::InvalidReference { index: 0, .. })), "{broken}");
        }
        assert_eq!(of(1e-7).unwrap().tokens[0].log_ratio(), Some(1e-7 + 1.0));
    }
}
