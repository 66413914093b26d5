//! Taking an architecture's metadata keys one by one, so that none is ignored.

use serde_json::{Map, Value};

/// The keys below `ARCHITECTURE.`; what has been read is taken out.
pub(super) struct Keys {
    architecture: String,
    left: Map<String, Value>,
}

impl Keys {
    /// The keys of one architecture. Those outside of it speak of the file, the tokenizer and the tools that made it.
    pub(super) fn of(architecture: &str, metadata: &Map<String, Value>) -> Self {
        let prefix = format!("{architecture}.");
        let left = metadata
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix(&prefix)?.to_owned(), value.clone())))
            .collect();
        Self { architecture: architecture.into(), left }
    }

    /// A non-negative integer, or a list of equal ones (some keys have an entry a layer).
    pub(super) fn optional_whole(&mut self, key: &str) -> Result<Option<usize>, String> {
        let Some(value) = self.left.remove(key) else {
            return Ok(None);
        };
        let number = match &value {
            Value::Array(items) => match items.split_first() {
                Some((first, rest)) if rest.iter().all(|item| item == first) => first,
                _ => return Err(self.refused(key, &value, "layers that differ are not supported")),
            },
            number => number,
        };
        // The limit keeps products of two sizes in range; llama.cpp counts in 32 bits too.
        let whole =
            number.as_u64().filter(|whole| *whole <= i32::MAX as u64).and_then(|whole| usize::try_from(whole).ok());
        whole.map(Some).ok_or_else(|| self.refused(key, &value, "must be a non-negative integer of 31 bits"))
    }

    /// As [`Keys::optional_whole`], and positive.
    pub(super) fn optional_count(&mut self, key: &str) -> Result<Option<usize>, String> {
        match self.optional_whole(key)? {
            Some(0) => Err(self.refused(key, &0.into(), "must be positive")),
            count => Ok(count),
        }
    }

    pub(super) fn count(&mut self, key: &str) -> Result<usize, String> {
        self.optional_count(key)?.ok_or_else(|| self.missing(key))
    }

    pub(super) fn optional_number(&mut self, key: &str) -> Result<Option<f64>, String> {
        match self.left.remove(key) {
            None => Ok(None),
            Some(value) => value.as_f64().map(Some).ok_or_else(|| self.refused(key, &value, "must be a number")),
        }
    }

    pub(super) fn number(&mut self, key: &str) -> Result<f64, String> {
        self.optional_number(key)?.ok_or_else(|| self.missing(key))
    }

    pub(super) fn optional_text(&mut self, key: &str) -> Result<Option<String>, String> {
        match self.left.remove(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.refused(key, &other, "must be a string")),
        }
    }

    /// Takes a key that is harmless with one value only.
    pub(super) fn only(&mut self, key: &str, harmless: &Value) -> Result<(), String> {
        match self.left.remove(key) {
            Some(value) if !equal(&value, harmless) => {
                Err(self.refused(key, &value, &format!("only {harmless} is supported")))
            }
            _ => Ok(()),
        }
    }

    /// Takes a key that changes nothing.
    pub(super) fn discard(&mut self, key: &str) {
        self.left.remove(key);
    }

    /// Refuses every key that is left.
    pub(super) fn finish(&self) -> Result<(), String> {
        if self.left.is_empty() {
            return Ok(());
        }
        let keys: Vec<String> =
            self.left.iter().map(|(key, value)| format!("`{}.{key}` = {value}", self.architecture)).collect();
        Err(format!("has metadata that may change the maths and is not known: {}", keys.join(", ")))
    }

    pub(super) fn refused(&self, key: &str, value: &Value, reason: &str) -> String {
        format!("`{}.{key}` = {value}: {reason}", self.architecture)
    }

    pub(super) fn missing(&self, key: &str) -> String {
        format!("lacks `{}.{key}`", self.architecture)
    }
}

/// Numbers are equal whatever type they are stored as.
fn equal(left: &Value, right: &Value) -> bool {
    left == right || left.as_f64().zip(right.as_f64()).is_some_and(|(left, right)| left == right)
}
