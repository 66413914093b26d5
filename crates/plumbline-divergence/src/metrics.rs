//! The metric set of a request, a sequence or a run.

use serde::{Deserialize, Serialize};

use crate::{FloorCurve, SequenceComparison, SufficientStatistics, order};

/// The metrics of a set of comparisons, pooled over tokens unless said otherwise; logprobs in nats. `None` (`null`) is
/// "undefined": no tokens, fewer than two for a correlation, no spread. The field names are the keys of the API.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Compared tokens.
    pub tokens: u64,
    /// Sequences with at least one compared token.
    pub sequences: u64,
    /// Mean `d` (signed, reference over engine).
    pub log_ratio_mean: Option<f64>,
    /// Mean `|d|`.
    pub mae_logprob: Option<f64>,
    /// Root of the mean `d^2`.
    pub rmse_logprob: Option<f64>,
    /// Largest `|d|`.
    pub max_abs_logprob: Option<f64>,
    /// Median `|d|`; quantiles are exact, interpolated linearly as numpy does.
    pub p50_abs_logprob: Option<f64>,
    /// 90 % quantile of `|d|`.
    pub p90_abs_logprob: Option<f64>,
    /// 99 % quantile of `|d|`.
    pub p99_abs_logprob: Option<f64>,
    /// 99.9 % quantile of `|d|`.
    pub p999_abs_logprob: Option<f64>,
    /// Pearson correlation of `e` and `r`.
    pub pearson_logprob: Option<f64>,
    /// Spearman correlation of `e` and `r`, ties at their average rank.
    pub spearman_logprob: Option<f64>,
    /// Mean `|p_r - p_e|`.
    pub mae_prob: Option<f64>,
    /// Root of the mean `(p_r - p_e)^2`.
    pub rmse_prob: Option<f64>,
    /// Largest `|p_r - p_e|`.
    pub max_abs_prob: Option<f64>,
    /// Mean `p_r - p_e` (signed).
    pub prob_diff_mean: Option<f64>,
    /// Pearson correlation of `p_e` and `p_r`.
    pub pearson_prob: Option<f64>,
    /// Mean KL divergence of Bernoulli(`p_r`) from Bernoulli(`p_e`).
    pub bernoulli_kl: Option<f64>,
    /// k1 estimate of `KL(engine || reference)`.
    pub kl_k1: Option<f64>,
    /// k2 estimate.
    pub kl_k2: Option<f64>,
    /// k3 estimate.
    pub kl_k3: Option<f64>,
    /// k3 with `-d`.
    pub reverse_kl_k3: Option<f64>,
    /// Jensen-Shannon divergence in NeMo-RL's form.
    pub js: Option<f64>,
    /// Mean `exp |d|`.
    pub mult_prob_error: Option<f64>,
    /// Mean `rho`.
    pub importance_ratio_mean: Option<f64>,
    /// Smallest `rho`.
    pub importance_ratio_min: Option<f64>,
    /// Largest `rho`.
    pub importance_ratio_max: Option<f64>,
    /// Effective sample size as a fraction of the tokens.
    pub ess: Option<f64>,
    /// The same with `rho` cut at 2.
    pub ess_truncated: Option<f64>,
    /// Mean `rho^2`, minus 1.
    pub chi2_token: Option<f64>,
    /// Mean over sequences of `exp(sum d)^2`, minus 1.
    pub chi2_sequence: Option<f64>,
    /// Fraction of tokens with `rho` outside [0.9, 1.1].
    pub ratio_outside_0_9_1_1: Option<f64>,
    /// Fraction of tokens with `rho` outside [0.5, 2].
    pub ratio_outside_0_5_2: Option<f64>,
    /// Fraction of tokens with `rho` outside [0.5, 5].
    pub ratio_outside_0_5_5: Option<f64>,
    /// Fraction of tokens with `rho` below 1e-4.
    pub ratio_below_1e_4: Option<f64>,
    /// Mean over sequences of `exp(-mean e)`.
    pub ppl_engine: Option<f64>,
    /// Mean over sequences of `exp(-mean r)`.
    pub ppl_reference: Option<f64>,
    /// Mean over sequences of `mean e - mean r`.
    pub log_ppl_diff: Option<f64>,
    /// Mean entropy of the reference's next-token distributions.
    pub entropy: Option<f64>,
    /// `kl_k3 / entropy`.
    pub kl_entropy_ratio: Option<f64>,
    /// Fraction of tokens that are the reference's first choice.
    pub top1_agreement: Option<f64>,
    /// Mean `P_ref(EOS)` at the end of the sequences that ended by EOS.
    pub eos_probability: Option<f64>,
    /// Mean `|d|` as a multiple of what a faithful bf16 engine would show on these very tokens; undefined until the model's
    /// noise floor was measured.
    pub noise_floor_multiple: Option<f64>,
    /// Exponents that were limited to +-[`EXPONENT_LIMIT`](crate::EXPONENT_LIMIT) in the numbers above.
    pub clamped_exponents: u64,
}

impl Metrics {
    /// The metrics of one sequence (`std::slice::from_ref`) or of many, pooled, without a noise floor.
    #[must_use]
    pub fn of(sequences: &[SequenceComparison]) -> Self {
        Self::of_with_floors(sequences, &[])
    }

    /// The same with the noise floor of each sequence, in their order; one that is missing is not known.
    #[must_use]
    pub fn of_with_floors(sequences: &[SequenceComparison], floors: &[Option<FloorCurve>]) -> Self {
        let mut statistics = SufficientStatistics::default();
        let floors = floors.iter().map(Option::as_ref).chain(std::iter::repeat(None));
        for (sequence, floor) in sequences.iter().zip(floors) {
            statistics.observe_sequence_with_floor(sequence, floor);
        }
        Self::with_values(&statistics, sequences)
    }

