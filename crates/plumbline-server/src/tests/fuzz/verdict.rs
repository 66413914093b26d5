//! What an answer must be, whatever was sent.

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use serde_json::Value;

use super::Format;
use super::pointers::{exists, is_missing};
use crate::tests::Reply;

/// Codes that are about what is not there: their pointer names the field that would be.
const OF_THE_MISSING: [&str; 4] = ["missing_field", "missing_token_ids", "missing_logprobs", "logprobs_mode_required"];

/// Codes of invalid requests that are about no field of the body.
const OF_NO_FIELD: [&str; 4] =
    ["idempotency_key_reused", "invalid_idempotency_key", "too_many_lines", "empty_sequences"];

/// A body is accepted, or refused as the client's mistake with a document whose pointers lead to it.
pub(super) fn check(format: Format, body: &[u8], reply: &Reply) -> TestCaseResult {
    let status = reply.status.as_u16();
    let shown = &reply.body;
    let media_type = reply.headers.get("content-type").map(|value| value.as_bytes()).unwrap_or_default();
    if status == 200 || status == 202 {
        if media_type == b"application/x-ndjson" {
            return check_lines(format, body, shown);
        }
        prop_assert!(serde_json::from_str::<Value>(shown).is_ok_and(|answer| answer.is_object()), "{}", shown);
        return Ok(());
    }
    let Ok(document) = serde_json::from_str::<Value>(shown) else {
        return Err(TestCaseError::fail(format!("no JSON: {shown}")));
    };
    if document["code"] == "async_unavailable" {
        // There is no data dir, and a header asked for one.
        prop_assert_eq!(status, 501);
        return Ok(());
    }
    prop_assert!(reply.status.is_client_error(), "{}: {}", status, shown);
    if format == Format::Weights && media_type != b"application/problem+json" {
        // SGLang's own form of a refusal.
        prop_assert!(document["success"] == false && document["message"].is_string(), "{}", shown);
        return Ok(());
    }
    prop_assert_eq!(media_type, b"application/problem+json", "{}", shown);
    prop_assert_eq!(&document["status"], &Value::from(status));
    check_problem(body, &document, &OF_THE_MISSING)
}

/// Every line has its own outcome, and bad ones do not stop good ones.
fn check_lines(format: Format, body: &[u8], shown: &str) -> TestCaseResult {
    let sent: Vec<(u64, &[u8])> = (1..)
        .zip(body.split(|byte| *byte == b'\n'))
        .filter(|(_, line)| !line.iter().all(u8::is_ascii_whitespace))
        .collect();
    let outcomes: Vec<Value> = shown.lines().map(|line| serde_json::from_str(line).unwrap_or_default()).collect();
    prop_assert_eq!(outcomes.len(), sent.len(), "{}", shown);
    for ((number, line), outcome) in sent.into_iter().zip(&outcomes) {
        prop_assert_eq!(outcome["line"].as_u64(), Some(number), "{}", outcome);
        let status = outcome["status"].as_u64().unwrap_or_default();
        if status == 200 {
            prop_assert!(outcome["verification"]["metrics"].is_object(), "{}", outcome);
            continue;
        }
        prop_assert!((400..500).contains(&status), "{}", outcome);
        prop_assert_eq!(outcome["problem"]["status"].as_u64(), Some(status));
        // What is wrong with a record has one code, also where something is missing.
        let of_the_missing = [&OF_THE_MISSING[..], &["invalid_value"]].concat();
        check_problem(line, &outcome["problem"], &of_the_missing)?;
    }
    prop_assert!(format != Format::Lines || outcomes[0]["status"] == 200, "the good line: {}", outcomes[0]);
    Ok(())
}

fn check_problem(body: &[u8], document: &Value, of_the_missing: &[&str]) -> TestCaseResult {
    for key in ["type", "title", "detail", "instance", "code", "request_id"] {
        prop_assert!(document[key].is_string(), "{}: {}", key, document);
    }
    let errors = document["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of_no_field = OF_NO_FIELD.contains(&document["code"].as_str().unwrap_or_default());
    let is_invalid = document["status"] == 422;
    prop_assert!(!is_invalid || of_no_field || !errors.is_empty(), "an invalid body without a field: {}", document);
    prop_assert!(document.to_string().len() < 200_000, "a document of {} bytes", document.to_string().len());
    for error in errors {
        let pointer = error["pointer"].as_str().unwrap_or("none");
        let code = error["code"].as_str().unwrap_or_default();
        let missing = of_the_missing.contains(&code) && is_missing(body, pointer);
        prop_assert!(missing || exists(body, pointer), "nothing is at {} ({}): {}", pointer, code, document);
        let detail = error["detail"].as_str().unwrap_or_default();
        prop_assert!(!detail.is_empty() && detail.len() < 3000, "detail of {} bytes: {}", detail.len(), detail);
    }
    Ok(())
}
