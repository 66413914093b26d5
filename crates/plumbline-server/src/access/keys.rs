//! API keys: only their digests are kept, compared in constant time, never logged.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use axum::http::{HeaderMap, header};
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use subtle::ConstantTimeEq;

use super::roles::Roles;

/// Who sent a request: a key's name and roles, never the key. Stands in the extensions of a request that came with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) name: Arc<str>,
    pub(crate) roles: Roles,
}

/// A key as it is kept.
#[derive(Clone)]
struct Key {
    digest: [u8; SHA256_OUTPUT_LEN],
    caller: Caller,
}

/// The accepted keys, which may be exchanged while requests come; all clones see it.
#[derive(Clone)]
pub(crate) struct ApiKeys {
    /// `None` = nobody needs a key.
    keys: Arc<RwLock<Option<Arc<[Key]>>>>,
}

impl ApiKeys {
    /// No key is needed.
    pub(crate) fn open() -> Self {
        Self { keys: Arc::default() }
    }

    /// Reads keys, one an entry; entries are lines, or parts between semicolons. Blank ones and those that start with `#` do not
    /// count. An entry is `KEY` (all roles), `ROLES KEY` or `ROLES KEY NAME`, roles with commas between them.
    ///
    /// # Errors
    /// What is wrong with which entry, without a word of it; no key at all.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let keys = Self::open();
        keys.replace(&[text])?;
        Ok(keys)
    }

    /// The same from several texts into keys that are in use. On an error they stay as they are.
    pub(crate) fn replace(&self, texts: &[&str]) -> Result<(), String> {
        let mut keys: Vec<Key> = Vec::new();
        let entries = texts.iter().flat_map(|text| text.split(['\n', ';']));
        for (index, entry) in entries.map(str::trim).enumerate() {
            if entry.is_empty() || entry.starts_with('#') {
                continue;
            }
            let number = index + 1;
            let key = entry_of(entry, number).map_err(|reason| format!("entry {number} {reason}"))?;
            if keys.iter().any(|other| other.digest == key.digest) {
                return Err(format!("entry {number} has the key of an earlier one"));
            }
            keys.push(key);
        }
        if keys.is_empty() {
            return Err("there is no key in it".into());
        }
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Some(keys.into());
        Ok(())
    }

    /// Whether requests need a key at all.
    pub(crate) fn needed(&self) -> bool {
        self.current().is_some()
    }

    /// Whose key a request has, sent as `Authorization: Bearer KEY`.
    pub(crate) fn caller(&self, headers: &HeaderMap) -> Option<Caller> {
        let keys = self.current()?;
        let (scheme, given) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let given = digest(&SHA256, given.trim().as_bytes());
        // Digests are of one length, and every one is compared: the time tells nothing of any key.
        let matching = |found: Option<usize>, (index, key): (usize, &Key)| {
            if bool::from(key.digest.ct_eq(given.as_ref())) { Some(index) } else { found }
        };
        let found = keys.iter().enumerate().fold(None, matching)?;
        keys.get(found).map(|key| key.caller.clone())
    }

    fn current(&self) -> Option<Arc<[Key]>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKeys({} keys)", self.current().map_or(0, |keys| keys.len()))
    }
}

fn entry_of(entry: &str, number: usize) -> Result<Key, &'static str> {
    let words: Vec<_> = entry.split_whitespace().collect();
    let (roles, key, name) = match words[..] {
        [key] => (Some(Roles::ADMIN), key, None),
        [roles, key] => (Roles::parse(roles), key, None),
        [roles, key, name] => (Roles::parse(roles), key, Some(name)),
        _ => return Err("has more than roles, a key and a name"),
    };
    let roles = roles.ok_or("does not begin with roles (ingest, read, admin, with commas between them)")?;
    if !entry.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ' || byte == b'\t') {
        return Err("has characters other than printable ASCII");
    }
    let name = name.map_or_else(|| format!("key-{number}").into(), Into::into);
    let mut kept = [0; SHA256_OUTPUT_LEN];
    kept.copy_from_slice(digest(&SHA256, key.as_bytes()).as_ref());
    Ok(Key { digest: kept, caller: Caller { name, roles } })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;
    use crate::access::Role;

    fn caller(keys: &ApiKeys, authorization: &str) -> Option<Caller> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_str(authorization).unwrap());
        keys.caller(&headers)
    }

    #[test]
    fn a_key_has_the_roles_and_the_name_of_its_entry() {
        let keys = ApiKeys::parse("# keys\nall-of-it\n\n ingest w-1 workers \nread,ingest r-1;admin a-1").unwrap();
        let found = |key: &str| caller(&keys, &format!("Bearer {key}")).map(|c| format!("{} {}", c.name, c.roles));
        assert_eq!(found("all-of-it").as_deref(), Some("key-2 admin"));
        assert_eq!(found("w-1").as_deref(), Some("workers ingest"));
        assert_eq!(found("r-1").as_deref(), Some("key-5 ingest,read"));
        assert_eq!(found("a-1").as_deref(), Some("key-6 admin"));
        assert!(caller(&keys, "bearer w-1").is_some_and(|caller| caller.roles.allow(&[Role::Ingest])));
        for bad in
            ["Bearer w-", "Bearer w-11", "Bearer workers", "Bearer ", "Bearer", "Basic w-1", "w-1", "Bearer # keys"]
        {
            assert_eq!(caller(&keys, bad), None, "{bad}");
        }
        assert_eq!(keys.caller(&HeaderMap::new()), None);
        assert!(keys.needed() && !ApiKeys::open().needed());
    }

    #[test]
    fn what_cannot_be_used_is_named_without_being_shown() {
        for (text, part) in [
            ("# nothing\n\n", "no key"),
            ("good\nsecret words", "entry 2 does not begin with roles"),
            ("root secret", "entry 1 does not begin with roles"),
            ("read secret name more", "entry 1 has more than"),
            ("read s\u{e9}cret", "entry 1 has characters"),
            ("secret\nread secret", "entry 2 has the key of an earlier one"),
        ] {
            let error = ApiKeys::parse(text).unwrap_err();
            assert!(error.contains(part) && !error.contains("secret") && !error.contains("cret"), "{text}: {error}");
        }
    }

    #[test]
    fn keys_are_exchanged_for_all_who_hold_them_or_stay_as_they_are() {
        let keys = ApiKeys::parse("old").unwrap();
        let held = keys.clone();
        keys.replace(&["new"]).unwrap();
        assert!(caller(&held, "Bearer old").is_none() && caller(&held, "Bearer new").is_some());
        keys.replace(&["what is this"]).unwrap_err();
        assert!(caller(&held, "Bearer new").is_some());
    }

    #[test]
    fn keys_are_not_shown() {
        assert_eq!(format!("{:?}", ApiKeys::parse("k-1\nk-2").unwrap()), "ApiKeys(2 keys)");
    }
}
