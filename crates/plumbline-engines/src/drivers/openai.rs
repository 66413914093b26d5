//! `/v1/completions` of TensorRT-LLM and of servers that are not known by name. Both must take ids and give ids.

use plumbline_core::Sampling;
use serde_json::{Value, json};

use super::ask::Ask;
use super::error::DriverError;

/// The only route of such a server that can take ids.
pub(super) const COMPLETIONS: &str = "/v1/completions";

/// What an engine without such a route answers when it is asked for logprobs of given tokens.
pub(super) const NO_SCORES: &str = "the OpenAI protocol has no logprobs of given tokens together with their ids, so this server cannot score given tokens";

/// For `trtllm-serve`, which refuses every field it does not know: ids come instead of text (`detokenize`), and 0
/// logprobs would mean none.
pub(super) fn tensorrt_llm(ask: &Ask, model: &str) -> Value {
    let Sampling { top_k, min_p, repetition_penalty, .. } = ask.sampling;
    let mut body = Value::Object(ask.openai_body(model, 1));
    body["top_k"] = json!(top_k.max(0));
    body["min_p"] = json!(min_p);
    body["repetition_penalty"] = json!(repetition_penalty);
    body["detokenize"] = json!(false);
    body
}

/// For any server. `extended` asks for ids in vLLM's way, which servers that know it answer and most others ignore.
pub(super) fn completions(ask: &Ask, model: &str, extended: bool) -> Value {
    let mut body = ask.openai_body(model, 1);
    let Sampling { top_k, min_p, repetition_penalty, .. } = ask.sampling;
    let active = ask.sampling.active_transforms();
    for (name, value) in
        [("top_k", json!(top_k)), ("min_p", json!(min_p)), ("repetition_penalty", json!(repetition_penalty))]
    {
        if active.contains(&name) {
            body.insert(name.into(), value);
        }
    }
    if extended {
        body.insert("return_token_ids".into(), json!(true));
        body.insert("return_tokens_as_token_ids".into(), json!(true));
    }
    Value::Object(body)
}

/// Whether an answer's sampled tokens come with ids, in any of the ways that are known.
///
/// # Errors
/// [`DriverError::MissingTokenIds`] with a word on what to do.
pub(super) fn check_ids(answer: &Value) -> Result<(), DriverError> {
    let choice = &answer["choices"][0];
    let all = |list: &Value, has: &dyn Fn(&Value) -> bool| {
        list.as_array().is_some_and(|items| !items.is_empty() && items.iter().all(has))
    };
    let logprobs = &choice["logprobs"];
    let named = |token: &Value| token.as_str().is_some_and(|text| text.starts_with("token_id:"));
    let given = choice["token_ids"].is_array()
        || all(&logprobs["tokens"], &named)
        || all(&logprobs["content"], &|entry| entry["id"].is_u64() || entry["token_id"].is_u64());
    if given { Ok(()) } else { Err(DriverError::MissingTokenIds(no_ids(answer))) }
}

fn no_ids(answer: &Value) -> String {
    let fields: Vec<&str> =
        answer["choices"][0].as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
    format!(
        "the server returns no token ids (its choice has {}): it ignores `return_token_ids` and `return_tokens_as_token_ids`; text \
         is never tokenised again. Use an engine that returns ids: vLLM, SGLang, TensorRT-LLM, or llama.cpp's own server in \
         place of llama-cpp-python's",
        if fields.is_empty() { "nothing".to_owned() } else { fields.join(", ") }
    )
}

/// A refusal of ids as a prompt, with a word on what to do.
pub(super) fn no_id_prompts(error: &DriverError) -> DriverError {
    DriverError::MissingTokenIds(format!(
        "{error}. If the server takes no token ids as prompt, as llama-cpp-python's does not, it cannot be compared: text is never \
         tokenised again. Use llama.cpp's own server in its place, or another engine that takes and returns ids"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask() -> Ask {
        Ask { prompt: vec![1], max_tokens: 2, sampling: Sampling::default(), seed: 4 }
    }

    #[test]
    fn tensorrt_llm_gets_no_field_that_it_does_not_know() {
        const KNOWN: [&str; 14] = [
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
        let sampling = Sampling { presence_penalty: 0.5, frequency_penalty: 0.1, top_k: 5, ..Sampling::default() };
        let body = tensorrt_llm(&Ask { sampling, ..ask() }, "m");
        for name in body.as_object().unwrap().keys() {
            assert!(KNOWN.contains(&name.as_str()), "{name}");
        }
        assert_eq!((&body["detokenize"], &body["logprobs"]), (&json!(false), &json!(1)));
    }

    #[test]
    fn unknown_servers_get_only_what_is_needed() {
        let body = completions(&ask(), "m", false);
        for name in ["return_token_ids", "top_k", "min_p", "presence_penalty"] {
            assert!(body.get(name).is_none(), "{name}");
        }
        assert_eq!(completions(&ask(), "m", true)["return_token_ids"], json!(true));
        let sampling = Sampling { top_k: 5, ..Sampling::default() };
        assert_eq!(completions(&Ask { sampling, ..ask() }, "m", false)["top_k"], json!(5));
    }

    #[test]
    fn ids_are_known_in_every_form() {
        let with = |choice: Value| check_ids(&json!({"choices": [choice]}));
        assert_eq!(with(json!({"token_ids": [5]})), Ok(()));
        assert_eq!(with(json!({"logprobs": {"tokens": ["token_id:5"]}})), Ok(()));
        assert_eq!(with(json!({"logprobs": {"content": [{"id": 5, "logprob": -1.0}]}})), Ok(()));
        for bare in
            [json!({"text": "a", "logprobs": {"tokens": ["a"]}}), json!({"logprobs": {"tokens": []}}), json!({})]
        {
            assert!(matches!(with(bare.clone()), Err(DriverError::MissingTokenIds(_))), "{bare}");
        }
    }
}
