//! What the reference says about one sequence.

use std::ops::Range;

/// Scores of one sequence's scored tokens, struct of arrays, all of the same length and in token order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenScores {
    /// `r_t` in nats at temperature 1.
    pub logprobs: Vec<f64>,
    /// `r_t` in nats after the sequence's [`Processing`](crate::Processing), which makes it comparable with what the engine
    /// reported: minus infinity for a token that the reference's own truncation leaves out; the same bits as
    /// [`TokenScores::logprobs`] where nothing is processed.
    pub logprobs_in_mode: Vec<f64>,
    /// Entropy in nats of the reference's next-token distribution at temperature 1.
    pub entropy: Vec<f64>,
    /// Number of tokens to which the reference gives a strictly higher logit; 0 = its own first choice.
    pub rank: Vec<u32>,
    /// Probability that the reference gives to ending here: the sum over the model's EOS ids at temperature 1.
    pub eos_probability: Vec<f64>,
}

impl TokenScores {
    /// Empty scores with room for `tokens`.
    #[must_use]
    pub fn with_capacity(tokens: usize) -> Self {
        Self {
            logprobs: Vec::with_capacity(tokens),
            logprobs_in_mode: Vec::with_capacity(tokens),
            entropy: Vec::with_capacity(tokens),
            rank: Vec::with_capacity(tokens),
            eos_probability: Vec::with_capacity(tokens),
        }
    }

    /// Appends the tokens of `range` of other scores; what `other` does not have is left out.
    pub fn extend_from(&mut self, other: &Self, range: Range<usize>) {
        fn extend<T: Copy>(to: &mut Vec<T>, from: &[T], range: Range<usize>) {
            to.extend(from.iter().skip(range.start).take(range.len()));
        }
        extend(&mut self.logprobs, &other.logprobs, range.clone());
        extend(&mut self.logprobs_in_mode, &other.logprobs_in_mode, range.clone());
        extend(&mut self.entropy, &other.entropy, range.clone());
        extend(&mut self.rank, &other.rank, range.clone());
        extend(&mut self.eos_probability, &other.eos_probability, range);
    }

    /// Number of scored tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.logprobs.len()
    }

    /// Whether nothing was scored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.logprobs.is_empty()
    }
}
