//! What an answer must be, whatever was sent.

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use serde_json::Value;

use super::Format;
use super::pointers::{exists, is_missing};
use crate::tests::Reply;

/// Codes that are about what is not there: their pointer names the field that would be.
const OF_THE_MISSING: [&str; 4] = ["missing_field", "missing_token_ids", "missing_logprobs", "logprobs_mode_required"];

/// A body is accepted, or refused as the client's mistake with a document whose pointers lead to it.
pub(super) fn check(format: Format, body: &[u8], reply: &Reply) -> TestCaseResult {
    let status = reply.status.as_u16();
    let shown = &reply.body;
    if status == 200 || status == 202 {
        prop_assert!(serde_json::from_str::<Value>(shown).is_ok_and(|answer| answer.is_object()), "{}", shown);
        return Ok(());
    }
    prop_assert!(reply.status.is_client_error(), "{}: {}", status, shown);
    let Ok(document) = serde_json::from_str::<Value>(shown) else {
        return Err(TestCaseError::fail(format!("no JSON: {shown}")));
    };
    let media_type = reply.headers.get("content-type").map(|value| value.as_bytes());
    if format == Format::Weights && media_type != Some(b"application/problem+json") {
        // SGLang's own form of a refusal.
        prop_assert!(document["success"] == false && document["message"].is_string(), "{}", shown);
        return Ok(());
    }
    prop_assert_eq!(media_type, Some(&b"application/problem+json"[..]), "{}", shown);
    prop_assert_eq!(&document["status"], &Value::from(status));
    for key in ["type", "title", "detail", "instance", "code", "request_id"] {
        prop_assert!(document[key].is_string(), "{}: {}", key, shown);
    }
    let errors = document["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
    prop_assert!(status != 422 || !errors.is_empty(), "an invalid body without a field: {}", shown);
    prop_assert!(shown.len() < 200_000, "an answer of {} bytes", shown.len());
    for error in errors {
        let pointer = error["pointer"].as_str().unwrap_or("none");
        let code = error["code"].as_str().unwrap_or_default();
        let missing = OF_THE_MISSING.contains(&code) && is_missing(body, pointer);
        prop_assert!(missing || exists(body, pointer), "nothing is at {} ({}): {}", pointer, code, shown);
        let detail = error["detail"].as_str().unwrap_or_default();
        prop_assert!(!detail.is_empty() && detail.len() < 3000, "detail of {} bytes: {}", detail.len(), detail);
    }
    Ok(())
}
