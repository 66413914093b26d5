//! One word per sequence or window.

use serde::{Deserialize, Serialize};

use crate::SufficientStatistics;

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

    fn because(self, reason: String) -> Judgement {
        Judgement { verdict: self, reason }
    }
}

/// A verdict and what it rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// One sentence for people, with the numbers and the levels.
    pub reason: String,
}

/// Levels above which statistics make a verdict worse.
///
/// **Where a noise floor is known** for at least half of the tokens, the multiple decides: mean `|d|` over what a faithful bf16
/// engine would show on these very tokens. To be more than consistent it has to be above [`floor_suspect`] *and* more than
/// [`significance`] standard errors above 1; where it is above the first but so few tokens cannot tell, the verdict is
/// insufficient. Else it is suspect, and divergent above [`floor_divergent`]. Two absolute levels remain:
/// - a mean `|d|` of at most [`mae_negligible`] is consistent whatever the multiple: certain text has next to no floor;
/// - a k3 above [`kl_k3_divergent`] is divergent as soon as the multiple is significantly above 1, because the mean of `|d|`
///   hides a few tokens that are far off. The level is raised to `floor_suspect^2` times the floor's own k3 if that is higher.
///
/// **Where no floor is known**, absolute levels as published decide, the worse of MAE and k3.
///
/// [`floor_suspect`]: Self::floor_suspect
/// [`floor_divergent`]: Self::floor_divergent
/// [`significance`]: Self::significance
/// [`mae_negligible`]: Self::mae_negligible
/// [`kl_k3_divergent`]: Self::kl_k3_divergent
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VerdictLevels {
    /// Fewer compared tokens than this are [`Verdict::Insufficient`]. Default 8: below it the mean of a heavy-tailed
    /// `|d|` is mostly its largest value.
    pub min_tokens: u64,
    /// Multiple of the noise floor above which a verdict is suspect. Default 2.5: one bf16 engine is from another as far as
    /// 1.3 times as it is from an f32 reference, and batches, kernels and parallel layouts add to that.
    pub floor_suspect: f64,
    /// Multiple of the noise floor above which a verdict is divergent. Default 5.
    pub floor_divergent: f64,
    /// Standard errors by which a multiple has to be above 1 to count. Default 4: `|d|` has heavy tails.
    pub significance: f64,
    /// Mean `|d|` in nats up to which a multiple does not count. Default 1e-3, a tenth of what bf16 engines show.
    pub mae_negligible: f64,
    /// Without a floor: mean `|d|` in nats above which a verdict is suspect. Default 0.05: healthy bf16 engines are at 0.010 to
    /// 0.018 (miles, vime, TRL), a 135 M model reaches 0.044 on single sequences.
    pub mae_suspect: f64,
    /// Without a floor: mean `|d|` in nats above which a verdict is divergent. Default 0.1: slime's gate; stale weights gave 0.2
    /// (TRL).
    pub mae_divergent: f64,
    /// Without a floor: mean k3 in nats above which a verdict is suspect. Default 5e-3: the largest that healthy FP8 rollouts
    /// showed (NeMo-RL).
    pub kl_k3_suspect: f64,
    /// Mean k3 in nats above which a verdict is divergent. Default 1e-2: prime-rl's target; runs collapse between 1e-2 and
    /// 1e-1.
    pub kl_k3_divergent: f64,
}

impl Default for VerdictLevels {
    fn default() -> Self {
        Self {
            min_tokens: 8,
            floor_suspect: 2.5,
            floor_divergent: 5.0,
            significance: 4.0,
            mae_negligible: 1e-3,
            mae_suspect: 0.05,
            mae_divergent: 0.1,
            kl_k3_suspect: 5e-3,
            kl_k3_divergent: 1e-2,
        }
    }
}

