//! `--fail-on`: a metric and how far it may go.

use std::str::FromStr;

use plumbline_divergence::Metrics;
use serde_json::Value;

/// The share of an engine's judged sequences that are divergent, beside the metrics.
const DIVERGENT_SEQUENCES: &str = "divergent_sequences";

/// Metrics that are worse when they are lower.
const LOWER_IS_WORSE: [&str; 7] = [
    "pearson_logprob",
    "spearman_logprob",
    "pearson_prob",
    "ess",
    "ess_truncated",
    "top1_agreement",
    "eos_probability",
];

/// Metrics with a sign, which are worse the further they are from 0.
const SIGNED: [&str; 4] = ["log_ratio_mean", "prob_diff_mean", "log_ppl_diff", "kl_k1"];

/// Metrics that are worse neither way: their limits need `<` or `>`.
const NEITHER: [&str; 8] = [
    "tokens",
    "sequences",
    "importance_ratio_mean",
    "importance_ratio_min",
    "importance_ratio_max",
    "ppl_engine",
    "ppl_reference",
    "entropy",
];

/// A limit of a metric.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Limit {
    key: String,
    breaks: Breaks,
    value: f64,
}

/// When a limit is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Breaks {
    Above,
    Below,
    /// The magnitude is above.
    Beyond,
}

impl Limit {
    /// In words, if the limit is broken; a metric without a value breaks it too. `divergent` is the share of divergent
    /// sequences.
    pub(crate) fn broken_by(&self, engine: &str, metrics: &Value, divergent: Option<f64>) -> Option<String> {
        let value = if self.key == DIVERGENT_SEQUENCES { divergent } else { metrics[&self.key].as_f64() };
        let Self { key, value: limit, .. } = self;
        let Some(value) = value else { return Some(format!("{key} of {engine} has no value, its limit is {limit}")) };
        let (broken, word) = match self.breaks {
            Breaks::Above => (value > *limit, "above"),
            Breaks::Below => (value < *limit, "below"),
            Breaks::Beyond => (value.abs() > *limit, "further from 0 than"),
        };
        broken.then(|| format!("{key} of {engine} is {}, {word} {limit}", significant(value)))
    }
}

/// A number with four digits that count.
fn significant(value: f64) -> String {
    if value == 0.0 || (1e-3..1e6).contains(&value.abs()) { format!("{value:.4}") } else { format!("{value:.3e}") }
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let place = text.find(['=', '<', '>']).ok_or("expected KEY=LIMIT, KEY<LIMIT or KEY>LIMIT")?;
        let (key, value) = (text[..place].trim(), text[place + 1..].trim());
        let number: f64 = value.parse().map_err(|_| format!("the limit {value:?} is not a number"))?;
        if !number.is_finite() {
            return Err(format!("the limit {value:?} is not finite"));
        }
        let keys = keys();
        if !keys.iter().any(|known| known == key) {
            return Err(format!("unknown metric {key:?}, expected one of {}", keys.join(", ")));
        }
        let breaks = match &text[place..=place] {
            ">" => Breaks::Above,
            "<" => Breaks::Below,
            _ if LOWER_IS_WORSE.contains(&key) => Breaks::Below,
            _ if SIGNED.contains(&key) => Breaks::Beyond,
            _ if NEITHER.contains(&key) => {
                return Err(format!("{key} is worse neither high nor low: write {key}>{value} or {key}<{value}"));
            }
            _ => Breaks::Above,
        };
        Ok(Self { key: key.to_owned(), breaks, value: number })
    }
}

/// What can be limited.
fn keys() -> Vec<String> {
    let metrics = serde_json::to_value(Metrics::default()).unwrap_or_default();
    let mut keys: Vec<String> = metrics.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect();
    keys.push(DIVERGENT_SEQUENCES.to_owned());
    keys
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn broken(limit: &str, metrics: &Value) -> bool {
        limit.parse::<Limit>().unwrap().broken_by("e", metrics, Some(0.5)).is_some()
    }

    #[test]
    fn limits_know_which_way_is_worse() {
        let metrics =
            json!({"kl_k3": 2e-3, "pearson_logprob": 0.99, "log_ratio_mean": -0.5, "importance_ratio_mean": 1.1});
        assert!(broken("kl_k3=1e-3", &metrics) && !broken("kl_k3=2e-3", &metrics) && !broken("kl_k3<1e-3", &metrics));
        assert!(broken("pearson_logprob=0.999", &metrics) && !broken("pearson_logprob = 0.9", &metrics));
        assert!(broken("log_ratio_mean=0.4", &metrics) && !broken("log_ratio_mean>0.4", &metrics));
        assert!(broken("importance_ratio_mean>1.05", &metrics) && !broken("importance_ratio_mean<1.05", &metrics));
        assert!(broken("divergent_sequences=0.4", &metrics) && !broken("divergent_sequences=0.5", &metrics));
        assert!(broken("mae_logprob=1", &metrics), "what has no value cannot be within a limit");
        let words = "kl_k3=1e-3".parse::<Limit>().unwrap().broken_by("vllm", &metrics, None).unwrap();
        assert_eq!(words, "kl_k3 of vllm is 0.0020, above 0.001");
    }

    #[test]
    fn bad_limits_are_refused() {
        let error = |text: &str| text.parse::<Limit>().unwrap_err();
        assert!(error("kl_k4=1").contains("kl_k3"), "the known ones are listed");
        assert!(error("kl_k3").contains("KEY=LIMIT"));
        assert!(error("kl_k3=x").contains("not a number") && error("kl_k3=inf").contains("not finite"));
        assert!(error("tokens=5").contains("tokens>5"));
        for key in keys() {
            assert!(format!("{key}>1").parse::<Limit>().is_ok());
        }
        for key in LOWER_IS_WORSE.iter().chain(&SIGNED).chain(&NEITHER) {
            assert!(keys().iter().any(|known| known == key), "{key} is no metric");
        }
    }
}
