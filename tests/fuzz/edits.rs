//! Bad bodies from good ones: a few changes of the document, and of the bytes that it is written in.
//!
//! Shared by the fuzz tests of several crates, which include this file by its path. Nearly good bodies get further into a
//! parser than random ones; what is put into them are other parts of good bodies and the values that parsers stumble over.

use std::fmt;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Map, Value, json};

/// A body to send. Printed as text when a test fails.
#[derive(Clone)]
pub(crate) struct Body(pub(crate) Vec<u8>);

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

/// Good bodies with up to four changes of the document and up to two of its text.
pub(crate) fn bodies(good: Vec<Value>) -> impl Strategy<Value = Body> {
    let donors = good.clone();
    (select(good), prop::collection::vec(change(donors), 0..5), text_changes()).prop_map(|(mut body, changes, text)| {
        for change in changes {
            change.apply(&mut body);
        }
        Body(edited(body.to_string().into_bytes(), text))
    })
}

/// Good texts (streams, lines) with changes of their bytes alone.
#[allow(dead_code, reason = "not every crate that includes this file has texts")]
pub(crate) fn texts(good: Vec<Vec<u8>>) -> impl Strategy<Value = Body> {
    (select(good), prop::collection::vec(text_change(), 0..4)).prop_map(|(text, changes)| Body(edited(text, changes)))
}

/// A change of a document.
#[derive(Clone, Debug)]
enum Change {
    Replace(Index, Value),
    Remove(Index),
    /// A field under another name, or an element once more.
    Copy(Index, String),
    /// A new field or element.
    Insert(Index, String, Value),
    Swap(Index, Index),
    /// An array as often as this, so that it is longer than its neighbours.
    Repeat(Index, usize),
    /// A value as a string of JSON, or as server-sent events.
    Quote(Index, bool),
}

fn change(donors: Vec<Value>) -> impl Strategy<Value = Change> {
    let index = any::<Index>;
    prop_oneof![
        8 => (index(), replacement(donors.clone())).prop_map(|(at, value)| Change::Replace(at, value)),
        2 => index().prop_map(Change::Remove),
        1 => (index(), key()).prop_map(|(at, key)| Change::Copy(at, key)),
        1 => (index(), key(), replacement(donors)).prop_map(|(at, key, value)| Change::Insert(at, key, value)),
        1 => (index(), index()).prop_map(|(a, b)| Change::Swap(a, b)),
        1 => (index(), 0usize..4).prop_map(|(at, times)| Change::Repeat(at, times)),
        1 => (index(), any::<bool>()).prop_map(|(at, events)| Change::Quote(at, events)),
    ]
}

/// Names of fields: new ones, odd ones and those that mean something elsewhere.
fn key() -> impl Strategy<Value = String> {
    let known = [
        "",
        "a",
        "a/b",
        "~",
        "~1/",
        "é\u{0}",
        "id",
        "run",
        "engine",
        "sequences",
        "exchanges",
        "request",
        "response",
        "logprobs",
        "sampling",
        "choices",
        "index",
        "meta_info",
        "error",
        "object",
        "content",
        "stop",
        "token_ids",
        "prompt",
        "n",
        "weight_versions",
        "generated_text",
        "details",
        "finish_reason",
        "best_of_sequences",
        "samples",
        "echo",
        "usage",
        "policy_version",
        "logprobs_mode",
        "weight_version",
        "tokens",
        "cached_tokens",
    ];
    select(known.map(str::to_owned).to_vec())
}

fn replacement(donors: Vec<Value>) -> impl Strategy<Value = Value> {
    prop_oneof![
        2 => select(scalars()),
        2 => select(strings()).prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        2 => (-4i64..200).prop_map(Value::from),
        1 => select(containers()),
        3 => (select(donors), any::<Index>()).prop_map(|(mut donor, at)| {
            let places = places(&donor);
            let place = at.get(&places);
            donor.pointer_mut(place).map(Value::take).unwrap_or_default()
        }),
    ]
}

fn scalars() -> Vec<Value> {
    vec![
        Value::Null,
        json!(true),
        json!(false),
        json!(0),
        json!(-0.0),
        json!(1),
        json!(-1),
        json!(0.5),
        json!(-9999.0),
        json!(-3.402_823_466_385_288_6e38),
        json!(1e308),
        json!(-1e308),
        json!(5e-324),
        json!(1e30),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(u64::from(u32::MAX)),
        json!(u64::from(u32::MAX) + 1),
        json!((1u64 << 53) + 1),
    ]
}

