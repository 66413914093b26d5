//! What the headers of a request ask for beside its body.

use axum::http::{HeaderMap, HeaderName};

use crate::problem::{Code, Problem};

/// The sender's name for a request, under which it may be sent again.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// RFC 7240.
pub(crate) const PREFER: HeaderName = HeaderName::from_static("prefer");
pub(crate) const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// The preference to be answered before the work is done.
pub(crate) const RESPOND_ASYNC: &str = "respond-async";

/// Characters of a key at most.
const MAX_KEY: usize = 255;

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wishes {
    pub(crate) key: Option<String>,
    pub(crate) respond_async: bool,
}

impl Wishes {
    /// # Errors
    /// 400 for a key that is none.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
        let key = keys.next().map(|value| {
            let key = value.to_str().ok().map(str::trim).unwrap_or_default();
            let good = (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(|byte| (b' '..=b'~').contains(&byte));
            let detail = format!("Idempotency-Key must be 1 to {MAX_KEY} printable ASCII characters");
            good.then(|| key.to_owned()).ok_or_else(|| Problem::new(Code::InvalidIdempotencyKey, detail))
        });
        if keys.next().is_some() {
            return Err(Problem::new(Code::InvalidIdempotencyKey, "there is more than one Idempotency-Key"));
        }
        Ok(Self { key: key.transpose()?, respond_async: prefers_async(headers) })
    }
}

/// Whether one of the preferences is `respond-async`; others are left alone, as the RFC has it.
fn prefers_async(headers: &HeaderMap) -> bool {
    let values = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
    let mut preferences = values.flat_map(|value| value.split(','));
    preferences.any(|preference| {
        let name = preference.split([';', '=']).next().unwrap_or_default();
        name.trim().eq_ignore_ascii_case(RESPOND_ASYNC)
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn wishes(headers: &[(HeaderName, &str)]) -> Result<Wishes, &'static str> {
        let mut map = HeaderMap::new();
        headers.iter().for_each(|(name, value)| {
            map.append(name.clone(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        });
        Wishes::of(&map).map_err(|problem| problem.code.as_str())
    }

    #[test]
    fn preferences_are_found_among_others() {
        let asynchronous = |value: &str| wishes(&[(PREFER, value)]).unwrap().respond_async;
        for value in
            ["respond-async", "Respond-Async", "wait=10, respond-async", "respond-async; x=1", " respond-async "]
        {
            assert!(asynchronous(value), "{value}");
        }
        for value in ["", "wait=10", "return=minimal; respond-async", "not-respond-async"] {
            assert!(!asynchronous(value), "{value}");
        }
        assert!(wishes(&[(PREFER, "wait=1"), (PREFER, "respond-async")]).unwrap().respond_async);
        assert_eq!(wishes(&[]).unwrap(), Wishes::default());
    }

    #[test]
    fn keys_are_short_and_readable() {
        let key = |value: &str| wishes(&[(IDEMPOTENCY_KEY, value)]).map(|wishes| wishes.key);
        assert_eq!(key(" run 7/step:3 "), Ok(Some("run 7/step:3".into())));
        assert_eq!(key(&"x".repeat(255)), Ok(Some("x".repeat(255))));
        for bad in ["", " ", "é", &"x".repeat(256)] {
            assert_eq!(key(bad), Err("invalid_idempotency_key"), "{bad}");
        }
        assert!(wishes(&[(IDEMPOTENCY_KEY, "a"), (IDEMPOTENCY_KEY, "b")]).is_err());
    }
}