impl VerdictLevels {
    /// The verdict on the statistics of a sequence, a request or a window.
    #[must_use]
    pub fn judge(&self, statistics: &SufficientStatistics) -> Judgement {
        let tokens = statistics.tokens;
        let (Some(mae), Some(kl_k3)) = (statistics.mae(), statistics.kl_k3()) else {
            return Verdict::Insufficient.because("no token was compared".into());
        };
        if tokens < self.min_tokens {
            let needed = self.min_tokens;
            return Verdict::Insufficient.because(format!("{tokens} compared tokens, at least {needed} are needed"));
        }
        let floor = statistics.noise_floor_multiple().zip(statistics.noise_floor_standard_error());
        let floor =
            floor.filter(|_| statistics.floor_tokens >= self.min_tokens && 2 * statistics.floor_tokens >= tokens);
        match floor {
            Some((multiple, error)) => self.judge_multiple(statistics, multiple, error, kl_k3),
            None => self.judge_absolute(mae, kl_k3),
        }
    }

    fn judge_multiple(&self, statistics: &SufficientStatistics, multiple: f64, error: f64, kl_k3: f64) -> Judgement {
        let tokens = statistics.floor_tokens as f64;
        let mae = statistics.floor_abs_delta / tokens;
        let chance = 1.0 + self.significance * error;
        let measured = format!("mean |d| is {multiple:.3} times the noise floor");
        let kl_k3_level =
            self.kl_k3_divergent.max(self.floor_suspect.powi(2) * statistics.floor_expected_squared / (2.0 * tokens));
        let levels = format!("suspect above {}, divergent above {}", self.floor_suspect, self.floor_divergent);
        if multiple > chance && kl_k3 > kl_k3_level {
            return Verdict::Divergent
                .because(format!("k3 is {kl_k3:.3e} nats, divergent above {kl_k3_level:.3e}; {measured}"));
        }
        if mae <= self.mae_negligible && multiple > self.floor_suspect {
            let negligible = self.mae_negligible;
            return Verdict::Consistent
                .because(format!("{measured}, but only {mae:.3e} nats; up to {negligible:e} nats do not count"));
        }
        if multiple <= self.floor_suspect {
            return Verdict::Consistent.because(format!("{measured}; {levels}"));
        }
        if multiple <= chance {
            let count = statistics.floor_tokens;
            return Verdict::Insufficient
                .because(format!("{measured}, but {count} such tokens can show {chance:.3} times it by chance"));
        }
        let verdict = if multiple > self.floor_divergent { Verdict::Divergent } else { Verdict::Suspect };
        verdict.because(format!("{measured}; {levels}"))
    }

