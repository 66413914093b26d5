//! SGLang's `/generate`.

use plumbline_core::{ProcessingOrder, VersionSpan};

use super::bodies::{sglang, sglang_completion};
use super::*;

#[test]
fn one_completion() {
    let read = read(&sglang());
    assert_eq!(read.engine, EngineKind::Sglang);
    let ExchangeRollout { rollout, cached_tokens, places, .. } = &read.rollouts[0];
    assert_eq!((&rollout.prompt_token_ids[..], &rollout.completion_token_ids[..]), (&[1, 15][..], &[26, 28][..]));
    assert_eq!(rollout.logprobs, [Some(-3.25), Some(-3.5)]);
    assert_eq!((rollout.finish_reason.as_deref(), rollout.policy_version.as_deref()), (Some("length"), Some("42")));
    assert_eq!((rollout.logprobs_mode, *cached_tokens), (LogprobsMode::Temperature, Some(1)));
    let order = Some(ProcessingOrder::Sglang);
    assert_eq!(rollout.sampling, Sampling { temperature: 0.6, top_k: 20, min_p: 0.1, order, ..Sampling::default() });
    assert_eq!(places.locate("/logprobs/1"), "/response/meta_info/output_token_logprobs/1/0");
    assert_eq!(places.locate("/sampling/top_p"), "/request/sampling_params");
}

#[test]
fn tuples_of_two_and_of_three() {
    let mut exchange = sglang();
    exchange.response =
        with(&exchange.response, "/meta_info/output_token_logprobs", json!([[-3.25, 26], [-3.5, 28, " b"]]));
    assert_eq!(only(&exchange).rollout, only(&sglang()).rollout);
    exchange.response = with(&exchange.response, "/meta_info/output_token_logprobs/0", json!([-3.25]));
    assert_eq!(codes(&exchange), one("invalid_type", "/response/meta_info/output_token_logprobs/0"));
    exchange.response = with(&exchange.response, "/meta_info/output_token_logprobs/0", json!([null, 26, null]));
    assert_eq!(only(&exchange).rollout.logprobs, [None, Some(-3.5)]);
    exchange.response = with(&exchange.response, "/meta_info/output_token_logprobs/0", json!([-3.25, "26", null]));
    assert_eq!(codes(&exchange), one("invalid_type", "/response/meta_info/output_token_logprobs/0/1"));
}

#[test]
fn ids_must_be_those_of_the_tuples() {
    let mut exchange = sglang();
    exchange.response = with(&exchange.response, "/output_ids", json!([26, 27]));
    assert_eq!(codes(&exchange), one("contradictory_exchange", "/response/output_ids"));
    exchange.response = with(&exchange.response, "/output_ids", json!([26, 28, 2]));
    let rollout = only(&exchange).rollout;
    assert_eq!(
        (&rollout.completion_token_ids[..], &rollout.logprobs[..]),
        (&[26, 28, 2][..], &[Some(-3.25), Some(-3.5), None][..])
    );
    exchange.response = without(&exchange.response, "/output_ids");
    assert_eq!(only(&exchange).rollout.completion_token_ids, [26, 28]);
}

#[test]
fn a_batch_with_parameters_of_its_own_for_each_prompt() {
    let response =
        json!([sglang_completion(&[26]), sglang_completion(&[27]), sglang_completion(&[28]), sglang_completion(&[29])]);
    let request = json!({"input_ids": [[1, 2], [3, 4]], "return_logprob": true,
        "sampling_params": [{"n": 2, "temperature": 0.5}, {"n": 2, "temperature": 0.6}]});
    let rollouts = read(&exchange(request.clone(), response.clone())).rollouts;
    let seen: Vec<_> = rollouts
        .iter()
        .map(|own| {
            let rollout = &own.rollout;
            (
                rollout.id.as_str(),
                own.prompt,
                rollout.prompt_token_ids[0],
                rollout.completion_token_ids[0],
                rollout.sampling.temperature,
            )
        })
        .collect();
    assert_eq!(seen, [("x-0", 0, 1, 26, 0.5), ("x-1", 0, 1, 27, 0.5), ("x-2", 1, 3, 28, 0.6), ("x-3", 1, 3, 29, 0.6)]);
    let uneven = with(&request, "/sampling_params/1/n", json!(1));
    assert_eq!(codes(&exchange(uneven, response.clone())), one("unsupported_exchange", "/request/sampling_params/1"));
    let fewer = json!({"input_ids": [1, 2], "sampling_params": {"n": 3}});
    assert_eq!(codes(&exchange(fewer, response.clone())), one("contradictory_exchange", "/response"));
    let of_one = json!({"input_ids": [1, 2], "sampling_params": {"n": 4}});
    assert!(read(&exchange(of_one, response)).rollouts.iter().all(|own| own.prompt == 0));
}

