//! API keys: a fixed set from a file, compared in constant time, never logged.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::{Choice, ConstantTimeEq};

use super::PROBES;
use crate::ServerError;
use crate::problem::{Code, Problem};

/// The accepted keys; none = every request is accepted.
#[derive(Clone, Default)]
pub(crate) struct ApiKeys(Arc<[String]>);

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKeys({} keys)", self.0.len())
    }
}

impl ApiKeys {
    /// Reads one key a line; blank lines and those that start with `#` do not count.
    ///
    /// # Errors
    /// A file that cannot be read, holds no key, or one that cannot be sent in a header.
    pub(crate) fn read(path: &Path) -> Result<Self, ServerError> {
        let refuse = |reason: String| ServerError::ApiKeys { path: path.to_owned(), reason };
        let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
        let mut keys = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let key = line.trim();
            if key.is_empty() || key.starts_with('#') {
                continue;
            }
            if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(refuse(format!("line {} has characters other than printable ASCII", index + 1)));
            }
            keys.push(key.to_owned());
        }
        if keys.is_empty() {
            return Err(refuse("there is no key in it".into()));
        }
        Ok(Self(keys.into()))
    }

    fn accept(&self, headers: &HeaderMap) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
            let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
        });
        let Some(given) = bearer else { return false };
        // Every key is compared, so that the time does not tell which one came close.
        let found = self.0.iter().fold(Choice::from(0), |found, key| found | key.as_bytes().ct_eq(given.as_bytes()));
        found.into()
    }
}

/// Lets only requests with a key through, except to the probes.
pub(crate) async fn guard(State(keys): State<ApiKeys>, request: Request, next: Next) -> Response {
    if PROBES.contains(&request.uri().path()) || keys.accept(request.headers()) {
        return next.run(request).await;
    }
    Problem::new(Code::Unauthorized, "send an API key as \"Authorization: Bearer KEY\"").into_response()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use axum::http::HeaderValue;

    use super::*;

    fn read(name: &str, text: &str) -> Result<ApiKeys, ServerError> {
        let path = std::env::temp_dir().join(format!("plumbline-keys-{}-{name}", std::process::id()));
        fs::write(&path, text).unwrap();
        let keys = ApiKeys::read(&path);
        fs::remove_file(&path).unwrap();
        keys
    }

    fn accepts(keys: &ApiKeys, authorization: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_str(authorization).unwrap());
        keys.accept(&headers)
    }

    #[test]
    fn any_key_of_the_file_is_accepted_and_nothing_else() {
        let keys = read("good", "# workers\nfirst-key\n\n second-key \n").unwrap();
        assert!(accepts(&keys, "Bearer first-key") && accepts(&keys, "bearer second-key"));
        for bad in ["Bearer first-ke", "Bearer # workers", "Bearer ", "Bearer", "Basic first-key", "first-key"] {
            assert!(!accepts(&keys, bad), "{bad}");
        }
        assert!(!keys.accept(&HeaderMap::new()));
        assert!(ApiKeys::default().accept(&HeaderMap::new()));
        assert_eq!(format!("{keys:?}"), "ApiKeys(2 keys)");
    }

    #[test]
    fn a_file_without_usable_keys_is_an_error() {
        assert!(read("empty", "# nothing\n\n").unwrap_err().to_string().contains("no key"));
        let error = read("spaces", "good\ntwo words\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && !error.contains("two words"), "{error}");
        assert!(matches!(ApiKeys::read(Path::new("/no/such/file")), Err(ServerError::ApiKeys { .. })));
    }
}
