//! The bodies of llama.cpp's own server.

use serde_json::{Value, json};

use super::ask::Ask;

/// Ids in, ids out.
pub(super) const COMPLETION: &str = "/completion";

/// What an engine without such a route answers when it is asked for logprobs of given tokens.
pub(super) const NO_SCORES: &str =
    "llama.cpp's server reports no logprobs of prompt tokens, so it cannot score given tokens";

/// All samplers are named, so that none of the server's own (top-k 40, top-p 0.95, min-p 0.05, and what its command line
/// adds) is left. Without `cache_prompt: false` the prompt's state may come from another batch size, which changes bits.
/// Penalties look at everything; older servers call that -1, which newer ones refuse.
pub(super) fn completion(ask: &Ask) -> Value {
    let sampling = &ask.sampling;
    json!({
        "prompt": ask.prompt,
        "n_predict": ask.max_tokens,
        "seed": ask.seed,
        "n_probs": 1,
        "post_sampling_probs": false,
        "return_tokens": true,
        "cache_prompt": false,
        "stream": false,
        "temperature": sampling.temperature,
        "dynatemp_range": 0.0,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k.max(0),
        "min_p": sampling.min_p,
        "top_n_sigma": -1.0,
        "typical_p": 1.0,
        "xtc_probability": 0.0,
        "dry_multiplier": 0.0,
        "mirostat": 0,
        "repeat_penalty": sampling.repetition_penalty,
        "repeat_last_n": ask.prompt.len() + ask.max_tokens,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
    })
}

#[cfg(test)]
mod tests {
    use plumbline_core::Sampling;

    use super::*;

    #[test]
    fn every_sampler_is_neutral_by_default() {
        let sampling = Sampling { top_k: -1, ..Sampling::default() };
        let body = completion(&Ask { prompt: vec![3], max_tokens: 2, sampling, seed: 1 });
        assert_eq!((&body["prompt"], &body["n_predict"]), (&json!([3]), &json!(2)));
        for (name, value) in [("temperature", 1.0), ("top_p", 1.0), ("min_p", 0.0), ("repeat_penalty", 1.0)] {
            assert_eq!(body[name], json!(value), "{name}");
        }
        assert_eq!((&body["top_k"], &body["mirostat"]), (&json!(0), &json!(0)));
        assert_eq!(body["repeat_last_n"], json!(3));
        assert_eq!((&body["cache_prompt"], &body["return_tokens"]), (&json!(false), &json!(true)));
    }
}
