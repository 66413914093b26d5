//! Every metric against an independent computation with numpy, scipy and 60-digit arithmetic.

use std::slice;

use plumbline_divergence::{Metrics, importance_weights};
use serde_json::Value;

use crate::fixtures::{RECORDINGS, cases};

const TOLERANCE: f64 = 1e-9;

/// Collects every path at which two documents differ by more than the tolerance.
fn differences(path: &str, actual: &Value, expected: &Value, found: &mut Vec<String>) {
    match (actual, expected) {
        (Value::Object(actual), Value::Object(expected)) => {
            let keys: std::collections::BTreeSet<_> = actual.keys().chain(expected.keys()).collect();
            for key in keys {
                let of = |object: &serde_json::Map<String, Value>| object.get(key).cloned();
                match (of(actual), of(expected)) {
                    (Some(actual), Some(expected)) => {
                        differences(&format!("{path}/{key}"), &actual, &expected, found);
                    }
                    (actual, expected) => found.push(format!("{path}/{key}: {actual:?}, expected {expected:?}")),
                }
            }
        }
        (Value::Array(actual), Value::Array(expected)) if actual.len() == expected.len() => {
            for (index, (actual, expected)) in actual.iter().zip(expected).enumerate() {
                differences(&format!("{path}/{index}"), actual, expected, found);
            }
        }
        (Value::Number(actual), Value::Number(expected)) => {
            let (actual, expected) = (actual.as_f64().unwrap(), expected.as_f64().unwrap());
            if (actual - expected).abs() > TOLERANCE * expected.abs() {
                found.push(format!("{path}: {actual:e}, expected {expected:e}"));
            }
        }
        (actual, expected) => {
            if actual != expected {
                found.push(format!("{path}: {actual}, expected {expected}"));
            }
        }
    }
}

fn check(file: &str) -> usize {
    let mut found = Vec::new();
    let mut compared = 0;
    for case in cases(file) {
        let comparisons = case.comparisons();
        let mut skipped = plumbline_core::SkipCounts::default();
        for (comparison, sequence) in comparisons.iter().zip(&case.sequences) {
            skipped.merge(&comparison.skipped);
            let path = format!("{}/{}", case.name, comparison.id);
            let actual = serde_json::to_value(Metrics::of(slice::from_ref(comparison))).unwrap();
            differences(&path, &actual, &sequence.expected["metrics"], &mut found);
            if let Some(expected) = sequence.expected.get("importance_weights") {
                let actual = serde_json::to_value(importance_weights(comparison)).unwrap();
                differences(&format!("{path}/weights"), &actual, expected, &mut found);
            }
            compared += 1;
        }
        let pooled = serde_json::json!({ "metrics": Metrics::of(&comparisons), "skipped": skipped });
        differences(&case.name, &pooled, &case.expected, &mut found);
    }
    assert!(found.is_empty(), "{} differences\n{}", found.len(), found.join("\n"));
    compared
}

#[test]
fn metrics_of_real_recordings_agree_with_numpy_and_scipy() {
    let sequences = RECORDINGS.into_iter().map(check).sum::<usize>();
    assert_eq!(sequences, 3 * 47 + 20);
}

#[test]
fn metrics_of_nasty_cases_agree_with_numpy_and_scipy() {
    assert!(check("synthetic") > 50);
}

/// The comparison itself must be able to fail.
#[test]
fn differences_are_found() {
    let found = |actual: &str, expected: &str| {
        let parse = |text: &str| serde_json::from_str(text).unwrap();
        let mut found = Vec::new();
        differences("", &parse(actual), &parse(expected), &mut found);
        found.len()
    };
    assert_eq!(found(r#"{"a":1.0,"b":null}"#, r#"{"a":1.0000000001,"b":null}"#), 0);
    assert_eq!(found(r#"{"a":1.0}"#, r#"{"a":1.00000001}"#), 1);
    assert_eq!(found(r#"{"a":0}"#, r#"{"a":1e-300}"#), 1);
    assert_eq!(found(r#"{"a":0}"#, r#"{"a":null}"#), 1);
    assert_eq!(found(r#"{"a":0}"#, r#"{"b":0}"#), 2);
    assert_eq!(found("[1]", "[1,2]"), 1);
}
