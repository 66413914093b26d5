//! The engines whose bodies are known.

use std::fmt;

use plumbline_core::{LogprobsMode, ProcessingOrder};

/// An inference engine whose bodies can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EngineKind {
    /// vLLM: `/v1/completions`, `/v1/chat/completions`, `/inference/v1/generate`.
    Vllm,
    /// SGLang: `/generate` and its OpenAI routes.
    Sglang,
    /// llama.cpp's server: `/completion` and its OpenAI routes.
    LlamaCpp,
    /// Text Generation Inference: `/generate`.
    Tgi,
    /// TensorRT-LLM's `trtllm-serve`: its OpenAI routes.
    TensorRtLlm,
}

impl EngineKind {
    /// Every engine.
    pub const ALL: [Self; 5] = [Self::Vllm, Self::Sglang, Self::LlamaCpp, Self::Tgi, Self::TensorRtLlm];

    /// The engine of that name, whatever its case; `None` for any other.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "vllm" => Some(Self::Vllm),
            "sglang" => Some(Self::Sglang),
            "llama.cpp" | "llamacpp" => Some(Self::LlamaCpp),
            "tgi" => Some(Self::Tgi),
            "tensorrt-llm" | "trtllm" => Some(Self::TensorRtLlm),
            _ => None,
        }
    }

    /// The name by which [`LogprobsMode::default_of_engine`] and [`ProcessingOrder::of_engine`] know it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vllm => "vllm",
            Self::Sglang => "sglang",
            Self::LlamaCpp => "llama.cpp",
            Self::Tgi => "tgi",
            Self::TensorRtLlm => "tensorrt-llm",
        }
    }

    /// What its logprobs mean when nobody says otherwise.
    #[must_use]
    pub fn default_logprobs_mode(self) -> LogprobsMode {
        match self {
            Self::Vllm | Self::LlamaCpp | Self::TensorRtLlm => LogprobsMode::Raw,
            Self::Sglang => LogprobsMode::Temperature,
            Self::Tgi => LogprobsMode::Processed,
        }
    }

    /// The order in which it processes logits, where that is one that can be reproduced.
    pub(super) fn processing_order(self) -> Option<ProcessingOrder> {
        ProcessingOrder::of_engine(self.as_str())
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_defaults_are_those_of_the_core() {
        for engine in EngineKind::ALL {
            assert_eq!(EngineKind::of_name(&engine.as_str().to_uppercase()), Some(engine));
            assert_eq!(LogprobsMode::default_of_engine(engine.as_str()), Some(engine.default_logprobs_mode()));
            assert_eq!(
                engine.processing_order().is_none(),
                ProcessingOrder::is_none_of_these(engine.as_str()),
                "{engine}: an order is known, or known to be none of the known ones"
            );
        }
        assert_eq!(EngineKind::of_name("vllm-bf16"), None);
    }
}
