//! Bodies of every engine, field by field.

mod bodies;
mod fuzz;
mod llama_cpp;
mod mapping;
mod openai;
mod recordings;
mod refused;
mod sglang;
mod streams;
mod tgi;

use plumbline_core::{LogprobsMode, Sampling};
use serde_json::{Value, json};

use super::{EngineKind, Exchange, ExchangeError, ExchangeRollout, ReadExchange, read_exchange};

/// An exchange named `x`, whose engine is to be found out.
fn exchange(request: Value, response: Value) -> Exchange {
    Exchange { id: "x".into(), request, response, ..Exchange::default() }
}

fn of(engine: EngineKind, request: Value, response: Value) -> Exchange {
    Exchange { engine: Some(engine), ..exchange(request, response) }
}

fn read(exchange: &Exchange) -> ReadExchange {
    read_exchange(exchange).unwrap_or_else(|errors| panic!("{errors:?}"))
}

/// The only rollout of an exchange.
fn only(exchange: &Exchange) -> ExchangeRollout {
    let mut rollouts = read(exchange).rollouts;
    assert_eq!(rollouts.len(), 1);
    rollouts.remove(0)
}

fn errors(exchange: &Exchange) -> Vec<ExchangeError> {
    read_exchange(exchange).expect_err("this exchange must be refused")
}

/// Code and pointer of every error.
fn codes(exchange: &Exchange) -> Vec<(&'static str, String)> {
    errors(exchange).into_iter().map(|error| (error.code.as_str(), error.pointer)).collect()
}

fn one(code: &'static str, pointer: &str) -> Vec<(&'static str, String)> {
    vec![(code, pointer.to_owned())]
}

/// A copy with the value at a pointer replaced, or added to its parent.
fn with(value: &Value, pointer: &str, new: Value) -> Value {
    let mut value = value.clone();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    match value.pointer_mut(parent).unwrap() {
        Value::Object(fields) => {
            fields.insert(key.to_owned(), new);
        }
        Value::Array(items) => items[key.parse::<usize>().unwrap()] = new,
        _ => panic!("{parent} holds nothing"),
    }
    value
}

/// A copy without a field.
fn without(value: &Value, pointer: &str) -> Value {
    let mut value = value.clone();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    value.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key).unwrap();
    value
}