    fn judge_absolute(&self, mae: f64, kl_k3: f64) -> Judgement {
        let verdict = if mae > self.mae_divergent || kl_k3 > self.kl_k3_divergent {
            Verdict::Divergent
        } else if mae > self.mae_suspect || kl_k3 > self.kl_k3_suspect {
            Verdict::Suspect
        } else {
            Verdict::Consistent
        };
        verdict.because(format!(
            "no noise floor is known; mean |d| is {mae:.3e} nats (suspect above {}, divergent above {}), k3 {kl_k3:.3e} \
             (above {}, {})",
            self.mae_suspect, self.mae_divergent, self.kl_k3_suspect, self.kl_k3_divergent
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Statistics with these means; `floor` is the expected `|d|` of each token, as scattered as it is large.
    fn statistics(tokens: u64, mae: f64, kl_k3: f64, floor: Option<f64>) -> SufficientStatistics {
        let count = tokens as f64;
        let expected = floor.unwrap_or(0.0);
        SufficientStatistics {
            tokens,
            sequences: 1,
            delta_positive: count * mae,
            k3: count * kl_k3,
            floor_tokens: if floor.is_some() { tokens } else { 0 },
            floor_abs_delta: if floor.is_some() { count * mae } else { 0.0 },
            floor_expected: count * expected,
            floor_expected_squared: count * 2.0 * expected * expected,
            floor_variance: count * expected * expected,
            ..SufficientStatistics::default()
        }
    }

    fn verdict(statistics: &SufficientStatistics) -> Verdict {
        VerdictLevels::default().judge(statistics).verdict
    }

    #[test]
    fn without_a_floor_the_worse_of_mae_and_k3_decides() {
        let judge = |tokens, mae, kl_k3| verdict(&statistics(tokens, mae, kl_k3, None));
        assert_eq!(judge(8, 0.05, 5e-3), Verdict::Consistent);
        assert_eq!(judge(8, 0.051, 0.0), Verdict::Suspect);
        assert_eq!(judge(8, 0.0, 5.1e-3), Verdict::Suspect);
        assert_eq!(judge(8, 0.11, 0.0), Verdict::Divergent);
        assert_eq!(judge(8, 0.0, 1.1e-2), Verdict::Divergent);
        assert_eq!(judge(8, 0.051, 1.1e-2), Verdict::Divergent);
    }

    #[test]
    fn with_a_floor_its_multiple_decides() {
        let judge = |mae, floor| verdict(&statistics(1000, mae, 1e-5, Some(floor)));
        assert_eq!(judge(0.02, 0.01), Verdict::Consistent);
        assert_eq!(judge(0.03, 0.01), Verdict::Suspect, "below every absolute level");
        assert_eq!(judge(0.051, 0.01), Verdict::Divergent);
        assert_eq!(
            judge(0.2, 0.1),
            Verdict::Consistent,
            "above the absolute levels, but what this model shows in bf16"
        );
        assert_eq!(judge(1e-6, 0.01), Verdict::Consistent, "an f32 engine");
        assert_eq!(judge(9e-4, 1e-5), Verdict::Consistent, "90 times next to nothing");
    }

    #[test]
    fn few_tokens_prove_nothing_and_it_is_said() {
        let levels = VerdictLevels::default();
        let few = levels.judge(&statistics(7, 9.0, 9.0, Some(0.01)));
        assert_eq!(
            (few.verdict, few.reason.as_str()),
            (Verdict::Insufficient, "7 compared tokens, at least 8 are needed")
        );
        // 8 tokens: a standard error of 1 / sqrt(8), so chance reaches 2.41; 4 times the scatter and it reaches 6.7.
        assert_eq!(verdict(&statistics(8, 0.026, 1e-5, Some(0.01))), Verdict::Suspect);
        let mut scattered = statistics(8, 0.055, 1e-5, Some(0.01));
        scattered.floor_variance *= 16.0;
        let chance = levels.judge(&scattered);
        assert_eq!(chance.verdict, Verdict::Insufficient);
        assert!(chance.reason.contains("8 such tokens can show 6.657 times it by chance"), "{}", chance.reason);
        let lenient = VerdictLevels { min_tokens: 0, ..levels };
        assert_eq!(lenient.judge(&SufficientStatistics::default()).reason, "no token was compared");
    }

    #[test]
    fn k3_finds_the_tail_that_the_mean_hides() {
        let of = |tokens, mae, kl_k3, floor| verdict(&statistics(tokens, mae, kl_k3, Some(floor)));
        assert_eq!(of(1000, 0.02, 0.02, 0.01), Verdict::Divergent);
        assert_eq!(of(1000, 0.0101, 0.02, 0.01), Verdict::Consistent, "not significantly above the floor");
        assert_eq!(of(8, 0.02, 0.02, 0.01), Verdict::Consistent, "nor here");
        assert_eq!(of(1000, 0.2, 0.05, 0.1), Verdict::Consistent, "the floor's own k3 is 0.01 times 2.5^2");
    }

    #[test]
    fn a_floor_of_few_of_the_tokens_does_not_decide() {
        let mut window = statistics(1000, 0.2, 1e-5, None);
        window.merge(&statistics(100, 0.01, 1e-5, Some(0.01)));
        assert_eq!(verdict(&window), Verdict::Divergent);
        window.merge(&statistics(1000, 0.01, 1e-5, Some(0.01)));
        assert_eq!(verdict(&window), Verdict::Consistent);
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
