//! The metrics that follow from the sums alone: each formula once, for requests, sequences, runs and windows.
//!
//! `None` = undefined: no tokens (or sequences) for a mean, no spread for a correlation. Formulas as the field uses them:
//! verl (k1, k3, chi2, perplexities, ESS), AReaL (k2), NeMo-RL (JS, multiplicative error), prime-rl (KL over entropy).

use crate::SufficientStatistics;

impl SufficientStatistics {
    /// Mean `d` in nats; positive = the reference finds the samples likelier than the engine says.
    #[must_use]
    pub fn log_ratio_mean(&self) -> Option<f64> {
        self.token_mean(self.delta_positive - self.delta_negative)
    }

    /// Mean `|d|` in nats.
    #[must_use]
    pub fn mae(&self) -> Option<f64> {
        self.token_mean(self.delta_positive + self.delta_negative)
    }

    /// Root of the mean `d^2` in nats.
    #[must_use]
    pub fn rmse(&self) -> Option<f64> {
        self.token_mean(self.delta_squared).map(f64::sqrt)
    }

    /// Largest `|d|` in nats.
    #[must_use]
    pub fn max_abs(&self) -> Option<f64> {
        self.max_abs_delta
    }

    /// Pearson correlation of `e` and `r`.
    #[must_use]
    pub fn pearson_logprob(&self) -> Option<f64> {
        self.logprob_moments.correlation()
    }

    /// Mean `|p_r - p_e|` (verl's `rollout_probs_diff_mean`).
    #[must_use]
    pub fn mae_prob(&self) -> Option<f64> {
        self.token_mean(self.prob_delta_positive + self.prob_delta_negative)
    }

    /// Root of the mean `(p_r - p_e)^2`.
    #[must_use]
    pub fn rmse_prob(&self) -> Option<f64> {
        self.token_mean(self.prob_delta_squared).map(f64::sqrt)
    }

    /// Largest `|p_r - p_e|`.
    #[must_use]
    pub fn max_abs_prob(&self) -> Option<f64> {
        self.max_abs_prob_delta
    }

    /// Mean `p_r - p_e`.
    #[must_use]
    pub fn prob_diff_mean(&self) -> Option<f64> {
        self.token_mean(self.prob_delta_positive - self.prob_delta_negative)
    }

    /// Pearson correlation of `exp e` and `exp r`.
    #[must_use]
    pub fn pearson_prob(&self) -> Option<f64> {
        self.prob_moments.correlation()
    }

    /// Mean KL divergence of Bernoulli(`p_r`) from Bernoulli(`p_e`).
    #[must_use]
    pub fn bernoulli_kl(&self) -> Option<f64> {
        self.token_mean(self.bernoulli_kl)
    }

    /// k1 estimate of `KL(engine || reference)`: mean `-d`. Unbiased, may be negative.
    #[must_use]
    pub fn kl_k1(&self) -> Option<f64> {
        self.token_mean(self.delta_negative - self.delta_positive)
    }

    /// k2 estimate of `KL(engine || reference)`: mean `d^2 / 2`.
    #[must_use]
    pub fn kl_k2(&self) -> Option<f64> {
        self.token_mean(self.delta_squared / 2.0)
    }

    /// k3 estimate of `KL(engine || reference)`: mean `exp(d) - 1 - d`.
    #[must_use]
    pub fn kl_k3(&self) -> Option<f64> {
        self.token_mean(self.k3)
    }

    /// k3 with `-d`: mean `exp(-d) - 1 + d`.
    #[must_use]
    pub fn reverse_kl_k3(&self) -> Option<f64> {
        self.token_mean(self.reverse_k3)
    }

    /// Jensen-Shannon divergence in NeMo-RL's form.
    #[must_use]
    pub fn js(&self) -> Option<f64> {
        self.token_mean(self.js)
    }

    /// Mean `exp |d|`; 1 = equal.
    #[must_use]
    pub fn mult_prob_error(&self) -> Option<f64> {
        self.token_mean(self.mult_prob_error)
    }

    /// Mean `rho`; 1 = unbiased.
    #[must_use]
    pub fn importance_ratio_mean(&self) -> Option<f64> {
        self.token_mean(self.importance_ratio)
    }

    /// Smallest `rho`.
    #[must_use]
    pub fn importance_ratio_min(&self) -> Option<f64> {
        self.min_importance_ratio
    }

    /// Largest `rho`.
    #[must_use]
    pub fn importance_ratio_max(&self) -> Option<f64> {
        self.max_importance_ratio
    }

    /// Effective sample size as a fraction of the tokens, in (0, 1]: `(sum rho)^2 / (n sum rho^2)`.
    #[must_use]
    pub fn ess(&self) -> Option<f64> {
        self.token_mean(self.importance_ratio.powi(2) / self.importance_ratio_squared)
    }

