//! What is wrong with a request, as it is found.

use std::collections::HashSet;

use super::origin::Origin;
use crate::problem::{Code, FieldError, Problem};

/// Characters of a name at most: names become metric labels and log fields.
pub(crate) const MAX_NAME_CHARS: usize = 200;

/// Offending fields, in the order in which they are found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    errors: Vec<FieldError>,
    /// Fields of the request itself that were reported.
    reported: HashSet<String>,
}

impl Findings {
    pub(super) fn report(&mut self, code: Code, pointer: String, detail: String) {
        self.errors.push(FieldError { code, pointer, detail });
    }

    /// The same, but what stands once in the request is wrong once, not for every sequence.
    pub(super) fn report_once(&mut self, code: Code, pointer: String, detail: String) {
        if !Origin::is_shared(&pointer) || self.reported.insert(pointer.clone()) {
            self.report(code, pointer, detail);
        }
    }

    /// Names become metric labels and log fields.
    pub(super) fn check_name(&mut self, pointer: &str, name: Option<&str>) {
        let Some(name) = name else { return };
        let reason = if name.is_empty() {
            "must not be empty".into()
        } else if name.chars().any(char::is_control) {
            "must not contain control characters".into()
        } else {
            let chars = name.chars().count();
            if chars <= MAX_NAME_CHARS {
                return;
            }
            format!("has {chars} characters, the limit is {MAX_NAME_CHARS}")
        };
        self.report(Code::InvalidLabel, pointer.to_owned(), reason);
    }

    /// # Errors
    /// Everything found.
    pub(super) fn check(self) -> Result<(), Problem> {
        if self.errors.is_empty() { Ok(()) } else { Err(Problem::fields(self.errors)) }
    }
}
