//! What a floor expects of tokens that it did not measure.

use plumbline_core::{LogprobsMode, Rollout};

use super::buckets::{BUCKETS, BucketSums, Sums, bucket_of};
use crate::SequenceComparison;

/// Buckets with fewer tokens are pooled with a neighbour: `|d|` scatters about as much as it is large, so that 40 tokens know
/// their mean to about 20 %.
const MIN_BUCKET_TOKENS: u64 = 40;

/// What the floor expects of one token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenFloor {
    /// Expected `|d|` in nats.
    pub mean_abs: f64,
    /// Expected `d^2`.
    pub mean_square: f64,
}

impl TokenFloor {
    /// Variance of `|d|`.
    #[must_use]
    pub fn variance(&self) -> f64 {
        (self.mean_square - self.mean_abs.powi(2)).max(0.0)
    }
}

/// What the floor expects of the tokens of one sequence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExpectedFloor {
    /// Number of tokens.
    pub tokens: u64,
    /// Expected mean `|d|` in nats.
    pub mae: f64,
    /// Standard error of a faithful engine's mean `|d|` about it in nats: the scatter of so many tokens, their correlation
    /// within the sequence, and the uncertainty of the floor itself.
    pub standard_error: f64,
}

/// Expected `|d|` and `d^2` by entropy.
///
/// Piecewise constant over the buckets of [`NoiseFloor`](super::NoiseFloor), made robust in two steps that keep the sum of
/// `|d|` over the measured tokens: a bucket with fewer than 40 tokens is pooled with the next higher one (the highest with the
/// next lower), and then neighbours are pooled until the mean never falls with entropy (pool adjacent violators, weighted by
/// tokens). Entropies that were never measured count as the next higher ones that were: a floor that is somewhat too high
/// misses a little, one that is too low cries wolf.
#[derive(Clone, Debug, PartialEq)]
pub struct FloorCurve {
    tokens: [TokenFloor; BUCKETS],
    /// Correlation of the `|d|` of two tokens of one sequence, in [0, 1].
    correlation: f64,
    /// Standard error of the floor's own level, as a fraction of it.
    relative_error: f64,
    /// Factor of all `|d|`.
    scale: f64,
}

/// Neighbouring buckets that share one mean.
#[derive(Clone, Debug)]
struct Block {
    /// The highest bucket.
    last: usize,
    tokens: u64,
    abs_delta: f64,
    squares: f64,
}

impl Block {
    fn of(index: usize, bucket: &BucketSums) -> Self {
        Self { last: index, tokens: bucket.tokens, abs_delta: bucket.abs_delta, squares: bucket.squares }
    }

    fn mean(&self) -> f64 {
        self.abs_delta / self.tokens as f64
    }

    /// Takes in the next higher block.
    fn append(&mut self, next: &Self) {
        self.last = next.last;
        self.tokens += next.tokens;
        self.abs_delta += next.abs_delta;
        self.squares += next.squares;
    }
}

impl FloorCurve {
    /// `None` where nothing was measured or nothing differed.
    pub(super) fn fit(sums: &Sums) -> Option<Self> {
        let measured = sums.buckets.iter().enumerate().filter(|(_, bucket)| bucket.tokens > 0);
        let blocks = monotone(well_filled(measured.map(|(index, bucket)| Block::of(index, bucket))));
        let level: f64 = blocks.iter().map(|block| block.abs_delta).sum();
        let highest = blocks.last()?;
        if level <= 0.0 {
            return None;
        }
        let tokens = std::array::from_fn(|index| {
            let block = blocks.iter().find(|block| index <= block.last).unwrap_or(highest);
            TokenFloor { mean_abs: block.mean(), mean_square: block.squares / block.tokens as f64 }
        });
        let correlation = correlation(sums);
        let scatter: f64 = sums.buckets.iter().filter(|b| b.tokens > 0).map(|b| b.tokens as f64 * b.variance()).sum();
        // The length of the sequence that a token is in, on average.
        let length = sums.squared_lengths / sums.tokens() as f64;
        let relative_error = (scatter * (1.0 + correlation * (length - 1.0))).sqrt() / level;
        Some(Self { tokens, correlation, relative_error, scale: 1.0 })
    }

    /// The curve for logprobs at temperature `temperature`, above 0 (1 for raw logprobs and greedy sampling).
    ///
    /// Dividing logits by `T` divides their errors by `T`. That the distribution becomes sharper or flatter as well is not
    /// accounted for: entropies are at temperature 1.
    #[must_use]
    pub fn at_temperature(&self, temperature: f64) -> Self {
        let scale = if temperature > 0.0 && temperature.is_finite() { self.scale / temperature } else { self.scale };
        Self { scale, ..self.clone() }
    }

