//! How an engine sampled, and what the logprob it reports means.

use serde::{Deserialize, Serialize, Serializer};

use crate::ProcessingOrder;

/// Sampling parameters of a rollout. The defaults are neutral: nothing but the model's own distribution.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct Sampling {
    /// Softmax temperature; 0 = greedy.
    pub temperature: f64,
    /// Nucleus mass in (0, 1]; 1 = off.
    pub top_p: f64,
    /// Number of kept tokens; 0 or -1 = off (engines use both).
    pub top_k: i64,
    /// Kept tokens have at least this share of the top token's probability; 0 = off.
    pub min_p: f64,
    /// Divides (positive) or multiplies (negative) the logits of tokens already in context; 1 = off.
    pub repetition_penalty: f64,
    /// Subtracted once from the logits of tokens already sampled; 0 = off.
    pub presence_penalty: f64,
    /// Subtracted per occurrence from the logits of tokens already sampled; 0 = off.
    pub frequency_penalty: f64,
    /// In which engine's order and meaning all that was done; `None` = nobody said.
    #[serde(deserialize_with = "crate::optional_name")]
    pub order: Option<ProcessingOrder>,
}

crate::objects_only!(Sampling);

impl Serialize for Sampling {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // The derived code, which reading from objects alone has made a function of its own.
        Self::serialize(self, serializer)
    }
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            order: None,
        }
    }
}

impl Sampling {
    /// Whether the engine took the most likely token instead of drawing one.
    #[must_use]
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Whether `raw`, `temperature` and `processed` logprobs coincide.
    #[must_use]
    pub fn is_neutral(&self) -> bool {
        (self.temperature == 1.0 || self.is_greedy()) && self.active_transforms().is_empty()
    }

    /// Names of the parameters, besides temperature, that change the distribution that was sampled.
    #[must_use]
    pub fn active_transforms(&self) -> Vec<&'static str> {
        let truncates = !self.is_greedy();
        [
            ("top_p", truncates && self.top_p != 1.0),
            ("top_k", truncates && self.top_k > 0),
            ("min_p", truncates && self.min_p != 0.0),
            ("repetition_penalty", self.repetition_penalty != 1.0),
            ("presence_penalty", self.presence_penalty != 0.0),
            ("frequency_penalty", self.frequency_penalty != 0.0),
        ]
        .into_iter()
        .filter_map(|(name, active)| active.then_some(name))
        .collect()
    }

    /// What makes the parameters unusable, as `(field, value, reason)`.
    #[must_use]
    pub fn violations(&self) -> Vec<(&'static str, String, &'static str)> {
        [
            (
                "temperature",
                self.temperature,
                self.temperature.is_finite() && self.temperature >= 0.0,
                "must be a finite number >= 0",
            ),
            ("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "must be in (0, 1]"),
            ("top_k", self.top_k as f64, self.top_k >= -1, "must be -1 or 0 (off) or a positive count"),
            ("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "must be in [0, 1]"),
            (
                "repetition_penalty",
                self.repetition_penalty,
                self.repetition_penalty.is_finite() && self.repetition_penalty > 0.0,
                "must be a finite number > 0",
            ),
            ("presence_penalty", self.presence_penalty, self.presence_penalty.is_finite(), "must be finite"),
            ("frequency_penalty", self.frequency_penalty, self.frequency_penalty.is_finite(), "must be finite"),
        ]
        .into_iter()
        .filter(|(_, _, good, _)| !good)
        .map(|(field, value, _, reason)| (field, value.to_string(), reason))
        .collect()
    }
}

/// What an engine's logprob means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogprobsMode {
    /// Log-softmax of the model's own logits; with SGLang, which has no others, after penalties.
    Raw,
    /// After temperature, before truncation; before penalties too, but with SGLang.
    Temperature,
    /// After penalties, temperature, top-k, top-p and min-p: the distribution that was sampled from.
    Processed,
}

impl LogprobsMode {
    /// The mode of an engine's sampled-token logprobs when nobody says otherwise; `None` for an engine not known here.
    ///
    /// vLLM, llama.cpp and TensorRT-LLM report raw logprobs, SGLang after temperature, TGI after all its warpers.
    #[must_use]
    pub fn default_of_engine(engine: &str) -> Option<Self> {
        match engine.to_ascii_lowercase().as_str() {
            "vllm" | "llama.cpp" | "llamacpp" | "tensorrt-llm" | "trtllm" => Some(Self::Raw),
            "sglang" => Some(Self::Temperature),
            "tgi" => Some(Self::Processed),
            _ => None,
        }
    }

    /// The name used on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Temperature => "temperature",
            Self::Processed => "processed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(json: &str) -> Sampling {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn missing_parameters_are_neutral() {
        assert_eq!(sampling("{}"), Sampling::default());
        assert!(Sampling::default().is_neutral());
        assert!(sampling(r#"{"top_k":-1}"#).is_neutral());
        assert!(!sampling(r#"{"temperature":0.7}"#).is_neutral());
        assert!(!sampling(r#"{"top_p":0.9}"#).is_neutral());
        assert_eq!(sampling(r#"{"order":"sglang"}"#).order, Some(ProcessingOrder::Sglang));
    }

    #[test]
    fn unknown_parameters_are_refused() {
        assert!(serde_json::from_str::<Sampling>(r#"{"temprature":1}"#).is_err());
        assert!(serde_json::from_str::<Sampling>(r#"{"order":"mine"}"#).is_err());
    }

    #[test]
    fn bad_parameters_are_named() {
        let bad = Sampling { temperature: -1.0, top_p: 0.0, top_k: -2, min_p: f64::NAN, ..Sampling::default() };
        let fields: Vec<_> = bad.violations().into_iter().map(|(field, _, _)| field).collect();
        assert_eq!(fields, ["temperature", "top_p", "top_k", "min_p"]);
        assert!(Sampling::default().violations().is_empty());
    }
}
