//! The tokens of one sequence that can be compared, and whether they differ by more than noise.

use plumbline_core::{LogprobsMode, TokenId};

use super::config::DiagnosisConfig;
use super::input::{Floor, SuspectSequence};

/// One compared token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Token {
    /// Index in the completion.
    pub(super) at: usize,
    /// Index in the reference's scores.
    pub(super) place: usize,
    /// The posted id.
    pub(super) id: TokenId,
    /// `e` in nats.
    pub(super) engine: f64,
    /// `r` in nats, in the engine's mode.
    pub(super) reference: f64,
    /// `r` in nats at temperature 1.
    pub(super) raw: f64,
    /// Number of tokens that the reference prefers.
    pub(super) rank: u32,
    /// Expected `|d|` under the floor.
    pub(super) floor: f64,
    /// Variance of `|d|` under the floor.
    pub(super) variance: f64,
    /// [`Token::floor`] as likelihoods take it: not much below the sequence's mean.
    pub(super) scale: f64,
}

impl Token {
    /// `d = r - e`.
    pub(super) fn log_ratio(&self) -> f64 {
        self.reference - self.engine
    }
}

/// The compared tokens of one sequence.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    /// Index in the input.
    pub(super) index: usize,
    /// In order.
    pub(super) tokens: Vec<Token>,
}

/// Share of the sequence's mean floor that the scale of every token has at least. Noise that does not shrink with the
/// entropy as the floor does is common: rounded logprobs, an engine whose head is coarser than its body.
const SHARE_OF_MEAN: f64 = 0.3;
/// Noise of a truncated distribution's logprobs, in multiples of that of all tokens: what is kept differs too. Logits of a bf16
/// head tie at the edge, and an engine keeps all that tie. A healthy vLLM in bf16 (the processed recordings) shows 1.0 floors
/// with temperature alone, 1.3 with min-p 0.05 and 1.5 with top-k 20.
const TRUNCATED: f64 = 1.5;
/// Smallest scale in nats: where the floor is unmeasurably small, rounding of f32 is not.
const SMALLEST_SCALE: f64 = 1e-6;

impl Observed {
    /// The tokens of a sequence but those at the completion indices of `without`.
    pub(super) fn new(index: usize, sequence: &SuspectSequence<'_>, floor: &dyn Floor, without: &[usize]) -> Self {
        let rollout = sequence.rollout;
        let sampling = &rollout.sampling;
        // Errors of logits count 1/T in logprobs after temperature.
        let temperature = match rollout.logprobs_mode {
            LogprobsMode::Raw => 1.0,
            _ if sampling.is_greedy() => 1.0,
            LogprobsMode::Temperature | LogprobsMode::Processed => sampling.temperature,
        };
        let truncates = sampling.top_k > 0 || sampling.top_p != 1.0 || sampling.min_p != 0.0;
        let is_truncated = rollout.logprobs_mode == LogprobsMode::Processed && truncates && !sampling.is_greedy();
        let noise = if is_truncated { TRUNCATED } else { 1.0 } / temperature;
        let skipped = rollout.tokens_without_context();
        let compared = sequence.comparison.tokens.iter().enumerate().filter_map(|(at, token)| {
            let (engine, reference) = token.compared()?;
            let place = at.checked_sub(skipped)?;
            let expected = floor.token(*sequence.scores.entropy.get(place)?);
            let mean = expected.mean_abs * noise;
            let square = expected.mean_square * noise.powi(2);
            Some(Token {
                at,
                place,
                id: token.token_id,
                engine,
                reference,
                raw: *sequence.scores.logprobs.get(place)?,
                rank: *sequence.scores.rank.get(place)?,
                floor: mean,
                variance: (square - mean * mean).max(0.0),
                scale: mean,
            })
        });
        let mut tokens: Vec<Token> = compared.filter(|token| !without.contains(&token.at)).collect();
        let least = SHARE_OF_MEAN * tokens.iter().map(|token| token.floor).sum::<f64>() / tokens.len().max(1) as f64;
        for token in &mut tokens {
            token.scale = token.scale.hypot(least).max(SMALLEST_SCALE);
        }
        Self { index, tokens }
    }

    /// The token at a place of the scores.
    pub(super) fn at_place(&self, place: usize) -> Option<usize> {
        self.tokens.binary_search_by_key(&place, |token| token.place).ok()
    }

    pub(super) fn excess(&self) -> Excess {
        let mut excess = Excess::default();
        self.tokens.iter().for_each(|token| excess.add(token));
        excess
    }
}

/// How far mean `|d|` is above the floor.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Excess {
    pub(super) tokens: usize,
    pub(super) sum: f64,
    pub(super) floor: f64,
    variance: f64,
    /// Whether one token is where noise never takes it.
    spike: bool,
}

/// A token this many floors off, and by this many nats, is no noise: the largest of 2500 tokens of a real bf16 engine was
/// 16 floors off.
const SPIKE_FLOORS: f64 = 30.0;
const SPIKE_NATS: f64 = 0.5;

impl Excess {
    pub(super) fn add(&mut self, token: &Token) {
        let size = token.log_ratio().abs();
        self.tokens += 1;
        self.sum += size;
        self.floor += token.floor;
        self.variance += token.variance;
        self.spike |= size > SPIKE_FLOORS * token.scale && size > SPIKE_NATS;
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.tokens += other.tokens;
        self.sum += other.sum;
        self.floor += other.floor;
        self.variance += other.variance;
        self.spike |= other.spike;
    }

    /// Mean `|d|` in nats.
    pub(super) fn mae(&self) -> f64 {
        self.sum / self.tokens.max(1) as f64
    }

    /// Mean `|d|` in multiples of the floor.
    pub(super) fn multiple(&self) -> f64 {
        if self.floor > 0.0 { self.sum / self.floor } else { 0.0 }
    }

    /// Whether this is more than noise, if `multiple` floors may be.
    pub(super) fn is_beyond(&self, multiple: f64, config: &DiagnosisConfig) -> bool {
        let errors = (self.sum - self.floor) / self.variance.sqrt();
        self.spike || (self.multiple() > multiple && errors > config.excess_errors)
    }
}
