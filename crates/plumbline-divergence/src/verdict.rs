//! One word per sequence or window.

use serde::{Deserialize, Serialize};

use crate::Metrics;

/// How an engine's logprobs relate to the reference's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Within the noise of a faithful bf16 engine.
    Consistent,
    /// Above that noise, below the levels at which trainings were seen to suffer.
    Suspect,
    /// The engine's distribution is not the reference's.
    Divergent,
    /// Too few compared tokens to tell.
    Insufficient,
}

impl Verdict {
    /// All verdicts.
    pub const ALL: [Self; 4] = [Self::Consistent, Self::Suspect, Self::Divergent, Self::Insufficient];

    /// The name used on the wire and as a metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Consistent => "consistent",
            Self::Suspect => "suspect",
            Self::Divergent => "divergent",
            Self::Insufficient => "insufficient",
        }
    }
}

/// Levels, in nats, above which metrics make a verdict worse. The worse of MAE and k3 decides.
///
/// The defaults are absolute and follow published ones; a model whose own bf16 noise is unusual needs its own.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VerdictLevels {
    /// Fewer compared tokens than this are [`Verdict::Insufficient`]. Default 8: below it the mean of a heavy-tailed
    /// `|d|` is mostly its largest value.
    pub min_tokens: u64,
    /// Mean `|d|` above which a verdict is suspect. Default 0.05: healthy bf16 engines are at 0.010 to 0.018 (miles, vime,
    /// TRL), a 135 M model reaches 0.044 on single sequences.
    pub mae_suspect: f64,
    /// Mean `|d|` above which a verdict is divergent. Default 0.1: slime's gate; stale weights gave 0.2 (TRL).
    pub mae_divergent: f64,
    /// Mean k3 above which a verdict is suspect. Default 5e-3: the largest that healthy FP8 rollouts showed (NeMo-RL).
    pub kl_k3_suspect: f64,
    /// Mean k3 above which a verdict is divergent. Default 1e-2: prime-rl's target; runs collapse between 1e-2 and 1e-1.
    pub kl_k3_divergent: f64,
}

impl Default for VerdictLevels {
    fn default() -> Self {
        Self { min_tokens: 8, mae_suspect: 0.05, mae_divergent: 0.1, kl_k3_suspect: 5e-3, kl_k3_divergent: 1e-2 }
    }
}

impl VerdictLevels {
    /// The verdict on metrics of a sequence, a request or a window.
    #[must_use]
    pub fn judge(&self, metrics: &Metrics) -> Verdict {
        let (Some(mae), Some(kl_k3)) = (metrics.mae_logprob, metrics.kl_k3) else { return Verdict::Insufficient };
        if metrics.tokens < self.min_tokens {
            Verdict::Insufficient
        } else if mae > self.mae_divergent || kl_k3 > self.kl_k3_divergent {
            Verdict::Divergent
        } else if mae > self.mae_suspect || kl_k3 > self.kl_k3_suspect {
            Verdict::Suspect
        } else {
            Verdict::Consistent
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(tokens: u64, mae: f64, kl_k3: f64) -> Verdict {
        let metrics = Metrics { tokens, mae_logprob: Some(mae), kl_k3: Some(kl_k3), ..Metrics::default() };
        VerdictLevels::default().judge(&metrics)
    }

    #[test]
    fn the_worse_of_mae_and_k3_decides() {
        assert_eq!(judge(8, 0.05, 5e-3), Verdict::Consistent);
        assert_eq!(judge(8, 0.051, 0.0), Verdict::Suspect);
        assert_eq!(judge(8, 0.0, 5.1e-3), Verdict::Suspect);
        assert_eq!(judge(8, 0.11, 0.0), Verdict::Divergent);
        assert_eq!(judge(8, 0.0, 1.1e-2), Verdict::Divergent);
        assert_eq!(judge(8, 0.051, 1.1e-2), Verdict::Divergent);
    }

    #[test]
    fn few_tokens_prove_nothing() {
        assert_eq!(judge(7, 9.0, 9.0), Verdict::Insufficient);
        let levels = VerdictLevels { min_tokens: 0, ..VerdictLevels::default() };
        assert_eq!(levels.judge(&Metrics::default()), Verdict::Insufficient);
    }

    #[test]
    fn names_are_the_same_everywhere() {
        for verdict in Verdict::ALL {
            assert_eq!(serde_json::to_value(verdict).unwrap(), verdict.as_str());
        }
    }

    #[test]
    fn levels_can_be_set_one_by_one_and_unknown_ones_are_refused() {
        let levels: VerdictLevels = serde_json::from_str(r#"{"mae_suspect":0.02}"#).unwrap();
        assert_eq!(levels, VerdictLevels { mae_suspect: 0.02, ..VerdictLevels::default() });
        assert!(serde_json::from_str::<VerdictLevels>(r#"{"mae_suspekt":0.02}"#).is_err());
    }
}
