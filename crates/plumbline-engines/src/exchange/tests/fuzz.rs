//! Generated bad bodies: whatever an exchange holds, it is read or refused with a pointer into it.

use plumbline_core::ModelLimits;
use proptest::prelude::*;

use super::super::ExchangeErrorCode;
use super::bodies::all;
use super::mapping::document;
use super::*;

/// Every pointer of a document, the root included.
fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| pointers(item, &format!("{at}/{index}"), found));
        }
        Value::Object(fields) => fields.iter().for_each(|(key, item)| pointers(item, &format!("{at}/{key}"), found)),
        _ => {}
    }
}

fn replacement() -> impl Strategy<Value = Value> {
    let bodies: Vec<Value> = all().into_iter().flat_map(|exchange| [exchange.request, exchange.response]).collect();
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0u64..4).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z{\\[\u{0}é]{0,5}".prop_map(Value::from),
        Just(json!("data: {\"choices\":[{}]}\n\n")),
        Just(json!([])),
        Just(json!({})),
        Just(json!([[]])),
        Just(json!([0, -1, 1.5, "x", 10_000_000_000u64])),
        Just(json!([[-1.0, 2], [null, 3, "x"]])),
        prop::sample::select(bodies),
    ]
}

/// The offending field exists, or it is what is missing and its parent exists.
fn points_into(pointer: &str, of_the_missing: bool, document: &Value) -> bool {
    let parent = pointer.rsplit_once('/').map_or("", |(parent, _)| parent);
    document.pointer(pointer).is_some() || (of_the_missing && document.pointer(parent).is_some())
}

fn is_of_the_missing(code: ExchangeErrorCode) -> bool {
    use ExchangeErrorCode::{MissingField, MissingLogprobs, MissingTokenIds};
    matches!(code, MissingField | MissingLogprobs | MissingTokenIds)
}

fn check(exchange: &Exchange) -> Result<(), TestCaseError> {
    let mut document = document(exchange);
    if exchange.logprobs_mode.is_some() {
        document["logprobs_mode"] = "processed".into();
    }
    match read_exchange(exchange) {
        Err(errors) => {
            prop_assert!(!errors.is_empty());
            for error in errors {
                prop_assert!(
                    points_into(&error.pointer, is_of_the_missing(error.code), &document),
                    "{:?}\n{}",
                    error,
                    document
                );
            }
        }
        Ok(read) => {
            prop_assert!(!read.rollouts.is_empty());
            for own in read.rollouts {
                for violation in own.rollout.violations(&ModelLimits { vocab_size: 20, max_positions: 3 }) {
                    let place = own.places.locate(&violation.pointer);
                    prop_assert!(points_into(&place, false, &document), "{:?} at {}\n{}", violation, place, document);
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn changed_bodies_are_read_or_pointed_at(
        which in 0usize..7,
        named in prop::option::of(prop::sample::select(EngineKind::ALL.to_vec())),
        processed in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), replacement(), any::<bool>()), 1..4),
    ) {
        let mut exchange = all().swap_remove(which);
        exchange.engine = exchange.engine.filter(|_| named.is_none()).or(named.filter(|_| processed));
        exchange.logprobs_mode = processed.then_some(LogprobsMode::Processed);
        let mut body = document(&exchange);
        for (index, value, remove) in changes {
            let mut places = Vec::new();
            pointers(&body, "", &mut places);
            let place = index.get(&places[1..]).clone();
            let (parent, key) = place.rsplit_once('/').unwrap();
            match body.pointer_mut(parent) {
                Some(Value::Object(fields)) if remove && !parent.is_empty() => {
                    fields.remove(key);
                }
                Some(_) => {
                    if let Some(target) = body.pointer_mut(&place) {
                        *target = value;
                    }
                }
                None => {}
            }
        }
        exchange.request = body["request"].take();
        exchange.response = body["response"].take();
        check(&exchange)?;
    }

    #[test]
    fn broken_streams_are_read_or_pointed_at(
        which in 0usize..7,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<char>(), 0u8..3), 0..5),
    ) {
        let mut exchange = all().swap_remove(which);
        let mut text: Vec<char> = format!("data: {0}\n\ndata: {0}\n\ndata: [DONE]\n\n", exchange.response).chars().collect();
        for (index, other, kind) in changes {
            let at = index.index(text.len());
            match kind {
                0 => text[at] = other,
                1 => text.insert(at, other),
                _ => text.truncate(at.max(1)),
            }
        }
        exchange.response = Value::String(text.into_iter().collect());
        check(&exchange)?;
    }
}
