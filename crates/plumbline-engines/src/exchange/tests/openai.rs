//! vLLM, TensorRT-LLM, and the OpenAI routes of SGLang and llama.cpp.

use plumbline_core::{ProcessingOrder, VersionSpan};

use super::bodies::{tensorrt_llm, vllm_chat, vllm_completion, vllm_generate};
use super::*;

#[test]
fn a_completion_of_vllm() {
    let read = read(&vllm_completion());
    assert_eq!(read.engine, EngineKind::Vllm);
    let ExchangeRollout { rollout, prompt, cached_tokens, .. } = &read.rollouts[0];
    assert_eq!((rollout.id.as_str(), *prompt, *cached_tokens), ("x-0", 0, Some(1)));
    assert_eq!((&rollout.prompt_token_ids[..], &rollout.completion_token_ids[..]), (&[1, 15][..], &[26, 28][..]));
    assert_eq!(rollout.logprobs, [Some(-0.5), Some(-1.25)]);
    assert_eq!(rollout.finish_reason.as_deref(), Some("length"));
    assert_eq!((rollout.policy_version.as_deref(), &rollout.weight_versions[..]), (Some("42"), &[][..]));
    assert_eq!(rollout.logprobs_mode, LogprobsMode::Raw);
    let order = Some(ProcessingOrder::Vllm);
    assert_eq!(rollout.sampling, Sampling { temperature: 0.7, top_p: 0.9, order, ..Sampling::default() });
    assert_eq!(rollout.loss_mask, None);
}

#[test]
fn tokens_written_as_ids_are_ids_and_must_agree_with_others() {
    let plain = vllm_completion();
    let response = with(&plain.response, "/choices/0/logprobs/tokens", json!(["token_id:26", "token_id:28"]));
    let written = without(&response, "/choices/0/token_ids");
    assert_eq!(only(&exchange(plain.request.clone(), written)).rollout, only(&plain).rollout);
    let other = with(&response, "/choices/0/token_ids", json!([26, 29]));
    assert_eq!(
        codes(&exchange(plain.request.clone(), other)),
        one("contradictory_exchange", "/response/choices/0/token_ids")
    );
    for impossible in ["token_id:", "token_id:-1", "token_id:+7", "token_id:99999999999"] {
        let bad = with(&response, "/choices/0/logprobs/tokens/1", json!(impossible));
        let bad = exchange(plain.request.clone(), without(&bad, "/choices/0/token_ids"));
        assert_eq!(codes(&bad), one("missing_token_ids", "/response/choices/0/token_ids"), "{impossible}");
    }
}

#[test]
fn a_chat_has_its_prompt_beside_the_choices() {
    let mut chat = vllm_chat();
    let rollout = only(&chat).rollout;
    assert_eq!((&rollout.prompt_token_ids[..], &rollout.completion_token_ids[..]), (&[1, 99][..], &[26][..]));
    assert_eq!((rollout.logprobs, rollout.sampling.temperature), (vec![Some(-0.5)], 1.0));
    chat.response = without(&chat.response, "/prompt_token_ids");
    assert_eq!(codes(&chat), one("missing_token_ids", "/response/choices/0/prompt_token_ids"));
    assert!(errors(&chat)[0].detail.contains("return_token_ids"));
}

#[test]
fn generate_has_ids_in_new_and_old_form() {
    let new = vllm_generate();
    let rollout = only(&new).rollout;
    assert_eq!((&rollout.prompt_token_ids[..], &rollout.completion_token_ids[..]), (&[1, 15][..], &[26, 28][..]));
    assert_eq!(rollout.sampling.temperature, 0.5);
    let span = |version: &str, start, end| VersionSpan { version: version.into(), start, end };
    assert_eq!(rollout.policy_version, None);
    assert_eq!(rollout.weight_versions, [span("41", 0, 1), span("42", 1, 2)]);
    let entries = json!([{"token": "token_id:26", "logprob": -0.5}, {"token": "token_id:28", "logprob": -1.25}]);
    let old = with(&new.response, "/choices/0/logprobs/content", entries);
    assert_eq!(only(&exchange(new.request.clone(), old.clone())).rollout, rollout);
    let old = with(&old, "/choices/0/logprobs/content/1/token", json!("token_id:29"));
    assert_eq!(
        codes(&exchange(new.request.clone(), old)),
        one("contradictory_exchange", "/response/choices/0/token_ids")
    );
    let unasked = exchange(json!(null), new.response.clone());
    assert_eq!(codes(&unasked), one("missing_token_ids", "/response/choices/0/prompt_token_ids"));
    let returned = with(&new.response, "/prompt_token_ids", json!([3]));
    assert_eq!(only(&exchange(json!(null), returned)).rollout.prompt_token_ids, [3]);
}

