//! From the bytes of a request body to validated rollouts.

mod bodies;
mod decode;
mod errors;
mod exchanges;
mod findings;
mod lines;
mod native;
mod origin;
mod receive;
mod resolve;
mod values;
mod wire;

use serde::de::IgnoredAny;

pub(crate) use self::bodies::{Bodies, Room};
pub(crate) use self::decode::ACCEPTED as ACCEPTED_ENCODINGS;
pub(crate) use self::findings::MAX_NAME_CHARS;
pub(crate) use self::lines::{Line, LineDefaults, read_line};
pub(crate) use self::native::native_body;
pub(crate) use self::origin::Origin;
pub(crate) use self::receive::{MediaType, Received, check_headers, receive};
pub(crate) use self::resolve::{RequestLimits, Verification, resolve};
pub(crate) use self::values::MAX_SEQUENCES;
#[cfg(test)]
pub(crate) use self::wire::SamplingParameters;
pub(crate) use self::wire::{LogprobsModeName, VerificationRequest};
use crate::problem::Problem;

/// Parses a native request body.
///
/// Good bodies take one plain pass. A bad one is read again to find out what is in the way.
///
/// # Errors
/// `malformed_json` with line and column, or the offending field with its pointer.
pub(crate) fn parse(body: &[u8]) -> Result<VerificationRequest, Problem> {
    let error = match serde_json::from_slice(body) {
        Ok(request) => return Ok(request),
        Err(error) => error,
    };
    // The first pass stops at the first thing that is wrong, which may stand before a place where the syntax breaks.
    let Some(quoted) = plumbline_engines::quote_non_finite(body) else {
        return Err(explain(body, &error, |_, column| column));
    };
    serde_json::from_slice(&quoted.bytes)
        .map_err(|error| explain(&quoted.bytes, &error, |line, column| quoted.original_column(line, column)))
}

/// What is wrong with a body: its syntax, wherever that breaks first, else a field. `original_column` maps a line and
/// column of `body` to the column in the body as sent.
fn explain(body: &[u8], error: &serde_json::Error, original_column: impl Fn(usize, usize) -> usize) -> Problem {
    // The typed pass calls some values that JSON allows syntax errors (1e999, lone surrogates). Skipping over a value
    // checks the syntax alone, but not the encoding.
    match serde_json::from_slice::<IgnoredAny>(body) {
        Err(syntax) => errors::malformed(&syntax, original_column(syntax.line(), syntax.column())),
        Ok(_) if std::str::from_utf8(body).is_err() => {
            errors::malformed(error, original_column(error.line(), error.column()))
        }
        Ok(_) => locate(body, error),
    }
}