fn strings() -> Vec<String> {
    let fixed = [
        "",
        " ",
        "a",
        "0",
        "1",
        "0-0",
        "NaN",
        "nan",
        "Infinity",
        "-Infinity",
        "\u{0}",
        "\u{1b}[31m",
        "é",
        "\u{202e}x",
        "😀",
        "token_id:7",
        "token_id:",
        "token_id:99999999999",
        "/",
        "~",
        "~1",
        "<script>alert(1)</script>",
        "=1+1",
        "default",
        "raw",
        "processed",
        "temperature",
        "vllm",
        "sglang",
        "llama.cpp",
        "tgi",
        "tensorrt-llm",
        "42",
        "../../etc/passwd",
        "data: {}\n\n",
        "data: [DONE]\n\n",
        "data: {\"choices\":[{}]}\n\n",
        "error: x\n\n",
        "{\"choices\":[]}",
        "[[[[",
        "{",
        "/v1/chat/completions",
        "/inference/v1/generate",
        "tokens",
        "importance_weights",
        "diagnosis",
    ];
    let long = [201, 5000].map(|length| "x".repeat(length));
    fixed.map(str::to_owned).into_iter().chain(long).collect()
}

fn containers() -> Vec<Value> {
    let deep = |depth| (0..depth).fold(json!(1), |inner, _| json!([inner]));
    let many: Map<String, Value> = (0..300).map(|number| (format!("k{number}"), number.into())).collect();
    vec![
        json!([]),
        json!({}),
        json!([[]]),
        json!([{}]),
        json!([null]),
        json!({"": null}),
        json!({"a/b~c": 1}),
        json!([0, -1, 1.5, "x", 10_000_000_000u64]),
        json!([[-1.0, 2], [null, 3, "x"]]),
        json!(vec![7; 2000]),
        json!(vec![-0.5; 1600]),
        deep(100),
        deep(200),
        Value::Object(many),
    ]
}

/// Every pointer of a document, the root included.
pub(crate) fn places(value: &Value) -> Vec<String> {
    fn walk(value: &Value, at: &str, found: &mut Vec<String>) {
        found.push(at.to_owned());
        match value {
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(index, item)| walk(item, &format!("{at}/{index}"), found));
            }
            Value::Object(fields) => fields.iter().for_each(|(key, item)| {
                let key = key.replace('~', "~0").replace('/', "~1");
                walk(item, &format!("{at}/{key}"), found);
            }),
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(value, "", &mut found);
    found
}

impl Change {
    fn apply(self, body: &mut Value) {
        let places = places(body);
        let at = |index: &Index| index.get(&places).clone();
        match self {
            Self::Replace(index, value) => set(body, &at(&index), value),
            Self::Remove(index) => with_parent(body, &at(&index), |parent, key| match parent {
                Value::Object(fields) => drop(fields.remove(&key)),
                Value::Array(items) => drop(key.parse::<usize>().map(|index| items.remove(index))),
                _ => {}
            }),
            Self::Copy(index, name) => {
                let place = at(&index);
                let copy = body.pointer(&place).cloned().unwrap_or_default();
                with_parent(body, &place, |parent, _| insert(parent, name, copy));
            }
            Self::Insert(index, name, value) => {
                if let Some(target) = body.pointer_mut(&at(&index)) {
                    insert(target, name, value);
                }
            }
            Self::Swap(a, b) => {
                let (a, b) = (at(&a), at(&b));
                // One inside the other has no swap.
                if !a.starts_with(&b) && !b.starts_with(&a) {
                    let first = body.pointer_mut(&a).map(Value::take).unwrap_or_default();
                    let second = body.pointer_mut(&b).map(Value::take).unwrap_or_default();
                    set(body, &a, second);
                    set(body, &b, first);
                }
            }
            Self::Repeat(index, times) => {
                if let Some(Value::Array(items)) = body.pointer_mut(&at(&index))
                    && items.len() * times < 3000
                {
                    *items = (0..times).flat_map(|_| items.clone()).collect();
                }
            }
            Self::Quote(index, events) => {
                if let Some(value) = body.pointer_mut(&at(&index)) {
                    let text = value.to_string();
                    let text = if events { format!("data: {text}\n\ndata: {text}\n\ndata: [DONE]\n\n") } else { text };
                    *value = text.into();
                }
            }
        }
    }
}

