//! Server-sent events.

use super::bodies::{llama_cpp, sglang, tgi, vllm_chat, vllm_completion};
use super::*;

fn events(events: &[Value]) -> Value {
    let lines: Vec<_> = events.iter().map(|event| format!("data: {event}\n\n")).collect();
    json!(format!("{}data: [DONE]\n\n", lines.concat()))
}

#[test]
fn chunks_of_several_choices_are_put_together() {
    let chunk = |index: usize, ids: Value, logprobs: Value, more: Value| {
        let mut choice = json!({"index": index, "text": "x", "finish_reason": null, "token_ids": ids,
            "logprobs": {"tokens": ["x"], "token_logprobs": logprobs, "text_offset": [0], "top_logprobs": [{}]}});
        choice.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"id": "cmpl-1", "object": "text_completion", "system_fingerprint": null, "choices": [choice]})
    };
    let stream = events(&[
        chunk(0, json!([26]), json!([-0.5]), json!({"prompt_token_ids": [1, 15]})),
        chunk(1, json!([30]), json!([-2.0]), json!({"prompt_token_ids": [1, 15], "finish_reason": "stop"})),
        chunk(
            0,
            json!([28]),
            json!([-1.25]),
            json!({"prompt_token_ids": null, "finish_reason": "length",
            "weight_versions": [{"version": "42", "start": 0, "end": 2}]}),
        ),
        json!({"id": "cmpl-1", "choices": [], "system_fingerprint": "vllm-1", "usage": {"prompt_tokens": 2}}),
    ]);
    let request = with(&vllm_completion().request, "/n", json!(2));
    let rollouts = read(&exchange(request.clone(), stream.clone())).rollouts;
    let mut first = only(&vllm_completion()).rollout;
    first.id = "x-0".into();
    assert_eq!(rollouts[0].rollout, first);
    assert_eq!(rollouts[1].rollout.completion_token_ids, [30]);
    assert_eq!(rollouts[1].rollout.finish_reason.as_deref(), Some("stop"));
    assert_eq!(rollouts[0].places.locate("/completion_token_ids/1"), "/response", "a place that exists");
    // Carriage returns, comments, names of events and a missing last line end change nothing.
    let text = stream.as_str().unwrap().replace('\n', "\r\n").replace("data: {", ": ping\r\nevent: x\r\ndata: {");
    let again = read(&exchange(request, json!(text.trim_end()))).rollouts;
    assert_eq!(again, rollouts);
}

#[test]
fn chunks_of_a_chat() {
    let plain = vllm_chat();
    let mut choice = plain.response["choices"][0].clone();
    choice["delta"] = json!({"content": "x"});
    choice.as_object_mut().unwrap().remove("message");
    let first = json!({"object": "chat.completion.chunk", "prompt_token_ids": [1, 99], "kv_transfer_params": null,
        "choices": [{"index": 0, "delta": {"role": "assistant"}, "logprobs": null, "finish_reason": null}]});
    let stream =
        events(&[first, json!({"object": "chat.completion.chunk", "prompt_token_ids": null, "choices": [choice]})]);
    let streamed = Exchange { engine: Some(EngineKind::Vllm), ..exchange(plain.request.clone(), stream) };
    assert_eq!(only(&streamed).rollout, only(&plain).rollout);
}

#[test]
fn a_chunk_without_logprobs_is_no_gap_that_is_closed() {
    let logprobs = json!({"tokens": ["x"], "token_logprobs": [-0.5]});
    let chunk = |logprobs: Value, id: u32| {
        json!({"kv_transfer_params": null, "choices": [{"index": 0, "text": "", "token_ids": [id],
        "prompt_token_ids": [1], "logprobs": logprobs}]})
    };
    let stream = events(&[chunk(logprobs.clone(), 5), chunk(json!(null), 6), chunk(logprobs, 7)]);
    let exchange = of(EngineKind::Vllm, json!({"prompt": [1, 1, 1]}), stream);
    assert_eq!(codes(&exchange), one("contradictory_exchange", "/response"));
    assert!(errors(&exchange)[0].detail.starts_with("/choices/0/logprobs/token_logprobs of the streamed response"));
}

