//! What is wrong with a dump, and where.

use std::path::PathBuf;

/// What is wrong with a dump: the file, the place in it and the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct DumpError {
    /// The file or folder.
    pub path: PathBuf,
    /// Line where the record begins, from 1; `None` where the file as a whole is in the way.
    pub line: Option<u64>,
    /// Field of the record, as a path into it.
    pub field: Option<String>,
    /// Why.
    pub reason: String,
}

impl DumpError {
    fn text(&self) -> String {
        let mut text = self.path.display().to_string();
        if let Some(line) = self.line {
            text.push_str(&format!(", line {line}"));
        }
        if let Some(field) = &self.field {
            text.push_str(&format!(", field {field}"));
        }
        format!("{text}: {}", self.reason)
    }
}

/// Characters of a reason at most.
const MAX_REASON_CHARS: usize = 600;

/// What is wrong with one record, whatever file it is in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{reason}", .field.as_ref().map(|field| format!("{field}: ")).unwrap_or_default())]
pub struct Fault {
    /// Field of the record, as a path into it (`sequences[1].logprobs[2]`); `None` where the record as a whole is in the way.
    pub field: Option<String>,
    /// Why.
    pub reason: String,
}

impl Fault {
    /// The field as a JSON pointer into the record.
    #[must_use]
    pub fn pointer(&self) -> String {
        let mut pointer = String::new();
        // What is wrong with an exchange has a pointer already, within whatever element of the record.
        let (path, within) = match &self.field {
            Some(field) => field.find('/').map_or((field.as_str(), ""), |at| field.split_at(at)),
            None => ("", ""),
        };
        for part in path.split(['.', '[']).filter(|part| !part.is_empty()) {
            let part = part.strip_suffix(']').unwrap_or(part);
            pointer.push('/');
            pointer.push_str(&part.replace('~', "~0"));
        }
        pointer.push_str(within);
        pointer
    }

    pub(super) fn of(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..Self::record(reason) }
    }

    /// Reasons are cut where they quote what is as long as the record.
    pub(super) fn record(reason: impl Into<String>) -> Self {
        let mut reason = reason.into();
        if let Some((end, _)) = reason.char_indices().nth(MAX_REASON_CHARS) {
            reason.truncate(end);
            reason.push_str("...");
        }
        Self { field: None, reason }
    }

    /// The same fault of an element of the record.
    pub(super) fn within(self, parent: &str) -> Self {
        let field = match self.field {
            Some(field) => format!("{parent}.{field}"),
            None => parent.to_owned(),
        };
        Self { field: Some(field), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_of_bounded_length() {
        let fault = Fault::of("logprobs_mode", "é".repeat(5000));
        assert_eq!(fault.reason.chars().count(), MAX_REASON_CHARS + 3);
        assert!(fault.reason.ends_with("é..."));
    }

    #[test]
    fn errors_say_where() {
        let error = DumpError { path: "a.jsonl".into(), line: Some(3), field: None, reason: "is empty".into() };
        assert_eq!(error.to_string(), "a.jsonl, line 3: is empty");
        let error = DumpError { field: Some("logprobs[2]".into()), ..error };
        assert_eq!(error.to_string(), "a.jsonl, line 3, field logprobs[2]: is empty");
        let fault = Fault::of("logprobs", "no").within("sequences[1]");
        assert_eq!(fault.field.as_deref(), Some("sequences[1].logprobs"));
        let of = |field: Option<&str>| Fault { field: field.map(str::to_owned), reason: String::new() }.pointer();
        assert_eq!(of(Some("sequences[1].logprobs[2]")), "/sequences/1/logprobs/2");
        assert_eq!((of(Some("a~c")), of(None)), ("/a~0c".to_owned(), String::new()));
        assert_eq!(of(Some("/response/choices/0/a.b~1[c")), "/response/choices/0/a.b~1[c");
        let within = Fault::of("/response/choices/0", "no").within("exchanges[1]");
        assert_eq!(within.pointer(), "/exchanges/1/response/choices/0");
    }
}