    /// The curve for the logprobs of a rollout: at its temperature, unless they are raw or it was sampled greedily.
    #[must_use]
    pub fn of_rollout(&self, rollout: &Rollout) -> Self {
        let raw = rollout.logprobs_mode == LogprobsMode::Raw || rollout.sampling.is_greedy();
        self.at_temperature(if raw { 1.0 } else { rollout.sampling.temperature })
    }

    /// What a faithful engine shows on one token.
    #[must_use]
    pub fn token(&self, entropy: f64) -> TokenFloor {
        let token = &self.tokens[bucket_of(entropy)];
        TokenFloor { mean_abs: self.scale * token.mean_abs, mean_square: self.scale.powi(2) * token.mean_square }
    }

    /// Standard error of the floor's own level, as a fraction of it.
    #[must_use]
    pub fn relative_error(&self) -> f64 {
        self.relative_error
    }

    /// Mean `|d|` that a faithful engine would show on exactly these tokens of one sequence; `None` for none.
    #[must_use]
    pub fn expected_mae(&self, entropies: impl IntoIterator<Item = f64>) -> Option<ExpectedFloor> {
        let mut sums = self.sequence();
        entropies.into_iter().for_each(|entropy| sums.add(entropy));
        let count = sums.tokens as f64;
        (sums.tokens > 0).then(|| ExpectedFloor {
            tokens: sums.tokens,
            mae: sums.expected / count,
            standard_error: (sums.variance() + (self.relative_error * sums.expected).powi(2)).sqrt() / count,
        })
    }

    /// The same for the compared tokens of a sequence whose entropy is known.
    #[must_use]
    pub fn expected_for(&self, sequence: &SequenceComparison) -> Option<ExpectedFloor> {
        let compared = sequence.tokens.iter().filter(|token| token.compared().is_some());
        self.expected_mae(compared.filter_map(|token| token.entropy))
    }

    /// The empty sums over one sequence.
    pub(crate) fn sequence(&self) -> SequenceFloor<'_> {
        SequenceFloor { curve: self, tokens: 0, expected: 0.0, expected_squared: 0.0, variances: 0.0, deviations: 0.0 }
    }
}

/// Sums of what is expected of the tokens of one sequence.
#[derive(Clone, Debug)]
pub(crate) struct SequenceFloor<'a> {
    curve: &'a FloorCurve,
    pub(crate) tokens: u64,
    pub(crate) expected: f64,
    pub(crate) expected_squared: f64,
    variances: f64,
    deviations: f64,
}

impl SequenceFloor<'_> {
    pub(crate) fn add(&mut self, entropy: f64) {
        let floor = self.curve.token(entropy);
        let variance = floor.variance();
        self.tokens += 1;
        self.expected += floor.mean_abs;
        self.expected_squared += floor.mean_square;
        self.variances += variance;
        self.deviations += variance.sqrt();
    }

    /// Variance of the sum of `|d|`, with every two tokens correlated.
    pub(crate) fn variance(&self) -> f64 {
        self.variances + self.curve.correlation * (self.deviations.powi(2) - self.variances).max(0.0)
    }
}

/// Pools blocks with too few tokens with the next higher one, the highest with the next lower one.
fn well_filled(blocks: impl Iterator<Item = Block>) -> Vec<Block> {
    let mut filled: Vec<Block> = Vec::new();
    let mut waiting: Option<Block> = None;
    for block in blocks {
        let block = match waiting.take() {
            Some(mut lower) => {
                lower.append(&block);
                lower
            }
            None => block,
        };
        if block.tokens < MIN_BUCKET_TOKENS {
            waiting = Some(block);
        } else {
            filled.push(block);
        }
    }
    match (filled.last_mut(), waiting) {
        (Some(last), Some(rest)) => last.append(&rest),
        (None, Some(rest)) => filled.push(rest),
        (_, None) => {}
    }
    filled
}

/// Pools neighbours until the mean never falls.
fn monotone(blocks: Vec<Block>) -> Vec<Block> {
    let mut rising: Vec<Block> = Vec::with_capacity(blocks.len());
    for mut block in blocks {
        while let Some(mut lower) = rising.pop_if(|lower| lower.mean() > block.mean()) {
            lower.append(&block);
            block = lower;
        }
        rising.push(block);
    }
    rising
}

/// Correlation of the `|d|` of two tokens of the same sequence and bucket, from how much more the sums of sequences scatter
/// than those of independent tokens would; 0 where they do not.
fn correlation(sums: &Sums) -> f64 {
    let (mut excess, mut pairs) = (0.0, 0.0);
    for bucket in sums.buckets.iter().filter(|bucket| bucket.tokens > 0) {
        let (mean, variance, count) = (bucket.mean(), bucket.variance(), bucket.tokens as f64);
        let scatter = bucket.ss - 2.0 * mean * bucket.sn + mean * mean * bucket.nn;
        excess += scatter - count * variance;
        pairs += (bucket.nn - count) * variance;
    }
    if pairs > 0.0 { (excess / pairs).clamp(0.0, 1.0) } else { 0.0 }
}
