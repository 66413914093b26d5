//! Text sampled from the reference itself, for a floor before there is any traffic.

use plumbline_core::{ModelError, ReferenceInfo, ReferenceModel, ScoringSequence, TokenId};
use plumbline_scheduler::Models;

use crate::pieces::PieceError;

/// Tokens of one sampled sequence. Without a cache of keys and values, sampling a sequence costs the square of its length.
const SEQUENCE_TOKENS: usize = 32;

/// A sequence under construction, sampled at temperature 1 in pieces of bounded work.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    token_ids: Vec<TokenId>,
    random: SplitMix64,
    ended: bool,
}

impl Draft {
    /// The `number`-th sequence of a model: every other one begins as a document does, after an EOS token, and the others with
    /// any token, so that they are not all alike. The same every time.
    pub(crate) fn new(number: u64, info: &ReferenceInfo) -> Self {
        let mut random = SplitMix64(number);
        let any = (random.unit() * info.limits.vocab_size as f64) as TokenId;
        let first = match info.eos_token_ids.first() {
            Some(eos) if number.is_multiple_of(2) => *eos,
            _ => any,
        };
        Self { token_ids: vec![first], random, ended: false }
    }

    /// Samples on with at most `tokens` tokens of forwards, but at least one token.
    ///
    /// # Errors
    /// The version has left, or the model cannot say its logits or failed.
    pub(crate) fn advance(&mut self, models: &mut dyn Models, version: &str, tokens: usize) -> Result<(), PieceError> {
        let mut model = models.model(version).ok_or_else(|| PieceError::Gone(version.to_owned()))?;
        let (eos, longest) = (model.info().eos_token_ids.clone(), model.info().limits.max_positions);
        let mut spent = 0;
        while !self.ended && (spent == 0 || spent + self.token_ids.len() <= tokens) {
            spent += self.token_ids.len();
            let next = self.next_token(&mut model)?;
            self.token_ids.push(next);
            let most = SEQUENCE_TOKENS.min(longest);
            self.ended = self.token_ids.len() >= most || eos.contains(&next);
        }
        Ok(())
    }

    fn next_token(&mut self, model: &mut impl ReferenceModel) -> Result<TokenId, ModelError> {
        let end = self.token_ids.len();
        // Something must stand where the next token will; what it is does not matter for its own distribution.
        let mut token_ids = self.token_ids.clone();
        token_ids.push(0);
        let sequence = ScoringSequence { scored: end..end + 1, ..ScoringSequence::all_tokens(token_ids) };
        let uniform = self.random.unit();
        let mut drawn = None;
        model.logits(&sequence, &[0], &mut |_, logits| drawn = draw(logits, uniform))?;
        drawn.ok_or_else(|| ModelError::Numerics("the logits of the next token are no distribution".into()))
    }

    /// Whether it is complete.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// Every token but the first, to be scored.
    pub(crate) fn into_sequence(self) -> ScoringSequence {
        ScoringSequence::all_tokens(self.token_ids)
    }
}

/// The token at which the cumulative softmax passes `uniform`, which is in [0, 1).
fn draw(logits: &[f32], uniform: f64) -> Option<TokenId> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |logit: f32| f64::from(logit - largest).exp();
    let total: f64 = logits.iter().map(|logit| weight(*logit)).sum();
    if !(total.is_finite() && total > 0.0) {
        return None;
    }
    let mut left = uniform * total;
    let mut last = None;
    for (token, logit) in logits.iter().enumerate() {
        let own = weight(*logit);
        if own > 0.0 {
            last = Some(token as TokenId);
            if left < own {
                break;
            }
        }
        left -= own;
    }
    last
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014). What is drawn only has to be varied.
#[derive(Clone, Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in [0, 1).
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_drawn_as_often_as_their_probability_says() {
        let logits = [0.0, f32::NEG_INFINITY, 3f32.ln(), 0.0];
        let mut random = SplitMix64(7);
        let mut counts = [0usize; 4];
        for _ in 0..50_000 {
            counts[draw(&logits, random.unit()).unwrap() as usize] += 1;
        }
        let expected = [10_000.0, 0.0, 30_000.0, 10_000.0];
        for (count, expected) in counts.into_iter().zip(expected) {
            assert!((count as f64 - expected).abs() <= 500.0, "{counts:?}");
        }
        assert_eq!(draw(&logits, 0.0), Some(0));
        assert_eq!(draw(&logits, 1.0 - f64::EPSILON), Some(3));
    }

    #[test]
    fn what_is_no_distribution_is_not_drawn_from() {
        assert_eq!(draw(&[], 0.5), None);
        assert_eq!(draw(&[f32::NAN, 1.0], 0.5), None);
        assert_eq!(draw(&[f32::NEG_INFINITY; 3], 0.5), None);
        assert_eq!(draw(&[f32::INFINITY, 1.0], 0.5), None);
    }
}
