//! Places of rollouts' fields: whatever the core finds wrong is pointed at in the exchange.

use plumbline_core::ModelLimits;

use super::bodies::all;
use super::*;

/// The exchange as a document, as pointers see it.
pub(super) fn document(exchange: &Exchange) -> Value {
    json!({"request": exchange.request, "response": exchange.response})
}

#[test]
fn places_hold_what_was_read_from_them() {
    for exchange in all() {
        let document = document(&exchange);
        for own in read(&exchange).rollouts {
            let rollout = &own.rollout;
            for (field, ids) in [("prompt", &rollout.prompt_token_ids), ("completion", &rollout.completion_token_ids)] {
                for (index, id) in ids.iter().enumerate() {
                    let place = own.places.locate(&format!("/{field}_token_ids/{index}"));
                    assert_eq!(document.pointer(&place), Some(&json!(id)), "{place}");
                }
            }
            for (index, logprob) in rollout.logprobs.iter().enumerate() {
                let place = own.places.locate(&format!("/logprobs/{index}"));
                assert_eq!(document.pointer(&place), Some(&json!(logprob)), "{place}");
            }
            for field in ["/prompt_token_ids", "/completion_token_ids", "/logprobs"] {
                assert!(document.pointer(&own.places.locate(field)).is_some_and(Value::is_array));
            }
        }
    }
}

#[test]
fn violations_have_a_place() {
    let limits = ModelLimits { vocab_size: 20, max_positions: 3 };
    for exchange in all() {
        let document = document(&exchange);
        for own in read(&exchange).rollouts {
            let violations = own.rollout.violations(&limits);
            assert!(!violations.is_empty());
            for violation in violations {
                let place = own.places.locate(&violation.pointer);
                assert!(document.pointer(&place).is_some(), "{} -> {place}", violation.pointer);
            }
        }
    }
}
