//! The metrics in the order in which people read them, with their names and units.

use serde::Serialize;

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct MetricName {
    /// Key of the API.
    pub(crate) key: &'static str,
    /// What metrics of one kind have in common.
    pub(crate) group: &'static str,
    /// Short name.
    pub(crate) label: &'static str,
    /// `nats`, `probability`, `fraction`, `ratio`, `count` or nothing.
    pub(crate) unit: &'static str,
    /// What it is, in one line.
    pub(crate) meaning: &'static str,
    /// Whether it belongs to the handful that everybody looks at.
    pub(crate) key_figure: bool,
}

macro_rules! glossary {
    ($($group:literal { $($key:ident, $label:literal, $unit:literal, $meaning:literal, $figure:literal;)+ })+) => {
        /// Every metric of the API but the two counts of tokens and sequences, which stand above all tables.
        pub(crate) const GLOSSARY: &[MetricName] = &[$($(
            MetricName {
                key: stringify!($key),
                group: $group,
                label: $label,
                unit: $unit,
                meaning: $meaning,
                key_figure: $figure,
            },
        )+)+];
    };
}

glossary! {
    "Logprobs" {
        mae_logprob, "MAE", "nats", "mean |d|", true;
        noise_floor_multiple, "Noise floors", "×", "mean |d| over what a faithful bf16 engine would show on these tokens", true;
        rmse_logprob, "RMSE", "nats", "root of the mean d²", true;
        log_ratio_mean, "Mean log ratio", "nats", "mean d, signed", true;
        p50_abs_logprob, "Median |d|", "nats", "50 % quantile of |d|", false;
        p90_abs_logprob, "p90 |d|", "nats", "90 % quantile of |d|", false;
        p99_abs_logprob, "p99 |d|", "nats", "99 % quantile of |d|", true;
        p999_abs_logprob, "p99.9 |d|", "nats", "99.9 % quantile of |d|", false;
        max_abs_logprob, "Max |d|", "nats", "largest |d|", true;
        pearson_logprob, "Pearson r", "", "correlation of both logprobs", true;
        spearman_logprob, "Spearman", "", "rank correlation of both logprobs", false;
    }
    "Divergence" {
        kl_k3, "KL (k3)", "nats", "mean exp(d) − 1 − d, estimates KL(engine ‖ reference)", true;
        kl_k1, "KL (k1)", "nats", "mean −d, unbiased, may be negative", false;
        kl_k2, "KL (k2)", "nats", "mean d² / 2", false;
        reverse_kl_k3, "Reverse KL (k3)", "nats", "k3 with −d", false;
        js, "Jensen–Shannon", "nats", "in NeMo-RL's form", false;
        kl_entropy_ratio, "KL / entropy", "ratio", "k3 over the reference's mean entropy", false;
        mult_prob_error, "Mult. prob. error", "ratio", "mean exp|d|; 1 = equal", true;
    }
    "Probabilities" {
        mae_prob, "MAE", "probability", "mean |p_r − p_e|", true;
        rmse_prob, "RMSE", "probability", "root of the mean (p_r − p_e)²", false;
        max_abs_prob, "Max", "probability", "largest |p_r − p_e|", false;
        prob_diff_mean, "Mean difference", "probability", "mean p_r − p_e, signed", true;
        pearson_prob, "Pearson r", "", "correlation of both probabilities", true;
        bernoulli_kl, "Bernoulli KL", "nats", "mean KL(Bernoulli(p_r) ‖ Bernoulli(p_e)) of the sampled token", true;
    }
    "Importance ratios" {
        importance_ratio_mean, "Mean ρ", "ratio", "mean exp(d); 1 = unbiased", true;
        importance_ratio_min, "Min ρ", "ratio", "smallest exp(d)", false;
        importance_ratio_max, "Max ρ", "ratio", "largest exp(d)", false;
        ess, "Effective sample size", "fraction", "(Σρ)² / (n Σρ²)", true;
        ess_truncated, "ESS, ρ cut at 2", "fraction", "the same with min(ρ, 2)", false;
        ratio_outside_0_9_1_1, "ρ outside [0.9, 1.1]", "fraction", "of the tokens", false;
        ratio_outside_0_5_2, "ρ outside [0.5, 2]", "fraction", "of the tokens", false;
        ratio_outside_0_5_5, "ρ outside [0.5, 5]", "fraction", "of the tokens", false;
        ratio_below_1e_4, "ρ below 1e-4", "fraction", "of the tokens", false;
        chi2_token, "χ² of tokens", "", "mean ρ² − 1", false;
        chi2_sequence, "χ² of sequences", "", "mean exp(Σd)² − 1; grows with length", false;
    }
    "Sequences and reference" {
        ppl_engine, "Perplexity, engine", "", "mean over sequences of exp(−mean e)", false;
        ppl_reference, "Perplexity, reference", "", "mean over sequences of exp(−mean r)", false;
        log_ppl_diff, "Log-perplexity gap", "nats", "mean over sequences of mean e − mean r", false;
        entropy, "Entropy", "nats", "mean of the reference's next-token distributions", false;
        top1_agreement, "Top-1 agreement", "fraction", "tokens that are the reference's first choice", false;
        eos_probability, "P(EOS) at the end", "probability", "of the reference, where sequences ended by EOS", false;
        clamped_exponents, "Limited exponents", "count", "exponents limited to ±20 in the numbers above", false;
    }
}

#[cfg(test)]
mod tests {
    use plumbline_divergence::Metrics;

    use super::*;

    #[test]
    fn every_metric_of_the_api_has_one_name() {
        let json = serde_json::to_value(Metrics::default()).unwrap();
        let mut keys: Vec<_> = GLOSSARY.iter().map(|metric| metric.key).chain(["tokens", "sequences"]).collect();
        keys.sort_unstable();
        let mut expected: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        expected.sort_unstable();
        assert_eq!(keys, expected);
    }
}
