//! Good bodies of every format, short, as their engines write them. Ids are below 100.

use serde_json::{Value, json};

/// A native body with every field.
pub(crate) fn native() -> Value {
    json!({
        "run": "r", "engine": "vllm", "worker": "w", "policy_version": "2", "logprobs_mode": "raw",
        "sampling": {"temperature": 0.7, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1,
            "presence_penalty": 0.1, "frequency_penalty": 0.1, "order": "vllm"},
        "sequences": [
            {"id": "a", "prompt_token_ids": [1], "completion_token_ids": [2, 3], "logprobs": [-1.0, null],
             "loss_mask": [1, false], "finish_reason": "stop", "cached_tokens": 1, "policy_version": "2",
             "logprobs_mode": "processed"},
            {"prompt_token_ids": [], "completion_token_ids": [4], "logprobs": [-2.0], "sampling": {},
             "weight_versions": [{"version": "2", "start": 0, "end": 1}]}
        ],
        "include": ["tokens", "importance_weights"]
    })
}

/// The same without what is optional, and with a search for causes.
pub(crate) fn plain() -> Value {
    json!({"run": "r", "engine": "mine", "include": ["diagnosis"],
        "sequences": [{"prompt_token_ids": [1, 5], "completion_token_ids": [7, 2], "logprobs": [-0.5, -9.0]}]})
}

/// Bodies with one exchange each.
pub(crate) fn exchange_bodies() -> Vec<Value> {
    exchanges().iter().map(|exchange| json!({"run": "r", "engine": "mine", "exchanges": [exchange]})).collect()
}

/// The same with what a request may state for all of its exchanges, which not every engine can be scored with, and all of them
/// in one body.
pub(crate) fn stated_exchange_bodies() -> Vec<Value> {
    let body = |exchanges: Vec<Value>| {
        json!({"run": "r", "engine": "mine", "policy_version": "2", "logprobs_mode": "processed", "sampling": {"top_p": 0.9},
            "exchanges": exchanges})
    };
    exchanges().into_iter().map(|exchange| vec![exchange]).chain([exchanges()]).map(body).collect()
}

/// One exchange of each engine and route, then streamed ones.
pub(crate) fn exchanges() -> Vec<Value> {
    let mut all = vec![
        vllm_completion(),
        vllm_chat(),
        vllm_generate(),
        sglang(),
        sglang_chat(),
        llama_cpp(),
        llama_cpp_chat(),
        tgi(),
        tensorrt_llm(),
    ];
    all.extend(streams().iter().map(|text| streamed(text)));
    all
}

/// An exchange with a streamed response, of whichever engine.
pub(crate) fn streamed(text: &str) -> Value {
    json!({"request": {"prompt": [1, 15], "input_ids": [1, 15]}, "response": text})
}

/// Responses as server-sent events.
pub(crate) fn streams() -> Vec<String> {
    let text = |events: &[Value]| {
        let lines = events.iter().map(|event| format!("data: {event}\n\n"));
        lines.chain(["data: [DONE]\n\n".to_owned()]).collect::<String>()
    };
    let choice = |id: u32| {
        json!({"system_fingerprint": "vllm-1", "choices": [{"index": 0, "text": "x", "token_ids": [id],
            "logprobs": {"tokens": ["x"], "token_logprobs": [-0.5]}}]})
    };
    let growing = |ids: &[u32]| {
        let tuples: Vec<_> = ids.iter().map(|id| json!([-0.5, id, null])).collect();
        json!({"output_ids": ids, "meta_info": {"completion_tokens": ids.len(), "output_token_logprobs": tuples,
            "input_token_logprobs": [[null, 1, null], [-1.0, 15, null]]}})
    };
    let entry = |id: u32| json!({"index": 0, "content": "x", "tokens": [id], "stop": false, "completion_probabilities": [{"id": id, "logprob": -0.5}]});
    vec![
        text(&[choice(26), choice(28)]),
        text(&[growing(&[26]), growing(&[26, 28])]),
        text(&[entry(26), entry(28), json!({"index": 0, "content": "", "stop": true, "tokens": []})]),
        text(&[
            json!({"token": {"id": 26, "logprob": -0.5}}),
            json!({"token": {"id": 28, "logprob": -0.5}, "details": {"finish_reason": "length", "prefill": [{"id": 1, "logprob": null}]}}),
        ]),
    ]
}