#[test]
fn sglang_repeats_or_continues() {
    let plain = sglang();
    let full = plain.response.clone();
    let mut first = with(&full, "/output_ids", json!([26]));
    first = with(&first, "/meta_info/completion_tokens", json!(1));
    first = with(&first, "/meta_info/output_token_logprobs", json!([[-3.25, 26, null]]));
    let repeated = exchange(plain.request.clone(), events(&[first.clone(), full.clone()]));
    assert_eq!(only(&repeated).rollout, only(&plain).rollout);
    let mut rest = with(&full, "/output_ids", json!([28]));
    rest = with(&rest, "/meta_info/output_token_logprobs", json!([[-3.5, 28, null]]));
    let continued = exchange(plain.request.clone(), events(&[first.clone(), rest.clone()]));
    assert_eq!(only(&continued).rollout, only(&plain).rollout);
    let lost = exchange(
        plain.request.clone(),
        events(&[first.clone(), with(&rest, "/meta_info/completion_tokens", json!(3))]),
    );
    assert_eq!(codes(&lost), one("malformed_stream", "/response"));
    // Several at once are told apart by their index.
    let of_index = |event: &Value, index: usize| with(event, "/index", json!(index));
    let both = events(&[of_index(&first, 1), of_index(&first, 0), of_index(&full, 0), of_index(&full, 1)]);
    let request = with(&plain.request, "/sampling_params/n", json!(2));
    assert_eq!(read(&exchange(request, both)).rollouts.len(), 2);
}

#[test]
fn llama_cpp_continues_and_says_its_settings_at_last() {
    let plain = llama_cpp();
    let entries = plain.response["completion_probabilities"].as_array().unwrap();
    let part = |id: u32, entry: &Value| {
        json!({"index": 0, "content": "x", "tokens": [id], "stop": false, "tokens_predicted": 1,
               "completion_probabilities": [entry]})
    };
    let last = without(&with(&plain.response, "/tokens", json!([])), "/completion_probabilities");
    let stream = events(&[part(26, &entries[0]), part(28, &entries[1]), last]);
    let streamed = only(&exchange(plain.request.clone(), stream));
    assert_eq!(streamed.rollout, only(&plain).rollout);
    assert_eq!(streamed.places.locate("/sampling/top_p"), "/response");
}

#[test]
fn tgi_streams_no_prompt() {
    let plain = tgi();
    let token =
        json!({"index": 1, "token": {"id": 26, "text": "a", "logprob": -0.5, "special": false}, "details": null});
    let last = json!({"index": 2, "token": {"id": 28, "text": "b", "logprob": -1.25, "special": false}, "generated_text": "ab",
        "details": {"finish_reason": "length", "generated_tokens": 2}});
    let stream = json!(format!("data:{token}\n\ndata:{last}\n\n"));
    let streamed = exchange(plain.request.clone(), stream);
    assert_eq!(codes(&streamed), one("missing_token_ids", "/response"));
    assert!(errors(&streamed)[0].detail.contains("generate_stream"));
}

#[test]
fn broken_streams_are_refused() {
    let refused = |text: &str| codes(&exchange(json!({}), json!(text)));
    let malformed = one("malformed_stream", "/response");
    for text in [
        "",
        "hello",
        "data: {\"choices\":[\n\n",
        "data: 7\n\n",
        "data: {\"choices\":7}\n\n",
        "data: {\"choices\":[7]}\n\n",
        "data: {\"choices\":[{\"index\":-1}]}\n\n",
        "data: {\"choices\":[{\"logprobs\":7}]}\n\n",
        "data: {\"x\":1}\n\n",
        "data: [DONE]\n\n",
        "data: {\"choices\":[]}\n\ndata: [DONE]\n\ndata: {\"choices\":[]}\n\n",
        "{\"choices\":",
    ] {
        assert_eq!(refused(text), malformed, "{text}");
    }
    let failed = one("engine_failed", "/response");
    assert_eq!(refused("data: {\"error\":{\"message\":\"out of memory\"}}\n\n"), failed);
    assert_eq!(refused("error: {\"code\":500}\n\n"), failed);
    let deep = format!("data: {}\n\n", "[".repeat(100_000));
    assert_eq!(refused(&deep), malformed);
    // A body that was saved as text.
    let plain = vllm_completion();
    let saved = exchange(plain.request.clone(), json!(format!("\n {}", plain.response)));
    assert_eq!(only(&saved).rollout, only(&plain).rollout);
}
