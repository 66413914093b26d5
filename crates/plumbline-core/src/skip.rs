//! Tokens that enter no sum, and why.

use serde::{Deserialize, Serialize};

/// Why a token enters no sum. Every token of a rollout is either compared or counted under exactly one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// `loss_mask` is 0 there.
    Masked,
    /// The first token of a sequence without a prompt: no model can score it.
    NoContext,
    /// The engine gave no value (`null`).
    Missing,
    /// NaN or an infinity.
    NonFinite,
    /// A number that stands for "none": at or below -9998 (vLLM and TensorRT-LLM clamp to -9999, llama.cpp to the lowest f32).
    Sentinel,
    /// Above 0: not the logarithm of a probability.
    Positive,
    /// The reference gives the token no probability at all: its own top-k, top-p or min-p leaves it out. There is no
    /// log ratio then.
    SupportMismatch,
}

impl SkipReason {
    /// All reasons, in the order in which they are tested.
    pub const ALL: [Self; 7] = [
        Self::Masked,
        Self::NoContext,
        Self::Missing,
        Self::NonFinite,
        Self::Sentinel,
        Self::Positive,
        Self::SupportMismatch,
    ];

    /// Values at or below this are sentinels, not logprobs.
    pub const SENTINEL_CEILING: f64 = -9998.0;

    /// Why an engine's value cannot be compared, or `None` if it can.
    #[must_use]
    pub fn of_value(logprob: Option<f64>) -> Option<Self> {
        match logprob {
            None => Some(Self::Missing),
            Some(value) if !value.is_finite() => Some(Self::NonFinite),
            Some(value) if value <= Self::SENTINEL_CEILING => Some(Self::Sentinel),
            Some(value) if value > 0.0 => Some(Self::Positive),
            Some(_) => None,
        }
    }

    /// The name used on the wire and as a metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Masked => "masked",
            Self::NoContext => "no_context",
            Self::Missing => "missing",
            Self::NonFinite => "non_finite",
            Self::Sentinel => "sentinel",
            Self::Positive => "positive",
            Self::SupportMismatch => "support_mismatch",
        }
    }
}

/// Number of skipped tokens by reason. Serialises as an object with every reason, zeros included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkipCounts {
    masked: u64,
    no_context: u64,
    missing: u64,
    non_finite: u64,
    sentinel: u64,
    positive: u64,
    support_mismatch: u64,
}

impl SkipCounts {
    /// Counts one token.
    pub fn add(&mut self, reason: SkipReason) {
        *self.slot(reason) += 1;
    }

    /// Adds another count to this one.
    pub fn merge(&mut self, other: &Self) {
        for reason in SkipReason::ALL {
            *self.slot(reason) += other.get(reason);
        }
    }

    /// Tokens skipped for one reason.
    #[must_use]
    pub fn get(&self, reason: SkipReason) -> u64 {
        *self.clone().slot(reason)
    }

    /// Tokens skipped for any reason.
    #[must_use]
    pub fn total(&self) -> u64 {
        SkipReason::ALL.into_iter().map(|reason| self.get(reason)).sum()
    }

    fn slot(&mut self, reason: SkipReason) -> &mut u64 {
        match reason {
            SkipReason::Masked => &mut self.masked,
            SkipReason::NoContext => &mut self.no_context,
            SkipReason::Missing => &mut self.missing,
            SkipReason::NonFinite => &mut self.non_finite,
            SkipReason::Sentinel => &mut self.sentinel,
            SkipReason::Positive => &mut self.positive,
            SkipReason::SupportMismatch => &mut self.support_mismatch,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_no_logprobs_have_their_reason() {
        let reason = |value: f64| SkipReason::of_value(Some(value));
        assert_eq!(SkipReason::of_value(None), Some(SkipReason::Missing));
        assert_eq!(reason(f64::NAN), Some(SkipReason::NonFinite));
        assert_eq!(reason(f64::NEG_INFINITY), Some(SkipReason::NonFinite));
        assert_eq!(reason(-9999.0), Some(SkipReason::Sentinel));
        assert_eq!(reason(f64::from(f32::MIN)), Some(SkipReason::Sentinel));
        assert_eq!(reason(1e-9), Some(SkipReason::Positive));
        assert_eq!(reason(0.0), None);
        assert_eq!(reason(-80.0), None);
    }

    #[test]
    fn counts_add_up_and_name_every_reason() {
        let mut counts = SkipCounts::default();
        counts.add(SkipReason::Sentinel);
        let mut twice = counts;
        twice.merge(&counts);
        assert_eq!((twice.get(SkipReason::Sentinel), twice.total()), (2, 2));
        let json = serde_json::to_value(twice).unwrap();
        for reason in SkipReason::ALL {
            assert_eq!(json[reason.as_str()], twice.get(reason));
        }
    }
}
