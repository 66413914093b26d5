//! A place in an exchange: a JSON value that knows its pointer.

use plumbline_core::TokenId;
use serde_json::{Map, Value};

use super::error::{ExchangeError, ExchangeErrorCode as Code, Found};

/// How much of an offending value an error quotes.
const QUOTED_CHARS: usize = 60;

/// A value, and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<'a> {
    pub(super) value: &'a Value,
    /// `/request` or `/response`.
    root: &'static str,
    /// Pointer from the root.
    inner: String,
    /// The value does not stand in the exchange as such: it was put together from a string at the root.
    assembled: bool,
}

impl<'a> At<'a> {
    /// A value that stands in the exchange.
    pub(super) fn new(root: &'static str, value: &'a Value) -> Self {
        Self { value, root, inner: String::new(), assembled: false }
    }

    /// A value that was put together from the string at `root`.
    pub(super) fn assembled(root: &'static str, value: &'a Value) -> Self {
        Self { assembled: true, ..Self::new(root, value) }
    }

    fn child(&self, key: &str, value: &'a Value) -> Self {
        Self { value, root: self.root, inner: format!("{}/{key}", self.inner), assembled: self.assembled }
    }

    /// A field of an object; `None` if it is missing or null, or this is no object.
    pub(super) fn field(&self, key: &str) -> Option<Self> {
        self.value.get(key).filter(|value| !value.is_null()).map(|value| self.child(key, value))
    }

    /// The field, or what lacks it: for an error that is about either.
    pub(super) fn field_or_here(&self, key: &str) -> Self {
        self.field(key).unwrap_or_else(|| self.clone())
    }

    /// A field of a field.
    pub(super) fn path(&self, keys: &[&str]) -> Option<Self> {
        keys.iter().try_fold(self.clone(), |at, key| at.field(key))
    }

    /// The field, or the error that it is missing.
    pub(super) fn required(&self, key: &str) -> Found<Self> {
        self.field(key).ok_or_else(|| self.missing(key, Code::MissingField, "is missing"))
    }

    /// An element of an array.
    pub(super) fn element(&self, index: usize) -> Option<Self> {
        self.value.get(index).map(|value| self.child(&index.to_string(), value))
    }

