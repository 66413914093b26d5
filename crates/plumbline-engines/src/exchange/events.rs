//! Server-sent events, put together to the body that the engine would have sent at once.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::error::{ExchangeError, ExchangeErrorCode as Code, Found};

/// The fields of `logprobs` in a choice that ids and logprobs are read from.
const LOGPROB_ARRAYS: [&str; 3] = ["content", "tokens", "token_logprobs"];

/// Reads a response that is a string: server-sent events, or JSON.
pub(super) fn assemble(text: &str) -> Found<Value> {
    if text.trim_start().starts_with(['{', '[']) {
        return serde_json::from_str(text).map_err(|error| malformed(format!("is no JSON: {error}")));
    }
    let events = events(text)?;
    let Some(first) = events.first() else {
        return Err(malformed("is a string without a server-sent event (data: {...})"));
    };
    let has = |key| first.contains_key(key);
    if has("choices") {
        choices(events)
    } else if has("meta_info") {
        sglang(events)
    } else if has("token") {
        tgi(events)
    } else if has("content") {
        llama_cpp(events)
    } else {
        Err(malformed(
            "holds events of no known engine: choices, meta_info, token or content is missing in the first one",
        ))
    }
}

fn malformed(detail: impl Into<String>) -> ExchangeError {
    ExchangeError { code: Code::MalformedStream, pointer: "/response".into(), detail: detail.into() }
}

/// The events' objects. Comments, names and ids of events are of no interest.
fn events(text: &str) -> Found<Vec<Map<String, Value>>> {
    let mut events = Vec::new();
    let mut data: Option<String> = None;
    let mut done = false;
    // A blank line ends an event; the end of the text does too.
    for line in text.lines().chain([""]) {
        let line = line.trim_end_matches('\r');
        if let Some(rest) = line.strip_prefix("data:") {
            let rest = rest.strip_prefix(' ').unwrap_or(rest);
            match &mut data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(rest);
                }
                None => data = Some(rest.to_owned()),
            }
            continue;
        }
        if line.starts_with("error:") {
            return Err(failed());
        }
        if !line.trim().is_empty() {
            let is_field = line.starts_with(':') || ["event", "id", "retry"].iter().any(|name| line.starts_with(name));
            if is_field {
                continue;
            }
            return Err(malformed("holds a line that is no field of a server-sent event"));
        }
        let Some(data) = data.take() else { continue };
        if data.trim() == "[DONE]" {
            done = true;
            continue;
        }
        if done {
            return Err(malformed("holds an event after the last one ([DONE])"));
        }
        let number = events.len() + 1;
        let event: Value =
            serde_json::from_str(&data).map_err(|error| malformed(format!("event {number} is no JSON: {error}")))?;
        let Value::Object(event) = event else {
            return Err(malformed(format!("event {number} is no object")));
        };
        if event.get("error").is_some_and(|error| !error.is_null()) {
            return Err(failed());
        }
        events.push(event);
    }
    Ok(events)
}

fn failed() -> ExchangeError {
    let detail = "the stream holds an error of the engine: it is no complete answer".into();
    ExchangeError { code: Code::EngineFailed, pointer: "/response".into(), detail }
}

/// Takes over what a later event says, but for nulls.
fn update(body: &mut Map<String, Value>, event: Map<String, Value>) {
    body.extend(event.into_iter().filter(|(_, value)| !value.is_null()));
}

/// Appends an array to an array of the same name; anything else is taken over, so that it is refused where it is read.
fn append(body: &mut Map<String, Value>, key: &str, value: Value) {
    match (body.get_mut(key), value) {
        (_, Value::Null) => {}
        (Some(Value::Array(all)), Value::Array(more)) => all.extend(more),
        (_, value) => {
            body.insert(key.to_owned(), value);
        }
    }
}

fn take_array(event: &mut Map<String, Value>, key: &str) -> Option<Value> {
    event.remove(key).filter(|value| !value.is_null())
}

/// OpenAI's chunks: ids and logprobs of a choice are continued from chunk to chunk.
fn choices(events: Vec<Map<String, Value>>) -> Found<Value> {
    let mut body = Map::new();
    let mut choices: BTreeMap<u64, Map<String, Value>> = BTreeMap::new();
    for (number, mut event) in (1..).zip(events) {
        let chunks = match event.remove("choices") {
            Some(Value::Array(chunks)) => chunks,
            None | Some(Value::Null) => Vec::new(),
            Some(_) => return Err(malformed(format!("choices of event {number} are no array"))),
        };
        update(&mut body, event);
        for (position, chunk) in (0..).zip(chunks) {
            let Value::Object(mut chunk) = chunk else {
                return Err(malformed(format!("a choice of event {number} is no object")));
            };
            let index = match chunk.get("index") {
                None | Some(Value::Null) => position,
                Some(index) => {
                    index.as_u64().ok_or_else(|| malformed(format!("an index in event {number} is no count")))?
                }
            };
            let choice = choices.entry(index).or_default();
            for key in ["token_ids", "prompt_token_ids"] {
                if let Some(ids) = take_array(&mut chunk, key) {
                    append(choice, key, ids);
                }
            }
            match chunk.remove("logprobs") {
                Some(Value::Object(mut logprobs)) => {
                    let all = choice.entry("logprobs").or_insert_with(|| json!({}));
                    if let Value::Object(all) = all {
                        for key in LOGPROB_ARRAYS {
                            if let Some(values) = take_array(&mut logprobs, key) {
                                append(all, key, values);
                            }
                        }
                    }
                }
                None | Some(Value::Null) => {}
                Some(_) => return Err(malformed(format!("logprobs in event {number} are no object"))),
            }
            // Text is of no use here, but that there was a message is.
            if chunk.remove("delta").is_some() {
                chunk.insert("message".into(), json!({}));
            }
            chunk.remove("text");
            update(choice, chunk);
        }
    }
    let choices = choices.into_iter().map(|(index, mut choice)| {
        choice.insert("index".into(), index.into());
        Value::Object(choice)
    });
    body.insert("choices".into(), choices.collect());
    Ok(Value::Object(body))
}

