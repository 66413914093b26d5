//! What is asked of an engine, whatever it is.

use plumbline_core::{Sampling, TokenId};
use serde_json::{Map, Value, json};

/// One completion of one prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// The prompt's ids; no engine tokenises anything.
    pub prompt: Vec<TokenId>,
    /// Most tokens to sample.
    pub max_tokens: usize,
    /// How to sample. Every parameter is sent, whatever the server's own defaults are, where the protocol has it.
    pub sampling: Sampling,
    /// Seed of the engine's random numbers.
    pub seed: u32,
}

/// The bodies of one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Path of the route.
    pub path: &'static str,
    /// The body sent.
    pub request: Value,
    /// The body received.
    pub response: Value,
}

impl Ask {
    /// A body with the fields of all OpenAI-like completion routes; the penalties only where they do something, for some
    /// servers refuse what they do not know.
    pub(super) fn openai_body(&self, model: &str, logprobs: usize) -> Map<String, Value> {
        let Sampling { temperature, top_p, presence_penalty, frequency_penalty, .. } = self.sampling;
        let mut body = Map::new();
        body.insert("model".into(), json!(model));
        body.insert("prompt".into(), json!(self.prompt));
        body.insert("max_tokens".into(), json!(self.max_tokens));
        body.insert("temperature".into(), json!(temperature));
        body.insert("top_p".into(), json!(top_p));
        body.insert("seed".into(), json!(self.seed));
        body.insert("n".into(), json!(1));
        body.insert("logprobs".into(), json!(logprobs));
        for (name, value) in [("presence_penalty", presence_penalty), ("frequency_penalty", frequency_penalty)] {
            if value != 0.0 {
                body.insert(name.into(), json!(value));
            }
        }
        body
    }
}

/// Every sampling parameter by the name that vLLM and SGLang both give it.
pub(super) fn sampling_fields(sampling: &Sampling) -> Value {
    // No top-k is -1 for SGLang and old versions of vLLM, 0 or -1 for new ones.
    let top_k = if sampling.top_k > 0 { sampling.top_k } else { -1 };
    json!({
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": top_k,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
    })
}
