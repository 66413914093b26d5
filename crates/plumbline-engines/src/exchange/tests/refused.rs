//! What no engine's adapter takes: bodies of no completion, the wrong engine, what cannot be reproduced.

use super::bodies::{all, sglang, vllm_chat, vllm_completion};
use super::*;

#[test]
fn an_engines_error_is_no_completion() {
    let of = |response: Value| codes(&exchange(json!({}), response));
    assert_eq!(of(json!({"error": {"message": "no", "code": 400}})), one("engine_failed", "/response/error"));
    assert_eq!(
        of(json!({"error": "Model is overloaded", "error_type": "overloaded"})),
        one("engine_failed", "/response/error")
    );
    assert_eq!(of(json!({"detail": "Not Found"})), one("engine_failed", "/response/detail"));
    assert_eq!(of(json!({"object": "error", "message": "no"})), one("engine_failed", "/response/message"));
    for other in [json!({}), json!([]), json!([[]]), json!(7), json!(null), json!({"text": "only text"})] {
        assert_eq!(of(other), one("unknown_engine", "/response"));
    }
    assert_eq!(codes(&exchange(json!([]), json!({"choices": []}))), one("invalid_type", "/request"));
    assert_eq!(
        codes(&super::of(EngineKind::Vllm, json!({}), json!({"choices": []}))),
        one("invalid_value", "/response")
    );
}

#[test]
fn engines_are_told_by_shape_and_must_be_the_one_named() {
    let expected = [
        EngineKind::Vllm,
        EngineKind::Vllm,
        EngineKind::Vllm,
        EngineKind::Sglang,
        EngineKind::LlamaCpp,
        EngineKind::Tgi,
        EngineKind::TensorRtLlm,
    ];
    for (exchange, expected) in all().into_iter().zip(expected) {
        for named in EngineKind::ALL {
            let exchange = Exchange { engine: Some(named), ..exchange.clone() };
            match named == expected {
                true => assert_eq!(read(&exchange).engine, expected),
                false => {
                    let code = errors(&exchange)[0].code.as_str();
                    assert!(["engine_mismatch", "missing_token_ids"].contains(&code), "{named} for {expected}: {code}");
                }
            }
        }
    }
    // Nothing in it that only one engine writes.
    let mut bare = vllm_completion();
    bare.response = without(&without(&bare.response, "/system_fingerprint"), "/choices/0/prompt_logprobs");
    assert_eq!(codes(&bare), one("unknown_engine", "/response"));
    bare.engine = Some(EngineKind::Vllm);
    assert_eq!(only(&bare).rollout, only(&vllm_completion()).rollout);
}

#[test]
fn both_of_ids_and_logprobs_are_named_where_both_are_missing() {
    let mut text = vllm_completion();
    text.response = json!({"system_fingerprint": "vllm-1", "choices": [{"index": 0, "text": "a", "logprobs": null}]});
    text.request = json!({"prompt": "Hello"});
    let places = ["token_ids", "logprobs", "prompt_token_ids"].map(|field| format!("/response/choices/0/{field}"));
    let mut seen = errors(&text);
    seen.sort_by_key(|error| places.iter().position(|place| *place == error.pointer));
    assert_eq!(seen.iter().map(|error| error.pointer.as_str()).collect::<Vec<_>>(), places);
    for (error, flag) in seen.iter().zip(["return_token_ids", "logprobs 0", "return_token_ids"]) {
        assert!(error.detail.contains(flag), "{}", error.detail);
    }
}

#[test]
fn only_processed_numbers_depend_on_how_a_token_was_drawn() {
    for (name, value) in [
        ("logit_bias", json!({"5": 1.0})),
        ("min_tokens", json!(4)),
        ("structured_outputs", json!({"regex": "a"})),
        ("response_format", json!({"type": "json_object"})),
        ("tool_choice", json!("required")),
        ("use_beam_search", json!(true)),
        ("allowed_token_ids", json!([5])),
    ] {
        let mut exchange = vllm_completion();
        exchange.request = with(&exchange.request, &format!("/{name}"), value);
        assert_eq!(only(&exchange).rollout, only(&vllm_completion()).rollout);
        exchange.logprobs_mode = Some(LogprobsMode::Processed);
        assert_eq!(codes(&exchange), one("irreproducible_logprobs_mode", &format!("/request/{name}")));
    }
    let mut harmless = vllm_completion();
    harmless.logprobs_mode = Some(LogprobsMode::Processed);
    for (name, value) in [
        ("logit_bias", json!({})),
        ("min_tokens", json!(0)),
        ("response_format", json!({"type": "text"})),
        ("tool_choice", json!("auto")),
        ("use_beam_search", json!(false)),
        ("best_of", json!(4)),
    ] {
        harmless.request = with(&harmless.request, &format!("/{name}"), value);
    }
    assert_eq!(only(&harmless).rollout.logprobs_mode, LogprobsMode::Processed);
}