fn vllm_completion() -> Value {
    json!({"id": "a", "path": "/v1/completions", "engine": "vllm", "logprobs_mode": "raw_logprobs", "policy_version": "2",
        "sampling": {},
        "request": {"model": "m", "prompt": [[1, 15], [1, 16]], "max_tokens": 2, "logprobs": 0, "n": 1, "temperature": 0.7,
            "top_p": 0.9, "return_token_ids": true},
        "response": {"id": "cmpl-1", "object": "text_completion", "system_fingerprint": "vllm-0.32.0", "choices": [
            {"index": 0, "text": " a b", "finish_reason": "length", "prompt_token_ids": [1, 15], "token_ids": [26, 28],
             "logprobs": {"tokens": [" a", " b"], "token_logprobs": [-0.5, -1.25]}, "prompt_logprobs": null,
             "weight_versions": [{"version": "2", "start": 0, "end": 1}, {"version": "3", "start": 1, "end": 2}]},
            {"index": 1, "text": " a", "finish_reason": "stop", "prompt_token_ids": [1, 16], "token_ids": [26],
             "logprobs": {"tokens": ["token_id:26"], "token_logprobs": [null]}}],
            "usage": {"prompt_tokens": 4, "prompt_tokens_details": {"cached_tokens": 1}}}})
}

fn vllm_chat() -> Value {
    json!({
        "request": {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], "logprobs": true,
            "return_token_ids": true},
        "response": {"object": "chat.completion", "prompt_token_ids": [1, 99], "prompt_logprobs": null, "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": " a"}, "token_ids": [26],
             "logprobs": {"content": [{"token": " a", "logprob": -0.5, "bytes": [32, 97], "top_logprobs": []}]}}],
            "usage": {"prompt_tokens_details": {"cached_tokens": 1}}}})
}

fn vllm_generate() -> Value {
    json!({"path": "/inference/v1/generate",
        "request": {"token_ids": [1, 15], "sampling_params": {"max_tokens": 2, "temperature": 0.5, "logprobs": 0}},
        "response": {"request_id": "x", "output_mode": "tokens", "kv_transfer_params": null, "choices": [
            {"index": 0, "finish_reason": "length", "token_ids": [26, 28], "logprobs": {"content": [
                {"token_id": 26, "logprob": -0.5, "rank": 1}, {"token": "token_id:28", "logprob": -1.25, "rank": 2}]}}]}})
}

fn sglang() -> Value {
    json!({
        "request": {"input_ids": [1, 15], "sampling_params": {"n": 1, "temperature": 0.6, "top_k": 20, "min_p": 0.1}},
        "response": {"text": " a b", "output_ids": [26, 28], "meta_info": {"prompt_tokens": 2, "completion_tokens": 2,
            "cached_tokens": 1, "finish_reason": {"type": "length", "length": 2}, "input_token_logprobs": [],
            "output_token_logprobs": [[-0.5, 26, null], [-1.25, 28, " b"]], "weight_version": "2",
            "weight_versions": [{"version": "2", "start": 0, "end": 2}]}}})
}

fn sglang_chat() -> Value {
    json!({"engine": "sglang", "path": "/v1/chat/completions",
        "request": {"messages": [], "input_ids": [1, 15], "return_token_ids": true},
        "response": {"metadata": {"weight_version": "2"}, "choices": [{"index": 0, "message": {}, "matched_stop": 2,
            "finish_reason": "stop", "prompt_token_ids": [1, 15],
            "meta_info": {"output_token_logprobs": [[-0.5, 26, null]]}}]}})
}

fn llama_cpp() -> Value {
    json!({
        "request": {"prompt": [1, 15], "n_predict": 2, "n_probs": 1, "return_tokens": true},
        "response": {"index": 0, "content": " a b", "tokens": [26, 28], "stop": true, "tokens_predicted": 2,
            "tokens_evaluated": 2, "truncated": false,
            "generation_settings": {"temperature": 0.5, "top_k": 10, "top_p": 0.9, "min_p": 0.0, "repeat_penalty": 1.1,
                "presence_penalty": 0.0, "frequency_penalty": 0.0, "post_sampling_probs": false, "grammar": ""},
            "completion_probabilities": [{"id": 26, "token": " a", "logprob": -0.5}, {"id": 28, "token": " b", "logprob": -1.25}],
            "timings": {"cache_n": 1, "prompt_n": 1, "predicted_n": 2}}})
}

