//! llama.cpp's `/completion`.

use super::bodies::llama_cpp;
use super::*;

#[test]
fn one_completion_with_the_settings_that_the_engine_used() {
    let read = read(&llama_cpp());
    assert_eq!(read.engine, EngineKind::LlamaCpp);
    let ExchangeRollout { rollout, cached_tokens, places, .. } = &read.rollouts[0];
    assert_eq!((&rollout.prompt_token_ids[..], &rollout.completion_token_ids[..]), (&[1, 15][..], &[26, 28][..]));
    assert_eq!(rollout.logprobs, [Some(-0.5), Some(-1.25)]);
    assert_eq!((rollout.finish_reason.as_deref(), *cached_tokens), (Some("limit"), Some(1)));
    assert_eq!(rollout.logprobs_mode, LogprobsMode::Raw);
    let used = Sampling { temperature: 0.5, top_k: 10, top_p: 0.9, repetition_penalty: 1.1, ..Sampling::default() };
    assert_eq!(rollout.sampling, used);
    assert_eq!(places.locate("/sampling/top_p"), "/response/generation_settings");
    assert_eq!(places.locate("/completion_token_ids/1"), "/response/completion_probabilities/1/id");
}

#[test]
fn without_settings_the_servers_defaults_are_not_neutral() {
    let mut exchange = llama_cpp();
    exchange.response = without(&exchange.response, "/generation_settings");
    let default = Sampling { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, ..Sampling::default() };
    assert_eq!(only(&exchange).rollout.sampling, default);
    exchange.request = with(&exchange.request, "/temperature", json!(-1));
    assert!(only(&exchange).rollout.sampling.is_greedy());
}

#[test]
fn the_tail_of_a_stop_word_has_no_logprobs() {
    let mut exchange = llama_cpp();
    exchange.response = with(&exchange.response, "/tokens", json!([26, 28, 3, 4]));
    exchange.response = with(&exchange.response, "/tokens_predicted", json!(4));
    let rollout = only(&exchange).rollout;
    assert_eq!(rollout.completion_token_ids, [26, 28, 3, 4]);
    assert_eq!(rollout.logprobs, [Some(-0.5), Some(-1.25), None, None]);
    // Without tokens it cannot be told which ones are missing.
    exchange.response = without(&exchange.response, "/tokens");
    assert_eq!(codes(&exchange), one("missing_token_ids", "/response/tokens"));
    exchange.response = with(&exchange.response, "/tokens_predicted", json!(2));
    assert_eq!(only(&exchange).rollout.completion_token_ids, [26, 28]);
}

#[test]
fn tokens_that_end_within_a_character_have_no_logprobs() {
    let mut exchange = llama_cpp();
    exchange.response = with(&exchange.response, "/tokens", json!([26, 240, 28]));
    let rollout = only(&exchange).rollout;
    assert_eq!(rollout.completion_token_ids, [26, 240, 28]);
    assert_eq!(rollout.logprobs, [Some(-0.5), None, Some(-1.25)]);
    exchange.response = with(&exchange.response, "/tokens", json!([26, 240]));
    assert_eq!(codes(&exchange), one("contradictory_exchange", "/response/tokens"));
}

#[test]
fn what_is_not_a_logprob_of_the_model_is_refused() {
    let plain = llama_cpp();
    let asked = Exchange { request: with(&plain.request, "/post_sampling_probs", json!(true)), ..plain.clone() };
    assert_eq!(codes(&asked), one("unsupported_exchange", "/request/post_sampling_probs"));
    let done = Exchange {
        response: with(&plain.response, "/generation_settings/post_sampling_probs", json!(true)),
        ..plain.clone()
    };
    assert_eq!(codes(&done), one("unsupported_exchange", "/response/generation_settings/post_sampling_probs"));
    let probs = json!([{"id": 26, "token": "a", "prob": 0.5, "top_probs": []}]);
    let seen = Exchange { response: with(&plain.response, "/completion_probabilities", probs), ..plain.clone() };
    assert_eq!(codes(&seen), one("unsupported_exchange", "/response/completion_probabilities"));
    let shifted = Exchange { response: with(&plain.response, "/truncated", json!(true)), ..plain.clone() };
    assert_eq!(codes(&shifted), one("unsupported_exchange", "/response/truncated"));
    let processed = Exchange { logprobs_mode: Some(LogprobsMode::Processed), ..plain.clone() };
    assert_eq!(codes(&processed), one("irreproducible_logprobs_mode", "/logprobs_mode"));
    let none = Exchange { response: without(&plain.response, "/completion_probabilities"), ..plain };
    assert_eq!(codes(&none), one("missing_logprobs", "/response/completion_probabilities"));
}

#[test]
fn the_prompt_must_have_been_sent_as_ids() {
    for prompt in [json!("Hello"), json!(["Hello"]), json!({"prompt_string": "x", "multimodal_data": []})] {
        let exchange = Exchange { request: with(&llama_cpp().request, "/prompt", prompt), ..llama_cpp() };
        assert_eq!(codes(&exchange), one("missing_token_ids", "/response/prompt"));
    }
    let mixed = Exchange { request: with(&llama_cpp().request, "/prompt", json!(["Hello", 5])), ..llama_cpp() };
    assert_eq!(codes(&mixed), one("missing_token_ids", "/request/prompt"));
    let counted = Exchange { response: with(&llama_cpp().response, "/tokens_evaluated", json!(3)), ..llama_cpp() };
    assert_eq!(codes(&counted), one("contradictory_exchange", "/response/tokens_evaluated"));
    // Several prompts: an array of results, each with the index of its prompt.
    let first = llama_cpp().response;
    let second = with(&first, "/index", json!(1));
    let batch = Exchange {
        request: with(&llama_cpp().request, "/prompt", json!([[1, 2], [3, 4]])),
        response: json!([second, first]),
        ..llama_cpp()
    };
    let seen: Vec<_> =
        read(&batch).rollouts.into_iter().map(|own| (own.prompt, own.rollout.prompt_token_ids)).collect();
    assert_eq!(seen, [(1, vec![3, 4]), (0, vec![1, 2])]);
}