    /// The metrics of sequences whose sums are known already.
    #[must_use]
    pub fn with_values(statistics: &SufficientStatistics, sequences: &[SequenceComparison]) -> Self {
        let compared = sequences.iter().flat_map(|sequence| &sequence.tokens).filter_map(|token| token.compared());
        Self::with_pairs(statistics, compared)
    }

    /// The same from the `(e_t, r_t)` in nats of exactly the tokens that the sums are of.
    #[must_use]
    pub fn with_pairs(statistics: &SufficientStatistics, pairs: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let (engine, reference): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
        let mut deltas: Vec<f64> = engine.iter().zip(&reference).map(|(e, r)| (r - e).abs()).collect();
        deltas.sort_unstable_by(f64::total_cmp);
        Self {
            p50_abs_logprob: order::quantile(&deltas, 0.5),
            p90_abs_logprob: order::quantile(&deltas, 0.9),
            p99_abs_logprob: order::quantile(&deltas, 0.99),
            p999_abs_logprob: order::quantile(&deltas, 0.999),
            spearman_logprob: order::spearman(&engine, &reference),
            ..Self::of_statistics(statistics)
        }
    }

    /// The metrics that sums alone determine; quantiles and Spearman, which need the single values, are `None`.
    #[must_use]
    pub fn of_statistics(statistics: &SufficientStatistics) -> Self {
        Self {
            tokens: statistics.tokens,
            sequences: statistics.sequences,
            log_ratio_mean: statistics.log_ratio_mean(),
            mae_logprob: statistics.mae(),
            rmse_logprob: statistics.rmse(),
            max_abs_logprob: statistics.max_abs(),
            p50_abs_logprob: None,
            p90_abs_logprob: None,
            p99_abs_logprob: None,
            p999_abs_logprob: None,
            pearson_logprob: statistics.pearson_logprob(),
            spearman_logprob: None,
            mae_prob: statistics.mae_prob(),
            rmse_prob: statistics.rmse_prob(),
            max_abs_prob: statistics.max_abs_prob(),
            prob_diff_mean: statistics.prob_diff_mean(),
            pearson_prob: statistics.pearson_prob(),
            bernoulli_kl: statistics.bernoulli_kl(),
            kl_k1: statistics.kl_k1(),
            kl_k2: statistics.kl_k2(),
            kl_k3: statistics.kl_k3(),
            reverse_kl_k3: statistics.reverse_kl_k3(),
            js: statistics.js(),
            mult_prob_error: statistics.mult_prob_error(),
            importance_ratio_mean: statistics.importance_ratio_mean(),
            importance_ratio_min: statistics.importance_ratio_min(),
            importance_ratio_max: statistics.importance_ratio_max(),
            ess: statistics.ess(),
            ess_truncated: statistics.ess_truncated(),
            chi2_token: statistics.chi2_token(),
            chi2_sequence: statistics.chi2_sequence(),
            ratio_outside_0_9_1_1: statistics.ratio_outside_0_9_1_1(),
            ratio_outside_0_5_2: statistics.ratio_outside_0_5_2(),
            ratio_outside_0_5_5: statistics.ratio_outside_0_5_5(),
            ratio_below_1e_4: statistics.ratio_below_1e_4(),
            ppl_engine: statistics.ppl_engine(),
            ppl_reference: statistics.ppl_reference(),
            log_ppl_diff: statistics.log_ppl_diff(),
            entropy: statistics.entropy(),
            kl_entropy_ratio: statistics.kl_entropy_ratio(),
            top1_agreement: statistics.top1_agreement(),
            eos_probability: statistics.eos_probability(),
            noise_floor_multiple: statistics.noise_floor_multiple(),
            clamped_exponents: statistics.clamped_exponents,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_compared_is_null_and_never_zero() {
        let json = serde_json::to_value(Metrics::of(&[])).unwrap();
        for (key, value) in json.as_object().unwrap() {
            let is_count = ["tokens", "sequences", "clamped_exponents"].contains(&key.as_str());
            assert!(if is_count { *value == 0 } else { value.is_null() }, "{key}: {value}");
        }
    }

    #[test]
    fn the_keys_are_those_of_the_api() {
        let contract = "tokens sequences log_ratio_mean mae_logprob rmse_logprob max_abs_logprob p50_abs_logprob \
            p90_abs_logprob p99_abs_logprob p999_abs_logprob pearson_logprob spearman_logprob mae_prob rmse_prob \
            max_abs_prob prob_diff_mean pearson_prob bernoulli_kl kl_k1 kl_k2 kl_k3 reverse_kl_k3 js mult_prob_error \
            importance_ratio_mean importance_ratio_min importance_ratio_max ess ess_truncated chi2_token chi2_sequence \
            ratio_outside_0_9_1_1 ratio_outside_0_5_2 ratio_outside_0_5_5 ratio_below_1e_4 ppl_engine ppl_reference \
            log_ppl_diff entropy kl_entropy_ratio top1_agreement eos_probability noise_floor_multiple clamped_exponents";
        let json = serde_json::to_value(Metrics::default()).unwrap();
        let mut keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        let mut expected: Vec<_> = contract.split_whitespace().collect();
        keys.sort_unstable();
        expected.sort_unstable();
        assert_eq!(keys, expected);
    }
}