#[test]
fn inputs_that_are_no_tokens_are_refused() {
    let image = json!([{"type": "text", "text": "what"}, {"type": "image_url", "image_url": {"url": "x"}}]);
    let mut chat = vllm_chat();
    chat.request = with(&chat.request, "/messages/0/content", image);
    assert_eq!(codes(&chat), one("unsupported_exchange", "/request/messages/0/content/1"));
    chat.request = with(&chat.request, "/messages/0/content", json!([{"type": "text", "text": "what"}]));
    assert_eq!(only(&chat).rollout, only(&vllm_chat()).rollout);
    chat.response = with(&chat.response, "/mm_placeholders", json!({"image": []}));
    assert_eq!(codes(&chat), one("unsupported_exchange", "/response/mm_placeholders"));
    let mut images = sglang();
    images.request = with(&images.request, "/image_data", json!("x.png"));
    assert_eq!(codes(&images), one("unsupported_exchange", "/request/image_data"));
    images.request = with(&images.request, "/image_data", json!([]));
    assert_eq!(only(&images).rollout, only(&sglang()).rollout);
}

#[test]
fn parameters_and_ids_must_have_their_type() {
    let mut exchange = vllm_completion();
    exchange.request = with(&exchange.request, "/temperature", json!("hot"));
    assert_eq!(codes(&exchange), one("invalid_type", "/request/temperature"));
    exchange.request = with(&exchange.request, "/temperature", json!(null));
    exchange.request = with(&exchange.request, "/top_k", json!(20.0));
    let sampling = only(&exchange).rollout.sampling;
    assert_eq!((sampling.temperature, sampling.top_k), (1.0, 20));
    exchange.response = with(&exchange.response, "/choices/0/token_ids/1", json!(5_000_000_000u64));
    assert_eq!(codes(&exchange), one("token_out_of_vocabulary", "/response/choices/0/token_ids/1"));
    exchange.response = with(&exchange.response, "/choices/0/token_ids/1", json!(1.5));
    assert_eq!(codes(&exchange), one("invalid_type", "/response/choices/0/token_ids/1"));
    exchange.response = with(&exchange.response, "/choices/0/token_ids", json!([26]));
    assert_eq!(codes(&exchange), one("contradictory_exchange", "/response/choices/0/logprobs/token_logprobs"));
}

#[test]
fn what_the_caller_states_stands_above_the_body() {
    let mut exchange = vllm_completion();
    exchange.sampling = Some(Sampling { top_k: 5, ..Sampling::default() });
    exchange.logprobs_mode = Some(LogprobsMode::Temperature);
    let own = only(&exchange);
    assert_eq!((own.rollout.sampling.temperature, own.rollout.sampling.top_k), (1.0, 5));
    assert_eq!(own.rollout.sampling.order, Some(plumbline_core::ProcessingOrder::Vllm));
    assert_eq!(own.rollout.logprobs_mode, LogprobsMode::Temperature);
    assert_eq!(own.places.locate("/sampling/top_k"), "/sampling/top_k");
}

#[test]
fn numbers_that_depend_on_parameters_need_the_request() {
    let unasked = |exchange: Exchange| Exchange { request: json!(null), ..exchange };
    let mut sampled = unasked(sglang());
    sampled.response = with(&sampled.response, "/prompt_token_ids", json!([1, 15]));
    assert_eq!(codes(&sampled), one("missing_field", "/request"));
    sampled.sampling = Some(Sampling { temperature: 0.6, ..Sampling::default() });
    assert_eq!(only(&sampled).rollout.sampling.temperature, 0.6);
    let mut completion = unasked(vllm_completion());
    assert_eq!(only(&completion).rollout.logprobs_mode, LogprobsMode::Raw);
    completion.logprobs_mode = Some(LogprobsMode::Processed);
    assert_eq!(codes(&completion), one("missing_field", "/request"));
}