/// SGLang repeats what it said before in each event, unless it was started to stream only what is new; `completion_tokens`
/// tells which.
fn sglang(events: Vec<Map<String, Value>>) -> Found<Value> {
    let mut streams: BTreeMap<u64, Vec<Map<String, Value>>> = BTreeMap::new();
    for event in events {
        let index = event.get("index").and_then(Value::as_u64).unwrap_or(0);
        streams.entry(index).or_default().push(event);
    }
    streams.into_values().map(sglang_completion).collect::<Found<_>>().map(one_or_all)
}

fn sglang_completion(mut events: Vec<Map<String, Value>>) -> Found<Value> {
    const LOGPROBS: &str = "output_token_logprobs";
    let parts = events.iter_mut().map(|event| {
        let meta = event.get_mut("meta_info").and_then(Value::as_object_mut);
        meta.and_then(|meta| take_array(meta, LOGPROBS))
    });
    let parts: Vec<Value> = parts.flatten().collect();
    let ids: Vec<Value> = events.iter_mut().filter_map(|event| take_array(event, "output_ids")).collect();
    // The input's logprobs come once, with the first events.
    let meta_of =
        |event: &mut Map<String, Value>, key: &str| take_array(event.get_mut("meta_info")?.as_object_mut()?, key);
    let inputs: Vec<Value> = events.iter_mut().filter_map(|event| meta_of(event, "input_token_logprobs")).collect();
    let input = inputs.into_iter().find(|input| input.as_array().is_some_and(|values| !values.is_empty()));
    let prompt = events.iter_mut().find_map(|event| take_array(event, "prompt_token_ids"));
    let Some(mut body) = events.pop() else { return Err(malformed("holds no event")) };
    let counted = body.get("meta_info").and_then(|meta| meta.get("completion_tokens")).and_then(Value::as_u64);
    let logprobs = continued(parts, counted)?;
    let ids = continued(ids, counted)?;
    if let Some(meta) = body.get_mut("meta_info").and_then(Value::as_object_mut) {
        meta.extend(logprobs.map(|logprobs| (LOGPROBS.to_owned(), logprobs)));
        meta.extend(input.map(|input| ("input_token_logprobs".to_owned(), input)));
    }
    body.extend(ids.map(|ids| ("output_ids".to_owned(), ids)));
    body.extend(prompt.map(|prompt| ("prompt_token_ids".to_owned(), prompt)));
    Ok(Value::Object(body))
}

/// Arrays of which each repeats those before it, or continues them: the one way that gives `counted` values.
fn continued(mut parts: Vec<Value>, counted: Option<u64>) -> Found<Option<Value>> {
    if parts.len() < 2 {
        return Ok(parts.pop());
    }
    let length = |part: &Value| part.as_array().map_or(0, Vec::len) as u64;
    let sum: u64 = parts.iter().map(length).sum();
    let last = parts.last().map_or(0, length);
    match counted {
        Some(counted) if counted == last => Ok(parts.pop()),
        Some(counted) if counted == sum => {
            let all =
                parts.into_iter().flat_map(|part| if let Value::Array(values) = part { values } else { Vec::new() });
            Ok(Some(all.collect()))
        }
        _ => {
            let detail = format!(
                "the events give {sum} values together and {last} at last, but meta_info.completion_tokens is neither: events \
                 are missing"
            );
            Err(malformed(detail))
        }
    }
}

/// TGI's: a token an event, the details with the last one.
fn tgi(events: Vec<Map<String, Value>>) -> Found<Value> {
    let mut tokens = Vec::new();
    let mut details = Map::new();
    for mut event in events {
        if let Some(token) = take_array(&mut event, "token") {
            tokens.push(token);
        }
        if let Some(Value::Object(last)) = event.remove("details") {
            update(&mut details, last);
        }
    }
    details.insert("tokens".into(), tokens.into());
    Ok(json!({"generated_text": "", "details": details}))
}

/// llama.cpp's own: ids and logprobs are continued, settings and counts come with the last event of each prompt.
fn llama_cpp(events: Vec<Map<String, Value>>) -> Found<Value> {
    let mut bodies: BTreeMap<u64, Map<String, Value>> = BTreeMap::new();
    for mut event in events {
        let index = event.get("index").and_then(Value::as_u64).unwrap_or(0);
        let body = bodies.entry(index).or_default();
        for key in ["tokens", "completion_probabilities"] {
            if let Some(values) = take_array(&mut event, key) {
                append(body, key, values);
            }
        }
        update(body, event);
    }
    Ok(one_or_all(bodies.into_values().map(Value::Object).collect()))
}

fn one_or_all(mut bodies: Vec<Value>) -> Value {
    if bodies.len() == 1 { bodies.remove(0) } else { Value::Array(bodies) }
}
