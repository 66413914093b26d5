//! The engines' bodies.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{Behaviour, Protocol, model};

/// Fields of `trtllm-serve`'s completion request that the driver may use.
const TENSORRT_LLM_FIELDS: [&str; 14] = [
    "model",
    "prompt",
    "max_tokens",
    "temperature",
    "top_p",
    "seed",
    "n",
    "logprobs",
    "presence_penalty",
    "frequency_penalty",
    "top_k",
    "min_p",
    "repetition_penalty",
    "detokenize",
];

type Refusal = (StatusCode, &'static str);

/// Whether logprobs of given tokens are asked for.
pub(super) fn is_scoring(request: &Value) -> bool {
    request["prompt_logprobs"] == 0 || request["logprob_start_len"] == 0
}

pub(super) fn answer(behaviour: &Behaviour, path: &str, request: &Value) -> Result<Value, Refusal> {
    use Protocol::*;
    match (behaviour.protocol, path) {
        (Vllm, "/inference/v1/generate") => Ok(vllm_generate(behaviour, request)),
        (VllmCompletions, "/inference/v1/generate") => Err((StatusCode::FORBIDDEN, "not started with it")),
        (Vllm | VllmCompletions, "/v1/completions") if is_scoring(request) => Ok(vllm_score(behaviour, request)),
        (Vllm | VllmCompletions, "/v1/completions") => Ok(completions(behaviour, request, true)),
        (Sglang, "/generate") if is_scoring(request) => Ok(sglang_score(behaviour, request)),
        (Sglang, "/generate") => Ok(sglang_generate(behaviour, request)),
        (LlamaCpp, "/completion") => Ok(llama_cpp(behaviour, request)),
        (TensorRtLlm, "/v1/completions") => {
            let known = |name: &String| TENSORRT_LLM_FIELDS.contains(&name.as_str());
            if request.as_object().unwrap().keys().all(known) {
                Ok(completions(behaviour, request, request["detokenize"] == false))
            } else {
                Err((StatusCode::BAD_REQUEST, "extra fields are not permitted"))
            }
        }
        (OpenAiWithoutIds, "/v1/completions") => Ok(completions(behaviour, request, false)),
        (OpenAiTextOnly, "/v1/completions") if request["prompt"].is_array() => {
            Err((StatusCode::UNPROCESSABLE_ENTITY, "Input should be a valid string"))
        }
        _ => Err((StatusCode::NOT_FOUND, "no such route")),
    }
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// What the engine says of tokens: the model's logprobs, with what is planted.
fn said(behaviour: &Behaviour, prompt: &[u32], completion: &[u32]) -> Vec<f64> {
    let all = model::logprobs(&[prompt, completion].concat());
    let own = all[prompt.len() - 1..].iter().enumerate();
    own.map(|(index, value)| (value + behaviour.planted * if index % 2 == 0 { 1.0 } else { -1.0 }).min(0.0)).collect()
}

fn sampled(behaviour: &Behaviour, prompt: &Value, seed: &Value, count: &Value) -> (Vec<u32>, Vec<u32>, Vec<f64>) {
    let prompt = ids(prompt);
    let count = count.as_u64().unwrap() as usize;
    let completion = model::sample(&prompt, seed.as_u64().unwrap(), behaviour.salt, count);
    let logprobs = said(behaviour, &prompt, &completion);
    (prompt, completion, logprobs)
}

fn vllm_generate(behaviour: &Behaviour, request: &Value) -> Value {
    let parameters = &request["sampling_params"];
    let (prompt, completion, logprobs) =
        sampled(behaviour, &request["token_ids"], &parameters["seed"], &parameters["max_tokens"]);
    let entries = completion.iter().zip(&logprobs);
    let content: Vec<Value> = entries
        .map(|(id, logprob)| json!({"token_id": id, "logprob": logprob, "rank": 1, "top_logprobs": []}))
        .collect();
    let choice = json!({"index": 0, "finish_reason": "length", "stop_reason": null, "token_ids": completion,
        "logprobs": {"content": content}, "weight_versions": [{"version": "default", "start": 0, "end": logprobs.len()}]});
    json!({"request_id": "generate-tokens-1", "model": "tiny", "output_mode": "tokens", "prompt_token_ids": prompt,
        "prompt_logprobs": null, "choices": [choice]})
}

fn completions(behaviour: &Behaviour, request: &Value, with_ids: bool) -> Value {
    let (prompt, completion, logprobs) =
        sampled(behaviour, &request["prompt"], &request["seed"], &request["max_tokens"]);
    let tokens: Vec<String> = completion.iter().map(|id| format!("t{id}")).collect();
    let top: Vec<Value> =
        tokens.iter().zip(&logprobs).map(|(token, logprob)| json!({token.as_str(): logprob})).collect();
    let mut choice = json!({"index": 0, "text": tokens.concat(), "finish_reason": "length", "stop_reason": null,
        "logprobs": {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": top, "text_offset": vec![0; logprobs.len()]}});
    let mut body = json!({"id": "cmpl-1", "object": "text_completion", "created": 0, "model": "tiny"});
    if with_ids {
        choice["token_ids"] = json!(completion);
        match behaviour.protocol {
            Protocol::TensorRtLlm => body["prompt_token_ids"] = json!(prompt),
            _ => choice["prompt_token_ids"] = json!(prompt),
        }
    }
    body["choices"] = json!([choice]);
    body["usage"] = json!({"prompt_tokens": prompt.len(), "completion_tokens": completion.len(),
        "total_tokens": prompt.len() + completion.len()});
    body
}

/// The first token has no context.
fn with_gap(behaviour: &Behaviour, token_ids: &[u32]) -> Vec<Option<f64>> {
    let rest = said(behaviour, &token_ids[..1], &token_ids[1..]);
    std::iter::once(None).chain(rest.into_iter().map(Some)).collect()
}

fn vllm_score(behaviour: &Behaviour, request: &Value) -> Value {
    let token_ids = ids(&request["prompt"]);
    let gaps = with_gap(behaviour, &token_ids);
    let listed: Vec<Value> = token_ids
        .iter()
        .zip(gaps)
        .map(|(id, logprob)| match logprob {
            Some(logprob) => json!({id.to_string(): {"logprob": logprob, "rank": 1, "decoded_token": "t"}}),
            None => Value::Null,
        })
        .collect();
    json!({"choices": [{"index": 0, "text": "t", "finish_reason": "length", "prompt_logprobs": listed,
        "prompt_token_ids": token_ids, "token_ids": [40]}]})
}

fn tuples(ids: &[u32], logprobs: impl IntoIterator<Item = Option<f64>>) -> Vec<Value> {
    ids.iter().zip(logprobs).map(|(id, logprob)| json!([logprob, id, null])).collect()
}

fn sglang_generate(behaviour: &Behaviour, request: &Value) -> Value {
    let parameters = &request["sampling_params"];
    let (prompt, completion, logprobs) =
        sampled(behaviour, &request["input_ids"], &parameters["sampling_seed"], &parameters["max_new_tokens"]);
    let count = completion.len();
    json!({"text": "t", "output_ids": completion, "meta_info": {"id": "r1", "prompt_tokens": prompt.len(),
        "completion_tokens": count, "cached_tokens": 0, "finish_reason": {"type": "length", "length": count},
        "input_token_logprobs": [], "output_token_logprobs": tuples(&completion, logprobs.into_iter().map(Some))}})
}

fn sglang_score(behaviour: &Behaviour, request: &Value) -> Value {
    let token_ids = ids(&request["input_ids"]);
    let gaps = with_gap(behaviour, &token_ids);
    json!({"text": "", "output_ids": [], "meta_info": {"id": "r2", "prompt_tokens": token_ids.len(), "completion_tokens": 0,
        "finish_reason": {"type": "length", "length": 0}, "input_token_logprobs": tuples(&token_ids, gaps),
        "output_token_logprobs": []}})
}

fn llama_cpp(behaviour: &Behaviour, request: &Value) -> Value {
    let (_, completion, logprobs) = sampled(behaviour, &request["prompt"], &request["seed"], &request["n_predict"]);
    let entries = completion.iter().zip(&logprobs);
    let probabilities: Vec<Value> = entries
        .map(|(id, logprob)| json!({"id": id, "token": "t", "bytes": [116], "logprob": logprob, "top_logprobs": []}))
        .collect();
    json!({"index": 0, "content": "t", "tokens": completion, "stop": true, "stop_type": "limit", "truncated": false,
        "tokens_cached": 0, "generation_settings": {"temperature": request["temperature"], "top_p": request["top_p"],
        "top_k": request["top_k"], "min_p": request["min_p"]}, "completion_probabilities": probabilities})
}
