//! Which engine's protocol a driver speaks.

use std::fmt;
use std::str::FromStr;

use plumbline_core::LogprobsMode;

/// The protocol of an engine's server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DriverKind {
    /// vLLM: `/inference/v1/generate`, else `/v1/completions`.
    Vllm,
    /// SGLang: `/generate`.
    Sglang,
    /// llama.cpp's own server: `/completion`.
    LlamaCpp,
    /// `trtllm-serve`: `/v1/completions`, which refuses unknown fields.
    TensorRtLlm,
    /// Any other server with `/v1/completions` that takes and returns token ids.
    OpenAi,
}

impl DriverKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Vllm, Self::Sglang, Self::LlamaCpp, Self::TensorRtLlm, Self::OpenAi];

    /// The name used on the command line and in files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vllm => "vllm",
            Self::Sglang => "sglang",
            Self::LlamaCpp => "llama.cpp",
            Self::TensorRtLlm => "tensorrt-llm",
            Self::OpenAi => "openai",
        }
    }

    /// What its logprobs mean unless the server was started otherwise; `None` where that cannot be known.
    #[must_use]
    pub fn default_logprobs_mode(self) -> Option<LogprobsMode> {
        LogprobsMode::default_of_engine(self.as_str())
    }
}

impl fmt::Display for DriverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for DriverKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "vllm" => Ok(Self::Vllm),
            "sglang" => Ok(Self::Sglang),
            "llama.cpp" | "llamacpp" | "llama-cpp" => Ok(Self::LlamaCpp),
            "tensorrt-llm" | "trtllm" => Ok(Self::TensorRtLlm),
            "openai" => Ok(Self::OpenAi),
            _ => {
                let known: Vec<_> = Self::ALL.iter().map(|kind| kind.as_str()).collect();
                Err(format!("no engine is called {text:?}; known are {}", known.join(", ")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_its_name() {
        for kind in DriverKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        assert!("mine".parse::<DriverKind>().unwrap_err().contains("vllm, sglang"));
    }
}