    /// The elements of an array.
    pub(super) fn elements(&self) -> Found<impl Iterator<Item = At<'a>> + use<'a, '_>> {
        let array = self.array()?;
        Ok(array.iter().enumerate().map(|(index, value)| self.child(&index.to_string(), value)))
    }

    pub(super) fn array(&self) -> Found<&'a Vec<Value>> {
        self.value.as_array().ok_or_else(|| self.wrong_type("an array"))
    }

    pub(super) fn object(&self) -> Found<&'a Map<String, Value>> {
        self.value.as_object().ok_or_else(|| self.wrong_type("an object"))
    }

    pub(super) fn string(&self) -> Found<&'a str> {
        self.value.as_str().ok_or_else(|| self.wrong_type("a string"))
    }

    pub(super) fn number(&self) -> Found<f64> {
        self.value.as_f64().ok_or_else(|| self.wrong_type("a number"))
    }

    pub(super) fn integer(&self) -> Found<i64> {
        // Some clients write 20.0 for 20.
        let whole = |value: f64| (value.fract() == 0.0 && value.abs() < 1e15).then_some(value as i64);
        self.value.as_i64().or_else(|| self.value.as_f64().and_then(whole)).ok_or_else(|| self.wrong_type("an integer"))
    }

    pub(super) fn count(&self) -> Found<usize> {
        self.value
            .as_u64()
            .and_then(|value| usize::try_from(value).ok())
            .ok_or_else(|| self.wrong_type("an unsigned integer"))
    }

    pub(super) fn boolean(&self) -> Found<bool> {
        self.value.as_bool().ok_or_else(|| self.wrong_type("true or false"))
    }

    pub(super) fn id(&self) -> Found<TokenId> {
        id(self.value).map_err(|reason| self.refused_id(reason))
    }

    /// An array of token ids.
    pub(super) fn ids(&self) -> Found<Vec<TokenId>> {
        let read = |(index, value)| id(value).map_err(|reason| self.child_error(index, |at| at.refused_id(reason)));
        self.array()?.iter().enumerate().map(read).collect()
    }

    /// An array of logprobs, see [`logprob`].
    pub(super) fn logprobs(&self) -> Found<Vec<Option<f64>>> {
        let wrong = |index| self.child_error(index, |at| at.wrong_type("a number or null"));
        self.array()?.iter().enumerate().map(|(index, value)| logprob(value).ok_or_else(|| wrong(index))).collect()
    }

    /// A logprob, see [`logprob`].
    pub(super) fn logprob(&self) -> Found<Option<f64>> {
        logprob(self.value).ok_or_else(|| self.wrong_type("a number or null"))
    }

    fn child_error(&self, index: usize, error: impl FnOnce(At<'a>) -> ExchangeError) -> ExchangeError {
        error(self.element(index).unwrap_or_else(|| self.clone()))
    }

    fn refused_id(&self, reason: RefusedId) -> ExchangeError {
        match reason {
            RefusedId::Type => self.wrong_type("a token id (an unsigned integer)"),
            RefusedId::Impossible => {
                self.error(Code::TokenOutOfVocabulary, format!("no vocabulary has a token id {}", self.quoted()))
            }
        }
    }

    /// The place's pointer, relative to the exchange.
    pub(super) fn pointer(&self) -> String {
        if self.assembled { self.root.to_owned() } else { format!("{}{}", self.root, self.inner) }
    }

    /// Whether elements have pointers of their own.
    pub(super) fn is_assembled(&self) -> bool {
        self.assembled
    }

    /// An error about this place.
    pub(super) fn error(&self, code: Code, detail: impl Into<String>) -> ExchangeError {
        let detail = detail.into();
        let detail = if self.assembled && !self.inner.is_empty() {
            format!("{} of the streamed response: {detail}", self.inner)
        } else {
            detail
        };
        ExchangeError { code, pointer: self.pointer(), detail }
    }

    /// An error about a field that is not there.
    pub(super) fn missing(&self, key: &str, code: Code, detail: impl Into<String>) -> ExchangeError {
        let place = Self { inner: format!("{}/{key}", self.inner), ..self.clone() };
        place.error(code, detail)
    }

    fn wrong_type(&self, expected: &str) -> ExchangeError {
        self.error(Code::InvalidType, format!("is {}, must be {expected}", self.quoted()))
    }

    /// The beginning of the value, for people.
    fn quoted(&self) -> String {
        match self.value {
            Value::Array(_) => "an array".into(),
            Value::Object(_) => "an object".into(),
            Value::String(text) => match text.char_indices().nth(QUOTED_CHARS) {
                Some((end, _)) => format!("{:?}...", &text[..end]),
                None => format!("{text:?}"),
            },
            other => other.to_string(),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum RefusedId {
    Type,
    Impossible,
}

fn id(value: &Value) -> Result<TokenId, RefusedId> {
    match (value.as_u64(), value.as_f64()) {
        (Some(id), _) => TokenId::try_from(id).map_err(|_| RefusedId::Impossible),
        // An integer beyond 64 bits is held as a float.
        (None, Some(float)) if float.fract() == 0.0 && float > u64::MAX as f64 / 2.0 => Err(RefusedId::Impossible),
        _ => Err(RefusedId::Type),
    }
}

/// A number, `null`, or a name of what JSON has no number for.
fn logprob(value: &Value) -> Option<Option<f64>> {
    match value {
        Value::Null => Some(None),
        Value::Number(number) => number.as_f64().map(Some),
        Value::String(name) => match name.as_str() {
            "NaN" => Some(Some(f64::NAN)),
            "Infinity" => Some(Some(f64::INFINITY)),
            "-Infinity" => Some(Some(f64::NEG_INFINITY)),
            _ => None,
        },
        _ => None,
    }
}