fn set(body: &mut Value, place: &str, value: Value) {
    if let Some(target) = body.pointer_mut(place) {
        *target = value;
    }
}

fn insert(parent: &mut Value, name: String, value: Value) {
    match parent {
        Value::Object(fields) => drop(fields.insert(name, value)),
        Value::Array(items) => items.insert(items.len() / 2, value),
        _ => {}
    }
}

/// Does something with the parent of a place and the key in it; the root has none.
fn with_parent(body: &mut Value, place: &str, change: impl FnOnce(&mut Value, String)) {
    if let Some((parent, key)) = place.rsplit_once('/')
        && let Some(parent) = body.pointer_mut(parent)
    {
        change(parent, key.replace("~1", "/").replace("~0", "~"));
    }
}

/// A change of bytes.
#[derive(Clone, Debug)]
enum TextChange {
    Overwrite(Index, u8),
    Insert(Index, Vec<u8>),
    Delete(Index, usize),
    Truncate(Index),
    Duplicate(Index, usize),
    /// A whole scalar by something else, so that what is around it stays JSON.
    Scalar(Index, Vec<u8>),
}

/// None for two bodies of three: most must be JSON.
fn text_changes() -> impl Strategy<Value = Vec<TextChange>> {
    prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(text_change(), 1..3)]
}

fn text_change() -> impl Strategy<Value = TextChange> {
    let index = any::<Index>;
    prop_oneof![
        1 => (index(), any::<u8>()).prop_map(|(at, byte)| TextChange::Overwrite(at, byte)),
        2 => (index(), select(fragments())).prop_map(|(at, bytes)| TextChange::Insert(at, bytes)),
        1 => (index(), 1usize..20).prop_map(|(at, length)| TextChange::Delete(at, length)),
        1 => index().prop_map(TextChange::Truncate),
        1 => (index(), 1usize..60).prop_map(|(at, length)| TextChange::Duplicate(at, length)),
        4 => (index(), select(fragments())).prop_map(|(at, bytes)| TextChange::Scalar(at, bytes)),
    ]
}

/// What no document can hold, or holds only written in this way.
fn fragments() -> Vec<Vec<u8>> {
    let fixed: [&[u8]; 35] = [
        b"NaN",
        b"-Infinity",
        b"Infinity",
        b"1e999",
        b"-1e999",
        b"0x1",
        b"01",
        b"1.",
        b"-",
        b"1e",
        b"-0",
        b"1.0",
        b"18446744073709551616",
        b"\"\\ud800\"",
        b"\"\\u0000\"",
        b"\"\\x\"",
        b"\x00",
        b"\n",
        b"\r\n",
        b"\xff",
        b"\xc3",
        b"\xef\xbb\xbf",
        b",",
        b"]",
        b"}",
        b"{",
        b"[",
        b"\"",
        b"\\",
        b":",
        b"//",
        b"/* */",
        b"'",
        b"nul",
        b"{\"id\":1,\"id\":2}",
    ];
    let mut all: Vec<Vec<u8>> = fixed.iter().map(|bytes| bytes.to_vec()).collect();
    all.extend([b"[".repeat(3000), b"{\"a\":".repeat(200), b"9".repeat(400), b" ".repeat(2000)]);
    all
}

fn edited(mut text: Vec<u8>, changes: Vec<TextChange>) -> Vec<u8> {
    for change in changes {
        if text.is_empty() {
            break;
        }
        let length = text.len();
        match change {
            TextChange::Overwrite(at, byte) => text[at.index(length)] = byte,
            TextChange::Insert(at, bytes) => drop(text.splice(at.index(length)..at.index(length), bytes)),
            TextChange::Delete(at, count) => {
                let start = at.index(length);
                text.drain(start..(start + count).min(length));
            }
            TextChange::Truncate(at) => text.truncate(at.index(length)),
            TextChange::Duplicate(at, count) => {
                let start = at.index(length);
                let copy = text[start..(start + count).min(length)].to_vec();
                text.splice(start..start, copy);
            }
            TextChange::Scalar(at, bytes) => {
                let ends = |byte: &u8| b"[]{},:".contains(byte);
                let start = at.index(length);
                let start = text[..start].iter().rposition(ends).map_or(0, |before| before + 1);
                let end = text[start..].iter().position(ends).map_or(length, |after| start + after);
                text.splice(start..end, bytes);
            }
        }
    }
    text
}
