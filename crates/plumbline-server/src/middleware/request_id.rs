//! One id per request, in the answer, in problems and in the log.

use std::fmt;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

/// The header in which the id comes and goes.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id that is taken over from a client.
const MAX_LEN: usize = 128;

/// The sender's id if it is short and harmless in logs, else a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestId(String);

impl RequestId {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let sane = |id: &&str| {
            (1..=MAX_LEN).contains(&id.len())
                && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(&byte))
        };
        let sent = headers.get(X_REQUEST_ID).and_then(|value| value.to_str().ok()).filter(sane);
        Self(sent.map_or_else(|| Uuid::now_v7().simple().to_string(), str::to_owned))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn header_value(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.0).ok()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sane_ids_are_kept_and_others_replaced() {
        let of = |value: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(X_REQUEST_ID, HeaderValue::from_bytes(value).unwrap());
            RequestId::of(&headers).0
        };
        assert_eq!(of(b"job-7:step_3.1"), "job-7:step_3.1");
        for bad in [&b""[..], b"a b", b"a\"b", b"\xffx", &[b'x'; 129]] {
            let new = of(bad);
            assert_eq!(new.len(), 32);
            assert_ne!(new.as_bytes(), bad);
        }
        assert_ne!(RequestId::of(&HeaderMap::new()), RequestId::of(&HeaderMap::new()));
    }
}
