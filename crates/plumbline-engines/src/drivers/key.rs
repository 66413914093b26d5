//! An API key that never shows.

use std::fmt;

/// A bearer token. Its `Debug` form hides it, and [`ApiKey::hide_in`] takes it out of what a server said.
#[derive(Clone)]
pub struct ApiKey(String);

impl ApiKey {
    /// A key; blanks and line ends around it are not part of it.
    ///
    /// # Errors
    /// An empty key, or one with characters that no header can carry.
    pub fn new(text: &str) -> Result<Self, &'static str> {
        let key = text.trim();
        if key.is_empty() {
            return Err("the API key is empty");
        }
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("the API key has characters that an HTTP header cannot carry");
        }
        Ok(Self(key.to_owned()))
    }

    /// The key itself, for the header.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }

    /// The text with the key replaced: a server may echo what it was sent.
    #[must_use]
    pub fn hide_in(&self, text: &str) -> String {
        text.replace(&self.0, "***")
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_does_not_show() {
        let key = ApiKey::new(" sk-secret\n").unwrap();
        assert_eq!(format!("{key:?}"), "ApiKey(***)");
        assert_eq!(key.expose(), "sk-secret");
        assert_eq!(key.hide_in("bad key sk-secret given"), "bad key *** given");
    }

    #[test]
    fn unusable_keys_are_refused() {
        assert!(ApiKey::new(" \n").is_err());
        assert!(ApiKey::new("a b").is_err());
        assert!(ApiKey::new("schlüssel").is_err());
    }
}