#[test]
fn the_prompts_ids_come_from_wherever_they_are_exact() {
    let text = json!({"text": "Hello", "return_logprob": true});
    let mut exchange = exchange(text, sglang().response);
    assert_eq!(codes(&exchange), one("missing_token_ids", "/response/prompt_token_ids"));
    let inputs = json!([[null, 1, null], [-2.0, 15, null]]);
    exchange.response = with(&exchange.response, "/meta_info/input_token_logprobs", inputs);
    assert_eq!(only(&exchange).rollout.prompt_token_ids, [1, 15]);
    assert_eq!(only(&exchange).places.locate("/prompt_token_ids/1"), "/response/meta_info/input_token_logprobs/1/1");
    exchange.response = with(&exchange.response, "/meta_info/prompt_tokens", json!(3));
    assert_eq!(codes(&exchange), one("missing_token_ids", "/response/prompt_token_ids"), "logprob_start_len was 1");
    exchange.response = with(&exchange.response, "/prompt_token_ids", json!([1, 14, 15]));
    assert_eq!(only(&exchange).rollout.prompt_token_ids, [1, 14, 15]);
    let mut counted = sglang();
    counted.response = with(&counted.response, "/meta_info/prompt_tokens", json!(3));
    assert_eq!(codes(&counted), one("contradictory_exchange", "/response/meta_info/prompt_tokens"));
}

#[test]
fn versions_may_change_within() {
    let mut exchange = sglang();
    let spans = json!([{"version": "41", "start": 0, "end": 1}, {"version": "42", "start": 1, "end": 2}]);
    exchange.response = with(&exchange.response, "/meta_info/weight_versions", spans);
    let rollout = only(&exchange).rollout;
    assert_eq!(rollout.weight_versions[1], VersionSpan { version: "42".into(), start: 1, end: 2 });
    assert_eq!(rollout.policy_version, None);
    exchange.response = without(&exchange.response, "/meta_info/weight_versions");
    assert_eq!(only(&exchange).rollout.policy_version.as_deref(), Some("42"));
    exchange.response = with(&exchange.response, "/meta_info/weight_version", json!("default"));
    assert_eq!(only(&exchange).rollout.policy_version, None);
}

#[test]
fn what_changes_sglangs_logits_is_in_every_number_of_its() {
    for (name, value) in [("logit_bias", json!({"5": -1})), ("min_new_tokens", json!(3)), ("regex", json!("a*"))] {
        let mut exchange = sglang();
        exchange.request = with(&exchange.request, &format!("/sampling_params/{name}"), value);
        let pointer = format!("/request/sampling_params/{name}");
        assert_eq!(codes(&exchange), one("irreproducible_logprobs_mode", &pointer));
        exchange.logprobs_mode = Some(LogprobsMode::Raw);
        assert_eq!(codes(&exchange), one("irreproducible_logprobs_mode", &pointer));
    }
    let mut greedy = sglang();
    greedy.request = with(&greedy.request, "/sampling_params/temperature", json!(1e-7));
    assert!(only(&greedy).rollout.sampling.is_greedy());
}

#[test]
fn logprobs_must_have_been_asked_for() {
    let mut exchange = sglang();
    exchange.response = without(&exchange.response, "/meta_info/output_token_logprobs");
    assert_eq!(codes(&exchange), one("missing_logprobs", "/response/meta_info/output_token_logprobs"));
    assert!(errors(&exchange)[0].detail.contains("return_logprob true"));
}
