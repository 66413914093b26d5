//! From the bytes of a record to its fields.

use serde::de::DeserializeOwned;
use serde_json::error::Category;

use super::error::Fault;
use crate::pointer::readable_path;
use crate::quote_non_finite;

/// Reasons are cut here: serde quotes the offending value, which can be as long as the record.
const MAX_REASON_CHARS: usize = 300;

/// Reads a record. Bare `NaN` and infinities, as Python writes them, are read where a logprob may be.
pub(super) fn parse<T: DeserializeOwned>(record: &[u8]) -> Result<T, Fault> {
    let error = match serde_json::from_slice(record) {
        Ok(parsed) => return Ok(parsed),
        Err(error) => error,
    };
    if error.classify() == Category::Syntax
        && let Some(quoted) = quote_non_finite(record)
    {
        return serde_json::from_slice(&quoted.bytes).map_err(|error| locate::<T>(&quoted.bytes, &error));
    }
    Err(locate::<T>(record, &error))
}

/// Finds the field that is in the way: reads once more, more slowly.
fn locate<T: DeserializeOwned>(record: &[u8], first: &serde_json::Error) -> Fault {
    match first.classify() {
        Category::Eof => return Fault::record("the record is cut off: it ends inside its JSON"),
        Category::Syntax | Category::Io => {
            return Fault::record(format!("is no JSON: {}, column {}", message(first), first.column()));
        }
        Category::Data => {}
    }
    let mut json = serde_json::Deserializer::from_slice(record);
    match serde_path_to_error::deserialize::<_, T>(&mut json) {
        Err(error) => {
            let path = readable_path(error.path());
            let reason = message(error.inner());
            if path == "." { Fault::record(reason) } else { Fault::of(path, reason) }
        }
        // Both read the same bytes into the same type; if they ever disagree, the first one's word stands.
        Ok(_) => Fault::record(message(first)),
    }
}

/// The error without the position that serde_json appends, and of bounded length.
fn message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    let text = text.strip_suffix(&position).unwrap_or(&text);
    match text.char_indices().nth(MAX_REASON_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::Logprob;

    #[derive(Debug, Deserialize)]
    struct Line {
        logprobs: Vec<Logprob>,
        number: u32,
    }

    fn fault(record: &str) -> (Option<String>, String) {
        let fault = parse::<Line>(record.as_bytes()).unwrap_err();
        (fault.field, fault.reason)
    }

    #[test]
    fn bare_words_of_python_are_logprobs() {
        let line: Line = parse(br#"{"logprobs":[-1,NaN,null,-Infinity],"number":3}"#).unwrap();
        let values: Vec<Option<f64>> = line.logprobs.into_iter().map(Into::into).collect();
        assert!(values[1].unwrap().is_nan() && values[2].is_none() && values[3] == Some(f64::NEG_INFINITY));
        assert_eq!(line.number, 3);
        assert_eq!(fault(r#"{"logprobs":[],"number":NaN}"#).0.as_deref(), Some("number"));
    }

    #[test]
    fn faults_name_the_field() {
        let (field, reason) = fault(r#"{"logprobs":[-1,"x"],"number":3}"#);
        assert_eq!(field.as_deref(), Some("logprobs[1]"));
        assert!(reason.starts_with("invalid type: string \"x\""), "{reason}");
        let odd = |key: &str| {
            parse::<std::collections::HashMap<String, u32>>(format!("{{{key:?}:-1}}").as_bytes()).unwrap_err()
        };
        for (key, pointer) in [("plain", "/plain"), ("1.a", "/1.a"), ("a[0", "/a[0"), ("a/b~", "/a~1b~0"), ("", "/")] {
            assert_eq!(odd(key).pointer(), pointer, "{key}");
            assert_eq!(odd(key).within("sequences[1]").pointer(), format!("/sequences/1{pointer}"), "{key}");
        }
        assert_eq!(fault(r#"{"logprobs":[]}"#), (None, "missing field `number`".into()));
        assert!(fault("{\"logprobs\":[").1.contains("cut off"));
        assert!(fault("nonsense").1.starts_with("is no JSON"), "{:?}", fault("nonsense"));
        assert!(fault(&format!("{{\"logprobs\":\"{}\"}}", "x".repeat(9999))).1.len() < 400);
    }
}
