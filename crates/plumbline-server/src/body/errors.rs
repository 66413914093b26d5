//! From serde's errors to problems with a JSON pointer.

use std::borrow::Cow;

use plumbline_engines::{escaped_key, json_pointer};
use serde_path_to_error::Path;

use super::values::IMPOSSIBLE_TOKEN_ID;
use crate::problem::{Code, Problem};

/// Details are cut here: serde quotes the offending value, which can be as long as the body.
const MAX_DETAIL_CHARS: usize = 300;

/// How serde words its errors, and what they are called here. The texts are serde's only stable interface to their
/// kind.
const KINDS: [(&str, Code); 9] = [
    ("missing field", Code::MissingField),
    ("unknown field", Code::UnknownField),
    ("duplicate field", Code::DuplicateField),
    ("unknown variant", Code::InvalidValue),
    ("invalid value", Code::InvalidValue),
    ("invalid length", Code::InvalidValue),
    ("invalid type", Code::InvalidType),
    ("recursion limit exceeded", Code::TooDeep),
    (IMPOSSIBLE_TOKEN_ID, Code::TokenOutOfVocabulary),
];

/// A body that is no JSON at all. `column` is that of the body as sent.
pub(super) fn malformed(error: &serde_json::Error, column: usize) -> Problem {
    let detail = format!("{} at line {}, column {column}", message(error), error.line());
    Problem::new(Code::MalformedJson, shortened(&detail).into_owned())
}

/// A body that is JSON, but not a request.
pub(super) fn invalid(path: &Path, error: &serde_json::Error) -> Problem {
    let message = message(error);
    let code = KINDS.iter().find(|(start, _)| message.starts_with(start)).map_or(Code::InvalidValue, |(_, code)| *code);
    let mut pointer = json_pointer(path);
    // The path of a missing or doubled field ends at its parent.
    if matches!(code, Code::MissingField | Code::DuplicateField)
        && let Some(name) = message.split('`').nth(1)
    {
        pointer.push('/');
        pointer.push_str(&escaped_key(name));
    }
    Problem::field(code, pointer, shortened(&message).into_owned())
}

/// The error without the position that serde_json appends.
fn message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&position).map(str::to_owned).unwrap_or(text)
}

fn shortened(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(MAX_DETAIL_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]).into(),
        None => text.into(),
    }
}