fn llama_cpp_chat() -> Value {
    json!({
        "request": {"prompt": [1, 15], "logprobs": 1},
        "response": {"system_fingerprint": "b6000", "timings": {"cache_n": 1}, "usage": {"prompt_tokens": 2, "completion_tokens": 1},
            "choices": [{"index": 0, "finish_reason": "stop", "text": "", "logprobs": {"content": [{"id": 26, "logprob": -0.5}]}}]}})
}

fn tgi() -> Value {
    json!({
        "request": {"inputs": "Hello", "parameters": {"details": true, "decoder_input_details": true, "do_sample": true,
            "temperature": 0.7, "top_k": 5, "repetition_penalty": 1.2}},
        "response": {"generated_text": " a b", "details": {"finish_reason": "length", "generated_tokens": 2,
            "prefill": [{"id": 1, "logprob": null}, {"id": 15, "logprob": -9.0}],
            "tokens": [{"id": 26, "logprob": -0.5}, {"id": 28, "logprob": -1.25}],
            "best_of_sequences": [{"finish_reason": "length", "generated_tokens": 1, "tokens": [{"id": 26, "logprob": -0.5}]}]}}})
}

fn tensorrt_llm() -> Value {
    json!({"engine": "tensorrt-llm",
        "request": {"prompt": [1, 15], "max_tokens": 2, "logprobs": 1, "echo": false, "temperature": 0.8},
        "response": {"object": "text_completion", "choices": [{"index": 0, "text": "", "token_ids": [26, 28],
            "finish_reason": "length", "disaggregated_params": null,
            "logprobs": {"tokens": [" a", " b"], "token_logprobs": [-0.5, -9999.0]}}],
            "usage": {"prompt_tokens": 2, "completion_tokens": 2}}})
}

/// A short record of each format of dumps: Plumbline's own, canonical, a request, an exchange, NeMo-RL's, prime-rl's, slime's, and outputs of
/// engines.
pub(crate) fn records() -> Vec<Value> {
    vec![
        json!({"id": 1, "group": "g", "run": "r", "engine": "vllm", "worker": 3, "prompt_token_ids": [1, 5],
            "completion_token_ids": [7, 2], "logprobs": [-0.5, null], "loss_mask": [1, 0.0], "sampling": {"temperature": 0.7},
            "logprobs_mode": "raw_logprobs", "trainer_logprobs": [-0.4, -1.0],
            "weight_versions": [{"version": 2, "start": 0, "end": 2}], "cached_tokens": 1, "finish_reason": "stop"}),
        json!({"token_ids": [1, 5, 7, 2], "prompt_len": 2, "logprobs": [null, null, -0.5, -1.0], "loss_mask": [1, 1],
            "temperature": 0.7, "logprobs_mode": "raw", "weight_version": [{"version": "2", "start": 0, "end": 2}],
            "engine": "vllm", "worker": "w", "run": "r", "group": 3, "sequence_id": "s", "finish_reason": "length"}),
        native(),
        vllm_chat(),
        json!({"content": ["..."], "token_ids": [[1, 5, 7, 2, 0]], "token_loss_mask": [[0, 0, 1, 1, 0]],
            "sample_loss_mask": [1.0], "generation_logprobs": [[0.0, 0.0, -0.5, -1.0, 0.0]],
            "prev_logprobs": [[0.0, 0.0, -0.4, -1.1, 0.0]], "input_lengths": [4], "idx": 3}),
        json!({"schema_version": 1, "rank": 0, "export_sequence_idx": 0, "run_id": null, "env_name": "docs",
            "token_ids": [1, 5, 7, 2], "loss_mask": [false, false, true, true], "inference_logprobs": [0.0, 0.0, -0.5, -1.0],
            "trainer_logprobs": [0.0, 0.0, -0.4, -1.1], "temperatures": [1.0, 1.0, 1.0, 1.0]}),
        json!({"samples": [{"group_index": 0, "index": 0, "tokens": [1, 5, 7, 2], "response_length": 2,
            "rollout_log_probs": [-0.5, -1.0], "loss_mask": [1, 1], "weight_versions": ["2"], "status": "completed"}]}),
        json!({"idx": 0, "prompt_ids": [1, 5], "gen_ids": [7, 2], "gen_logprobs": [-0.5, -1.0]}),
    ]
}
