//! The noise floor: how far a faithful bf16 engine of the resident model is from the reference.
//!
//! No absolute level says whether an engine is faithful: bf16 rounding alone gives a mean `|d|` of 0.01 on one model and 0.035
//! on another, and on one and the same model hundreds of times more where the next token is open than where it is certain.
//! So the floor is learned from the model itself: sequences are scored once by the reference and once by a simulated bf16
//! engine, and `|d|` is kept by bucket of the entropy of the reference's next-token distribution. [`FloorCurve`] then says
//! what to expect of exactly the tokens that an engine sampled, however few or unusual they are.
//!
//! Two engines are simulated: both have a bf16 body, one multiplies the lm_head in bf16 and one in f32 ([`FloorHead`]).

mod buckets;
mod curve;

use serde::{Deserialize, Serialize};

use self::buckets::{BOUNDS, BUCKETS, Sums};
pub use self::curve::{ExpectedFloor, FloorCurve, TokenFloor};

/// Number format in which the simulated engine multiplies its lm_head; its body is in bf16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FloorHead {
    /// The logits are bf16 too.
    Bf16,
    /// The logits are f32.
    F32,
}

impl FloorHead {
    /// Both, in a fixed order.
    pub const ALL: [Self; 2] = [Self::Bf16, Self::F32];

    /// The one that multiples and verdicts use. vLLM and SGLang multiply the head in the model's own dtype unless told
    /// otherwise, so that is what a faithful bf16 engine does; an engine with an f32 head then is somewhat below 1.
    pub const USED: Self = Self::Bf16;

    /// The name used on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
        }
    }
}

/// One token that the simulated engine scored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FloorSample {
    /// Entropy in nats of the reference's next-token distribution at temperature 1.
    pub entropy: f64,
    /// `|d|` in nats between reference and simulated engine at temperature 1.
    pub abs_delta: f64,
}

/// What was measured of one entropy bucket.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FloorBucket {
    /// Entropies in nats from here,
    pub entropy_from: f64,
    /// to below here; `None` = no upper end.
    pub entropy_to: Option<f64>,
    /// Measured tokens.
    pub tokens: u64,
    /// Their mean `|d|` in nats; `None` without tokens, as below.
    pub mean_abs_delta: Option<f64>,
    /// Root of their mean `d^2` in nats.
    pub rmse: Option<f64>,
    /// Median `|d|` in nats, to the width of a histogram step (a quarter of a decade).
    pub p50: Option<f64>,
    /// 90 % quantile.
    pub p90: Option<f64>,
    /// 99 % quantile.
    pub p99: Option<f64>,
}

/// What was measured of the simulated engines. Sums only: two measurements of the same weights merge exactly.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NoiseFloor {
    bf16_head: Sums,
    f32_head: Sums,
}

impl NoiseFloor {
    /// Tokens of one head from which [`NoiseFloor::curve`] can be had: enough for a mean `|d|` to about 10 %.
    pub const MIN_TOKENS: u64 = 256;

    /// Adds the tokens of one sequence; that they are of one sequence matters, because `|d|` within a sequence is correlated.
    /// Samples that are no entropy or no absolute value (negative beyond rounding, not finite) are left out; returns how many.
    pub fn observe_sequence(&mut self, head: FloorHead, samples: &[FloorSample]) -> usize {
        self.sums_mut(head).observe_sequence(samples)
    }

    /// Adds everything that another has measured.
    pub fn merge(&mut self, other: &Self) {
        for head in FloorHead::ALL {
            self.sums_mut(head).merge(other.sums(head));
        }
    }

    /// Measured tokens.
    #[must_use]
    pub fn tokens(&self, head: FloorHead) -> u64 {
        self.sums(head).tokens()
    }

    /// Measured sequences with at least one token.
    #[must_use]
    pub fn sequences(&self, head: FloorHead) -> u64 {
        self.sums(head).sequences
    }

    /// Mean `|d|` in nats over the measured tokens; `None` without any.
    #[must_use]
    pub fn mae(&self, head: FloorHead) -> Option<f64> {
        let sums = self.sums(head);
        let total: f64 = sums.buckets.iter().map(|bucket| bucket.abs_delta).sum();
        (sums.tokens() > 0).then(|| total / sums.tokens() as f64)
    }

    /// Root of the mean `d^2` in nats over the measured tokens; `None` without any.
    #[must_use]
    pub fn rmse(&self, head: FloorHead) -> Option<f64> {
        let sums = self.sums(head);
        let total: f64 = sums.buckets.iter().map(|bucket| bucket.squares).sum();
        (sums.tokens() > 0).then(|| (total / sums.tokens() as f64).sqrt())
    }

    /// A quantile of `|d|` in nats over the measured tokens, `q` in [0, 1], to the width of a histogram step (a quarter of a
    /// decade); `None` without tokens.
    #[must_use]
    pub fn quantile(&self, head: FloorHead, q: f64) -> Option<f64> {
        self.sums(head).pooled_histogram().quantile(q)
    }

    /// What was measured, by entropy.
    #[must_use]
    pub fn buckets(&self, head: FloorHead) -> Vec<FloorBucket> {
        let sums = self.sums(head);
        let describe = |index: usize| {
            let bucket = &sums.buckets[index];
            let count = bucket.tokens as f64;
            let known = bucket.tokens > 0;
            FloorBucket {
                entropy_from: if index == 0 { 0.0 } else { BOUNDS[index - 1] },
                entropy_to: BOUNDS.get(index).copied(),
                tokens: bucket.tokens,
                mean_abs_delta: known.then(|| bucket.abs_delta / count),
                rmse: known.then(|| (bucket.squares / count).sqrt()),
                p50: bucket.histogram.quantile(0.5),
                p90: bucket.histogram.quantile(0.9),
                p99: bucket.histogram.quantile(0.99),
            }
        };
        (0..BUCKETS).map(describe).collect()
    }

    /// What this floor expects of any token; `None` below [`NoiseFloor::MIN_TOKENS`] tokens, and where the simulated engine
    /// never differs from the reference (then it simulated nothing).
    #[must_use]
    pub fn curve(&self, head: FloorHead) -> Option<FloorCurve> {
        let sums = self.sums(head);
        if sums.tokens() < Self::MIN_TOKENS { None } else { FloorCurve::fit(sums) }
    }

    fn sums(&self, head: FloorHead) -> &Sums {
        match head {
            FloorHead::Bf16 => &self.bf16_head,
            FloorHead::F32 => &self.f32_head,
        }
    }

    fn sums_mut(&mut self, head: FloorHead) -> &mut Sums {
        match head {
            FloorHead::Bf16 => &mut self.bf16_head,
            FloorHead::F32 => &mut self.f32_head,
        }
    }
}

#[cfg(test)]
mod tests;