/// Finds where a body that is JSON fails to be a request.
fn locate(body: &[u8], first: &serde_json::Error) -> Problem {
    let mut json = serde_json::Deserializer::from_slice(body);
    match serde_path_to_error::deserialize::<_, VerificationRequest>(&mut json) {
        Err(error) => {
            let path = error.path().clone();
            errors::invalid(&path, error.inner())
        }
        // Both passes read the same bytes into the same type; if they ever disagree, the first one's word stands.
        Ok(_) => errors::malformed(first, first.column()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"run":"r","engine":"vllm","sequences":[{"prompt_token_ids":[1],"completion_token_ids":[2,3],"logprobs":[-1,null]}]}"#;

    /// Status, code and pointer of the problem with a body.
    fn problem(body: &str) -> (u16, &'static str, String) {
        let problem = parse(body.as_bytes()).unwrap_err();
        let pointer = problem.errors.first().map(|error| error.pointer.clone()).unwrap_or_default();
        (problem.code.status().as_u16(), problem.code.as_str(), pointer)
    }

    fn changed(from: &str, to: &str) -> (u16, &'static str, String) {
        assert!(GOOD.contains(from));
        problem(&GOOD.replace(from, to))
    }

    #[test]
    fn good_bodies_parse() {
        let request = parse(GOOD.as_bytes()).unwrap();
        assert_eq!((request.run.as_str(), request.engine.as_str()), ("r", "vllm"));
        assert_eq!(request.sequences.as_ref().unwrap().kept[0].logprobs, [Some(-1.0), None]);
        assert_eq!(request.sequences.as_ref().unwrap().kept[0].id, None);
    }

    #[test]
    fn bare_words_of_python_are_logprobs_and_nothing_else() {
        let body = GOOD.replace("[-1,null]", "[NaN, -Infinity]");
        let request = parse(body.as_bytes()).unwrap();
        let logprobs = &request.sequences.as_ref().unwrap().kept[0].logprobs;
        assert!(logprobs[0].unwrap().is_nan());
        assert_eq!(logprobs[1], Some(f64::NEG_INFINITY));
        let sampled = GOOD.replace("\"sequences\"", "\"sampling\":{\"temperature\":NaN},\"sequences\"");
        assert_eq!(problem(&sampled), (422, "invalid_type", "/sampling/temperature".into()));
        let id = GOOD.replace("[1]", "[Infinity]");
        assert_eq!(problem(&id), (422, "invalid_type", "/sequences/0/prompt_token_ids/0".into()));
    }

    #[test]
    fn what_is_no_json_is_malformed_where_it_breaks() {
        for (body, detail) in [
            ("", "EOF while parsing a value at line 1, column 0"),
            ("{", "EOF while parsing an object at line 1, column 1"),
            ("{\"run\":\n  x}", "expected value at line 2, column 3"),
            ("{\"run\":NaN,x}", "key must be a string at line 1, column 12"),
            (
                "{\"run\":\"\u{1}\"}",
                "control character (\\u0000-\\u001F) found while parsing a string at line 1, column 8",
            ),
        ] {
            let problem = parse(body.as_bytes()).unwrap_err();
            assert_eq!((problem.code.as_str(), problem.detail.as_ref()), ("malformed_json", detail), "{body}");
        }
        assert_eq!(problem(&format!("{GOOD} x")).1, "malformed_json");
        // Whatever else is wrong before that.
        assert_eq!(changed("\"r\"", "7,").1, "malformed_json");
        assert_eq!(problem(r#"{"typo":1,"logprobs":[NaN"#).1, "malformed_json");
        assert_eq!(parse(b"\xff{}").unwrap_err().code.as_str(), "malformed_json");
        assert_eq!(problem(&"[".repeat(100_000)).0 / 100, 4);
    }

    #[test]
    fn wrong_fields_have_a_pointer() {
        // Not even with the fields in their order.
        let in_order =
            r#"["r","vllm",null,null,null,null,[[null,[1],[2],[-1],null,null,null,null,null,null,null]],null,[]]"#;
        assert_eq!(problem(in_order), (422, "invalid_type", String::new()));
        assert_eq!(
            changed(
                "{\"prompt_token_ids\":[1],\"completion_token_ids\":[2,3],\"logprobs\":[-1,null]}",
                "[null,[1],[2],[-1],null,null,null,null,null,null,null]"
            ),
            (422, "invalid_type", "/sequences/0".into())
        );
        assert_eq!(problem("[]").0, 422);
        assert_eq!(changed("\"r\"", "7"), (422, "invalid_type", "/run".into()));
        assert_eq!(changed("\"run\":\"r\",", ""), (422, "missing_field", "/run".into()));
        assert_eq!(changed("\"run\"", "\"ru/n~\""), (422, "unknown_field", "/ru~1n~0".into()));
        assert_eq!(changed("\"run\"", "\"engine\""), (422, "duplicate_field", "/engine".into()));
        assert_eq!(
            changed("\"logprobs\":[-1,null]", "\"logprobs\":\"no\""),
            (422, "invalid_type", "/sequences/0/logprobs".into())
        );
        assert_eq!(changed(",\"logprobs\":[-1,null]", ""), (422, "missing_field", "/sequences/0/logprobs".into()));
        assert_eq!(changed("[1]", "[-1]"), (422, "invalid_type", "/sequences/0/prompt_token_ids/0".into()));
        assert_eq!(changed("[2,3]", "[2,3.5]"), (422, "invalid_type", "/sequences/0/completion_token_ids/1".into()));
        assert_eq!(
            changed("[2,3]", "[2,5000000000]"),
            (422, "token_out_of_vocabulary", "/sequences/0/completion_token_ids/1".into())
        );
        let extra = |field: &str| changed("\"sequences\"", &format!("{field},\"sequences\""));
        assert_eq!(extra("\"include\":[1]"), (422, "invalid_type", "/include/0".into()));
        assert_eq!(extra("\"logprobs_mode\":{\"raw\":null}"), (422, "invalid_type", "/logprobs_mode".into()));
        assert_eq!(changed("[-1,null]", "[-1e999,null]"), (422, "invalid_value", "/sequences/0/logprobs/0".into()));
        assert_eq!(changed("\"r\"", "\"\\ud800\""), (422, "invalid_value", "/run".into()));
        assert_eq!(extra("\"sampling\":[0.5]"), (422, "invalid_type", "/sampling".into()));
        assert_eq!(extra("\"sampling\":{\"order\":{\"tgi\":null}}"), (422, "invalid_type", "/sampling/order".into()));
        assert_eq!(extra("\"include\":[\"all\"]"), (422, "invalid_value", "/include/0".into()));
        assert_eq!(extra("\"logprobs_mode\":\"cooked\""), (422, "invalid_value", "/logprobs_mode".into()));
        assert_eq!(extra("\"sampling\":{\"temprature\":1}"), (422, "unknown_field", "/sampling/temprature".into()));
        assert_eq!(
            changed("\"logprobs\"", "\"loss_mask\":[1,2],\"logprobs\""),
            (422, "invalid_value", "/sequences/0/loss_mask/1".into())
        );
    }

    #[test]
    fn details_quote_no_more_than_a_line() {
        let problem = parse(GOOD.replace("[-1,null]", &format!("\"{}\"", "x".repeat(5000))).as_bytes()).unwrap_err();
        assert!(problem.errors[0].detail.len() < 310 && problem.errors[0].detail.ends_with("..."));
    }
}
