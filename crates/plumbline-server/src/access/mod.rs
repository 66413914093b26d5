//! Who may do what: API keys with roles, and the one table that says which route needs which role.

mod keys;
mod roles;
mod rules;

pub(crate) use self::keys::{ApiKeys, Caller};
#[cfg(test)]
pub(crate) use self::roles::Role;
pub(crate) use self::rules::{Access, Need, describe};
