//! TGI's `/generate`.

use plumbline_core::ProcessingOrder;

use super::bodies::tgi;
use super::*;

#[test]
fn one_completion() {
    let read = read(&tgi());
    assert_eq!(read.engine, EngineKind::Tgi);
    let ExchangeRollout { rollout, places, .. } = &read.rollouts[0];
    assert_eq!((&rollout.prompt_token_ids[..], &rollout.completion_token_ids[..]), (&[1, 15][..], &[26, 28][..]));
    assert_eq!(rollout.logprobs, [Some(-0.5), Some(-1.25)]);
    assert_eq!((rollout.finish_reason.as_deref(), rollout.logprobs_mode), (Some("length"), LogprobsMode::Processed));
    let order = Some(ProcessingOrder::Tgi);
    assert_eq!(
        rollout.sampling,
        Sampling { temperature: 0.7, top_k: 5, repetition_penalty: 1.2, order, ..Sampling::default() }
    );
    assert_eq!(places.locate("/prompt_token_ids/0"), "/response/details/prefill/0/id");
    assert_eq!(places.locate("/logprobs/1"), "/response/details/tokens/1/logprob");
    let mut listed = tgi();
    listed.response = json!([listed.response]);
    assert_eq!(only(&listed).rollout, *rollout);
    listed.response = json!([listed.response[0], listed.response[0]]);
    assert_eq!(codes(&listed), one("unsupported_exchange", "/response"));
}

#[test]
fn it_is_greedy_unless_asked_otherwise() {
    let greedy = |parameters: Value| {
        let exchange = Exchange { request: json!({"inputs": "", "parameters": parameters}), ..tgi() };
        only(&exchange).rollout.sampling.is_greedy()
    };
    assert!(greedy(json!({})) && greedy(json!({"do_sample": false, "repetition_penalty": 1.2, "temperature": 1.0})));
    assert!(
        !greedy(json!({"do_sample": true})) && !greedy(json!({"temperature": 0.7})) && !greedy(json!({"top_k": 5}))
    );
}

#[test]
fn the_others_of_the_best_are_rollouts_too() {
    let mut exchange = tgi();
    let other = without(&exchange.response["details"], "/prefill");
    let other = with(&other, "/tokens/0/id", json!(27));
    exchange.response = with(&exchange.response, "/details/best_of_sequences", json!([other]));
    let seen: Vec<_> =
        read(&exchange).rollouts.into_iter().map(|own| (own.rollout.id, own.rollout.completion_token_ids[0])).collect();
    assert_eq!(seen, [("x-0".to_owned(), 26), ("x-1".to_owned(), 27)]);
}

#[test]
fn what_is_missing_is_named_with_its_flag() {
    let plain = tgi();
    let text = Exchange { response: without(&plain.response, "/details"), ..plain.clone() };
    assert_eq!(codes(&text), one("missing_token_ids", "/response/details"));
    for prefill in [json!([]), json!(null)] {
        let bare = Exchange { response: with(&plain.response, "/details/prefill", prefill), ..plain.clone() };
        assert_eq!(codes(&bare), one("missing_token_ids", "/response/details/prefill"));
        assert!(errors(&bare)[0].detail.contains("decoder_input_details"));
    }
    let counted = Exchange { response: with(&plain.response, "/details/generated_tokens", json!(3)), ..plain.clone() };
    assert_eq!(codes(&counted), one("contradictory_exchange", "/response/details/generated_tokens"));
    let typical = Exchange { request: with(&plain.request, "/parameters/typical_p", json!(0.9)), ..plain.clone() };
    assert_eq!(codes(&typical), one("irreproducible_logprobs_mode", "/request/parameters/typical_p"));
    let chat = of(EngineKind::Tgi, json!({}), json!({"choices": []}));
    assert_eq!(codes(&chat), one("missing_token_ids", "/response"));
}