    /// The same with `min(rho, 2)`.
    #[must_use]
    pub fn ess_truncated(&self) -> Option<f64> {
        self.token_mean(self.truncated_ratio.powi(2) / self.truncated_ratio_squared)
    }

    /// Mean `rho^2`, minus 1.
    #[must_use]
    pub fn chi2_token(&self) -> Option<f64> {
        self.token_mean(self.chi2_token_positive - self.chi2_token_negative)
    }

    /// Mean over sequences of `exp(sum d)^2`, minus 1. Explodes with length by construction.
    #[must_use]
    pub fn chi2_sequence(&self) -> Option<f64> {
        mean(self.chi2_sequence_positive - self.chi2_sequence_negative, self.sequences)
    }

    /// Fraction of tokens with `rho` outside [0.9, 1.1].
    #[must_use]
    pub fn ratio_outside_0_9_1_1(&self) -> Option<f64> {
        self.token_mean(self.outside_0_9_1_1 as f64)
    }

    /// Fraction of tokens with `rho` outside [0.5, 2].
    #[must_use]
    pub fn ratio_outside_0_5_2(&self) -> Option<f64> {
        self.token_mean(self.outside_0_5_2 as f64)
    }

    /// Fraction of tokens with `rho` outside [0.5, 5].
    #[must_use]
    pub fn ratio_outside_0_5_5(&self) -> Option<f64> {
        self.token_mean(self.outside_0_5_5 as f64)
    }

    /// Fraction of tokens with `rho` below 1e-4.
    #[must_use]
    pub fn ratio_below_1e_4(&self) -> Option<f64> {
        self.token_mean(self.below_1e_4 as f64)
    }

    /// Mean over sequences of the perplexity `exp(-mean e)`.
    #[must_use]
    pub fn ppl_engine(&self) -> Option<f64> {
        mean(self.ppl_engine, self.sequences)
    }

    /// Mean over sequences of the perplexity `exp(-mean r)`.
    #[must_use]
    pub fn ppl_reference(&self) -> Option<f64> {
        mean(self.ppl_reference, self.sequences)
    }

    /// Mean over sequences of `mean e - mean r` in nats (the reference's log perplexity minus the engine's).
    #[must_use]
    pub fn log_ppl_diff(&self) -> Option<f64> {
        mean(self.log_ppl_diff_positive - self.log_ppl_diff_negative, self.sequences)
    }

    /// Mean entropy in nats of the reference's next-token distributions.
    #[must_use]
    pub fn entropy(&self) -> Option<f64> {
        mean(self.entropy, self.entropy_tokens)
    }

    /// [`SufficientStatistics::kl_k3`] over [`SufficientStatistics::entropy`]; undefined at entropy 0.
    #[must_use]
    pub fn kl_entropy_ratio(&self) -> Option<f64> {
        let entropy = self.entropy().filter(|entropy| *entropy > 0.0)?;
        Some(self.kl_k3()? / entropy).filter(|ratio| ratio.is_finite())
    }

    /// Fraction of tokens that are the reference's first choice.
    #[must_use]
    pub fn top1_agreement(&self) -> Option<f64> {
        mean(self.top1 as f64, self.ranked_tokens)
    }

    /// Mean `P_ref(EOS)` at the end of the sequences that ended by EOS; near 0 = ended where the reference would not.
    #[must_use]
    pub fn eos_probability(&self) -> Option<f64> {
        mean(self.eos_probability, self.eos_sequences)
    }

    /// Mean `|d|` in nats that a faithful bf16 engine would show on the tokens of which a noise floor is known.
    #[must_use]
    pub fn noise_floor(&self) -> Option<f64> {
        mean(self.floor_expected, self.floor_tokens)
    }

    /// Mean `|d|` over [`SufficientStatistics::noise_floor`], both over the same tokens; 1 = as a faithful bf16 engine.
    #[must_use]
    pub fn noise_floor_multiple(&self) -> Option<f64> {
        Some(self.floor_abs_delta / self.floor_expected).filter(|multiple| multiple.is_finite())
    }

    /// Standard error of a faithful engine's multiple about 1: the scatter of so many tokens, their correlation within
    /// sequences, and the uncertainty of the floor.
    #[must_use]
    pub fn noise_floor_standard_error(&self) -> Option<f64> {
        let scatter = self.floor_variance / self.floor_expected.powi(2);
        let own = self.max_floor_error.unwrap_or(0.0);
        Some((scatter + own * own).sqrt()).filter(|error| error.is_finite())
    }

    fn token_mean(&self, sum: f64) -> Option<f64> {
        mean(sum, self.tokens)
    }
}

fn mean(sum: f64, count: u64) -> Option<f64> {
    if count == 0 { None } else { Some(sum / count as f64) }
}
