//! Bodies as the engines' sources write them.

use serde_json::{Value, json};

use super::super::EngineKind;
use super::{Exchange, exchange, of};

pub(super) fn vllm_completion() -> Exchange {
    exchange(
        json!({"model": "m", "prompt": [1, 15], "max_tokens": 2, "logprobs": 0, "temperature": 0.7, "top_p": 0.9,
               "return_token_ids": true}),
        json!({"id": "cmpl-1", "object": "text_completion", "model": "m", "system_fingerprint": "vllm-0.32.0-4d5105bf",
            "choices": [{"index": 0, "text": " a b", "finish_reason": "length", "stop_reason": null,
                "logprobs": {"tokens": [" a", " b"], "token_logprobs": [-0.5, -1.25], "text_offset": [0, 2],
                    "top_logprobs": [{" a": -0.5}, {" b": -1.25}]},
                "prompt_token_ids": [1, 15], "token_ids": [26, 28], "prompt_logprobs": null,
                "weight_versions": [{"version": "42", "start": 0, "end": 2}]}],
            "usage": {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4,
                "prompt_tokens_details": {"cached_tokens": 1}}}),
    )
}

pub(super) fn vllm_chat() -> Exchange {
    exchange(
        json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_completion_tokens": 1, "logprobs": true,
               "top_logprobs": 0, "return_token_ids": true}),
        json!({"id": "chatcmpl-1", "object": "chat.completion", "model": "m", "prompt_token_ids": [1, 99], "prompt_logprobs": null,
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": " a"},
                "token_ids": [26], "logprobs": {"content": [
                    {"token": " a", "logprob": -0.5, "bytes": [32, 97], "top_logprobs": []}]}}]}),
    )
}

pub(super) fn vllm_generate() -> Exchange {
    exchange(
        json!({"model": "m", "token_ids": [1, 15], "sampling_params": {"max_tokens": 2, "temperature": 0.5, "logprobs": 0}}),
        json!({"request_id": "x", "output_mode": "tokens", "choices": [{"index": 0, "finish_reason": "length",
                "token_ids": [26, 28], "logprobs": {"content": [
                    {"token_id": 26, "logprob": -0.5, "rank": 1, "top_logprobs": []},
                    {"token_id": 28, "logprob": -1.25, "rank": 2, "top_logprobs": []}]},
                "weight_versions": [{"version": "41", "start": 0, "end": 1}, {"version": "42", "start": 1, "end": 2}],
                "sampling_mask": null}],
            "prompt_token_ids": null, "prompt_logprobs": null, "kv_transfer_params": null}),
    )
}

pub(super) fn sglang_completion(ids: &[u32]) -> Value {
    let tuples: Vec<_> = ids.iter().map(|id| json!([-f64::from(*id) / 8.0, id, null])).collect();
    json!({"text": " a b", "output_ids": ids, "meta_info": {"id": "r1", "prompt_tokens": 2, "completion_tokens": ids.len(),
        "cached_tokens": 1, "finish_reason": {"type": "length", "length": 2}, "input_token_logprobs": [],
        "output_token_logprobs": tuples, "weight_version": "42",
        "weight_versions": [{"version": "42", "start": 0, "end": ids.len()}]}})
}

pub(super) fn sglang() -> Exchange {
    exchange(
        json!({"input_ids": [1, 15], "sampling_params": {"max_new_tokens": 2, "temperature": 0.6, "top_k": 20, "min_p": 0.1},
               "return_logprob": true, "logprob_start_len": -1}),
        sglang_completion(&[26, 28]),
    )
}

pub(super) fn llama_cpp() -> Exchange {
    exchange(
        json!({"prompt": [1, 15], "n_predict": 2, "n_probs": 1, "return_tokens": true, "cache_prompt": false}),
        json!({"index": 0, "content": " a b", "tokens": [26, 28], "stop": true, "stop_type": "limit", "tokens_predicted": 2,
            "tokens_evaluated": 2, "truncated": false,
            "generation_settings": {"temperature": 0.5, "top_k": 10, "top_p": 0.9, "min_p": 0.0, "repeat_penalty": 1.1,
                "presence_penalty": 0.0, "frequency_penalty": 0.0, "post_sampling_probs": false, "grammar": "", "logit_bias": []},
            "completion_probabilities": [
                {"id": 26, "token": " a", "bytes": [32, 97], "logprob": -0.5, "top_logprobs": [{"id": 7, "logprob": -0.1}]},
                {"id": 28, "token": " b", "bytes": [32, 98], "logprob": -1.25, "top_logprobs": []}],
            "timings": {"cache_n": 1, "prompt_n": 1, "predicted_n": 2}}),
    )
}

pub(super) fn tgi() -> Exchange {
    exchange(
        json!({"inputs": "Hello", "parameters": {"max_new_tokens": 2, "details": true, "decoder_input_details": true,
               "do_sample": true, "temperature": 0.7, "top_k": 5, "repetition_penalty": 1.2}}),
        json!({"generated_text": " a b", "details": {"finish_reason": "length", "generated_tokens": 2, "seed": 1,
            "prefill": [{"id": 1, "text": "<s>", "logprob": null}, {"id": 15, "text": "Hello", "logprob": -9.0}],
            "tokens": [{"id": 26, "text": " a", "logprob": -0.5, "special": false},
                {"id": 28, "text": " b", "logprob": -1.25, "special": false}]}}),
    )
}

pub(super) fn tensorrt_llm() -> Exchange {
    of(
        EngineKind::TensorRtLlm,
        json!({"model": "m", "prompt": [1, 15], "max_tokens": 2, "logprobs": 1, "detokenize": false, "temperature": 0.8}),
        json!({"id": "cmpl-3", "object": "text_completion", "model": "m", "choices": [{"index": 0, "text": "",
                "token_ids": [26, 28], "finish_reason": "length", "stop_reason": null, "disaggregated_params": null,
                "logprobs": {"tokens": [" a", " b"], "token_logprobs": [-0.5, -9999.0], "text_offset": [0, 2],
                    "top_logprobs": []}}],
            "usage": {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4}}),
    )
}

/// One of each.
pub(super) fn all() -> Vec<Exchange> {
    vec![vllm_completion(), vllm_chat(), vllm_generate(), sglang(), llama_cpp(), tgi(), tensorrt_llm()]
}