#[test]
fn versions_that_nobody_named_are_none_and_the_callers_word_counts_most() {
    let version = |exchange: &Exchange| {
        let rollout = only(exchange).rollout;
        (rollout.policy_version, rollout.weight_versions.len())
    };
    let mut exchange = vllm_completion();
    exchange.response =
        with(&exchange.response, "/choices/0/weight_versions", json!([{"version": "default", "start": 0, "end": 2}]));
    assert_eq!(version(&exchange), (None, 0));
    exchange.response =
        with(&exchange.response, "/choices/0/weight_versions", json!([{"version": 7, "start": 0, "end": 2}]));
    assert_eq!(version(&exchange), (Some("7".into()), 0));
    let mut spans = vllm_generate();
    assert_eq!(version(&spans), (None, 2));
    spans.policy_version = Some("43".into());
    assert_eq!(version(&spans), (Some("43".into()), 0));
}

#[test]
fn several_choices_of_several_prompts() {
    let choice = |index: usize, prompt: u32| {
        json!({"index": index, "text": "", "finish_reason": "stop", "prompt_token_ids": [prompt], "token_ids": [index + 10],
               "prompt_logprobs": null, "logprobs": {"tokens": ["a"], "token_logprobs": [-1.0]}})
    };
    // As they came, out of order.
    let response = json!({"choices": [choice(3, 2), choice(0, 1), choice(1, 1), choice(2, 2)],
        "usage": {"prompt_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}});
    let batch = exchange(json!({"prompt": [[1], [2]], "n": 2}), response.clone());
    let rollouts = read(&batch).rollouts;
    let seen: Vec<_> = rollouts
        .iter()
        .map(|own| {
            (own.rollout.id.as_str(), own.prompt, own.rollout.prompt_token_ids[0], own.rollout.completion_token_ids[0])
        })
        .collect();
    assert_eq!(seen, [("x-0", 0, 1, 10), ("x-1", 0, 1, 11), ("x-2", 1, 2, 12), ("x-3", 1, 2, 13)]);
    assert!(rollouts.iter().all(|own| own.cached_tokens.is_none()), "told for all prompts together");
    // Ids of the prompts from the request alone.
    let mut bare = response.clone();
    for choice in bare["choices"].as_array_mut().unwrap() {
        choice.as_object_mut().unwrap().remove("prompt_token_ids");
    }
    let prompts: Vec<_> = read(&exchange(json!({"prompt": [[1], [2]], "n": 2}), bare.clone()))
        .rollouts
        .into_iter()
        .map(|own| own.rollout.prompt_token_ids)
        .collect();
    assert_eq!(prompts, [[1], [1], [2], [2]]);
    let texts = exchange(json!({"prompt": ["a", "b"], "n": 2}), bare.clone());
    assert_eq!(codes(&texts), one("missing_token_ids", "/response/choices/1/prompt_token_ids"));
    let too_many = exchange(json!({"prompt": [[1]], "n": 2}), bare.clone());
    assert_eq!(codes(&too_many), one("contradictory_exchange", "/response/choices/0/index"));
    let twice = with(&bare, "/choices/0/index", json!(0));
    assert_eq!(
        codes(&exchange(json!({"prompt": [[1], [2]], "n": 2}), twice)),
        one("contradictory_exchange", "/response/choices/1/index")
    );
    assert_eq!(codes(&exchange(json!({"prompt": [[1], [2]], "n": 0}), bare)), one("invalid_value", "/request/n"));
}

#[test]
fn an_echo_is_cut_off() {
    let plain = vllm_completion();
    let request = with(&plain.request, "/echo", json!(true));
    let response = with(
        &plain.response,
        "/choices/0/logprobs",
        json!({"tokens": ["<s>", "x", " a", " b"],
        "token_logprobs": [null, -3.0, -0.5, -1.25]}),
    );
    let echo = exchange(request.clone(), response.clone());
    let own = only(&echo);
    assert_eq!(own.rollout, only(&plain).rollout);
    assert_eq!(own.places.locate("/logprobs/1"), "/response/choices/0/logprobs/token_logprobs/3");
    // Written as ids, without any other ids: the prompt is the part that the engine counted.
    let ids = json!(["token_id:1", "token_id:15", "token_id:26", "token_id:28"]);
    let written = with(&response, "/choices/0/logprobs/tokens", ids);
    let bare = without(&without(&written, "/choices/0/token_ids"), "/choices/0/prompt_token_ids");
    let text = with(&request, "/prompt", json!("x"));
    assert_eq!(only(&exchange(text.clone(), bare.clone())).rollout, only(&plain).rollout);
    assert_eq!(only(&exchange(request.clone(), bare.clone())).rollout, only(&plain).rollout);
    let uncounted = exchange(text, without(&bare, "/usage"));
    assert_eq!(codes(&uncounted), one("missing_token_ids", "/response/choices/0/logprobs/token_logprobs"));
    let other = exchange(request, with(&bare, "/choices/0/logprobs/tokens/0", json!("token_id:2")));
    assert_eq!(codes(&other), one("contradictory_exchange", "/response/choices/0/logprobs/token_logprobs"));
    // An echo of the prompt alone has no sampled token's logprob.
    let alone = with(&response, "/choices/0/logprobs/token_logprobs", json!([null, -3.0, -0.5]));
    assert_eq!(
        codes(&exchange(json!({"prompt": [1, 15]}), alone)),
        one("contradictory_exchange", "/response/choices/0/logprobs/token_logprobs")
    );
}

#[test]
fn values_that_stand_for_none_are_kept() {
    let plain = vllm_completion();
    let values = json!([null, -9999.0]);
    let odd = exchange(plain.request.clone(), with(&plain.response, "/choices/0/logprobs/token_logprobs", values));
    assert_eq!(only(&odd).rollout.logprobs, [None, Some(-9999.0)]);
    let values = json!([f64::from(f32::MIN), "NaN"]);
    let odd = exchange(plain.request.clone(), with(&plain.response, "/choices/0/logprobs/token_logprobs", values));
    let logprobs = only(&odd).rollout.logprobs;
    assert!(logprobs[0] == Some(f64::from(f32::MIN)) && logprobs[1].unwrap().is_nan());
    let chat = vllm_chat();
    let null =
        exchange(chat.request.clone(), with(&chat.response, "/choices/0/logprobs/content/0/logprob", json!(null)));
    assert_eq!(only(&null).rollout.logprobs, [None]);
}

#[test]
fn prompt_logprobs_are_left_alone() {
    let plain = vllm_completion();
    let values =
        json!([null, {"15": {"logprob": -2.0, "rank": 9, "decoded_token": "x"}, "3": {"logprob": -0.1, "rank": 1}}]);
    let scored = exchange(plain.request.clone(), with(&plain.response, "/choices/0/prompt_logprobs", values));
    assert_eq!(only(&scored).rollout, only(&plain).rollout);
}

#[test]
fn the_requests_prompt_is_checked_against_the_count() {
    let mut cut = vllm_completion();
    cut.response = with(&without(&cut.response, "/choices/0/prompt_token_ids"), "/usage/prompt_tokens", json!(1));
    assert_eq!(codes(&cut), one("contradictory_exchange", "/response/usage/prompt_tokens"));
    cut.response = with(&cut.response, "/usage/prompt_tokens", json!(2));
    assert_eq!(only(&cut).rollout.prompt_token_ids, [1, 15]);
    assert_eq!(only(&cut).places.locate("/prompt_token_ids/1"), "/request/prompt/1");
}

#[test]
fn tensorrt_llm_gives_ids_when_it_does_not_detokenise() {
    let exchange = tensorrt_llm();
    let rollout = only(&exchange).rollout;
    assert_eq!((&rollout.prompt_token_ids[..], &rollout.completion_token_ids[..]), (&[1, 15][..], &[26, 28][..]));
    assert_eq!(rollout.logprobs, [Some(-0.5), Some(-9999.0)]);
    assert_eq!((rollout.logprobs_mode, rollout.sampling.order), (LogprobsMode::Raw, None));
    let text = Exchange { response: without(&exchange.response, "/choices/0/token_ids"), ..exchange.clone() };
    assert_eq!(codes(&text), one("missing_token_ids", "/response/choices/0/token_ids"));
    assert!(errors(&text)[0].detail.contains("detokenize false"));
    let unnamed = Exchange { engine: None, ..exchange.clone() };
    assert_eq!(read(&unnamed).engine, EngineKind::TensorRtLlm, "by its marks");
    let lists = with(&exchange.response, "/prompt_token_ids", json!([[5, 6]]));
    assert_eq!(only(&Exchange { response: lists, ..exchange.clone() }).rollout.prompt_token_ids, [5, 6]);
    let flat = with(&exchange.response, "/prompt_token_ids", json!([7]));
    assert_eq!(only(&Exchange { response: flat, ..exchange }).rollout.prompt_token_ids, [7]);
}

fn sglang_chat() -> Exchange {
    exchange(
        json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "logprobs": true, "return_meta_info": true,
               "return_prompt_token_ids": true, "temperature": 0.7}),
        json!({"object": "chat.completion", "choices": [{"index": 0, "message": {"role": "assistant", "content": "a"},
                "logprobs": {"content": [{"token": "a", "logprob": -0.5}]}, "finish_reason": "stop", "matched_stop": 2,
                "prompt_token_ids": [1, 2], "meta_info": {"output_token_logprobs": [[-0.5, 26, null]], "weight_version": "8"}}],
            "metadata": {"weight_version": "9"}}),
    )
}

#[test]
fn sglang_has_versions_beside_the_choices_and_ids_in_meta_info() {
    let mut chat = sglang_chat();
    let read = read(&chat);
    assert_eq!(read.engine, EngineKind::Sglang);
    let rollout = &read.rollouts[0].rollout;
    assert_eq!((&rollout.prompt_token_ids[..], &rollout.completion_token_ids[..]), (&[1, 2][..], &[26][..]));
    assert_eq!((rollout.policy_version.as_deref(), rollout.logprobs_mode), (Some("8"), LogprobsMode::Temperature));
    assert_eq!(
        read.rollouts[0].places.locate("/logprobs/0"),
        "/response/choices/0/meta_info/output_token_logprobs/0/0"
    );
    chat.response = without(&chat.response, "/choices/0/meta_info");
    assert_eq!(codes(&chat), one("missing_token_ids", "/response/choices/0/token_ids"));
    chat.response = with(&chat.response, "/choices/0/token_ids", json!([26]));
    assert_eq!(only(&chat).rollout.policy_version.as_deref(), Some("9"));
    let spans = json!([{"version": "9", "start": 0, "end": 1}, {"version": "10", "start": 1, "end": 2}]);
    chat.response = with(&chat.response, "/metadata/weight_versions", spans);
    assert_eq!(only(&chat).rollout.weight_versions.len(), 2);
    let mut second = chat.response["choices"][0].clone();
    second["index"] = json!(1);
    chat.response["choices"].as_array_mut().unwrap().push(second);
    chat.request = with(&chat.request, "/n", json!(2));
    assert_eq!(codes(&chat), one("unsupported_exchange", "/response/metadata/weight_versions"));
}

#[test]
fn llama_cpp_has_ids_in_its_entries_and_leaves_none_out() {
    let mut chat = exchange(
        json!({"prompt": [1, 15], "logprobs": 1, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}),
        json!({"object": "text_completion", "system_fingerprint": "b6000-abcdef", "choices": [{"index": 0, "text": "ab",
                "finish_reason": "stop", "logprobs": {"content": [
                    {"id": 26, "token": "a", "logprob": -0.5}, {"id": 28, "token": "b", "logprob": -1.25}]}}],
            "usage": {"prompt_tokens": 2, "completion_tokens": 2}}),
    );
    let read = read(&chat);
    assert_eq!(read.engine, EngineKind::LlamaCpp);
    assert_eq!(read.rollouts[0].rollout.completion_token_ids, [26, 28]);
    assert!(read.rollouts[0].rollout.sampling.is_neutral());
    assert_eq!(read.rollouts[0].places.locate("/completion_token_ids/1"), "/response/choices/0/logprobs/content/1/id");
    chat.response = with(&chat.response, "/usage/completion_tokens", json!(3));
    assert_eq!(codes(&chat), one("missing_token_ids", "/response/usage/completion_tokens"));
    assert!(errors(&chat)[0].detail.contains("return_tokens true"));
    chat.response = without(&chat.response, "/usage");
    assert_eq!(codes(&chat), one("missing_token_ids", "/response/usage"));
}
