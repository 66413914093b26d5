//! How engines are named on the command line.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, bail};
use plumbline_core::LogprobsMode;
use plumbline_engines::drivers::{ApiKey, DriverKind};
use serde::de::IntoDeserializer;
use serde::{Deserialize, de};

/// One engine: `KIND=URL`, then its name is the kind's, or `NAME=KIND@URL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EngineSpec {
    pub(super) name: String,
    pub(super) kind: DriverKind,
    pub(super) url: String,
}

impl FromStr for EngineSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (left, right) = text.split_once('=').ok_or("expected KIND=URL or NAME=KIND@URL")?;
        // A URL may hold an `@` itself.
        let kind_before_url = right.split_once('@').filter(|(kind, _)| !kind.contains("://"));
        let (kind, url) = match kind_before_url {
            Some((kind, url)) => (kind.parse()?, url),
            None => (left.parse().map_err(|error| format!("{error}; with a name of your own: NAME=KIND@URL"))?, right),
        };
        check_name(left)?;
        Ok(Self { name: left.to_owned(), kind, url: url.to_owned() })
    }
}

/// Names are labels in reports and parts of ids.
fn check_name(name: &str) -> Result<(), String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(good) {
        return Err(format!("the name {name:?} must be 1 to 64 letters, digits, dots, dashes or underscores"));
    }
    Ok(())
}

/// Something said of one engine: `NAME=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OfEngine<T> {
    pub(super) name: String,
    pub(super) value: T,
}

impl<T: FromStr> FromStr for OfEngine<T>
where
    T::Err: fmt::Display,
{
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
        Ok(Self { name: name.to_owned(), value: value.parse().map_err(|error: T::Err| error.to_string())? })
    }
}

/// Where an API key is: never on the command line itself, which other users of the machine can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeySource {
    Environment(String),
    File(PathBuf),
}

impl FromStr for KeySource {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() => Ok(Self::Environment(name.to_owned())),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => Err("expected env:VARIABLE or file:PATH"),
        }
    }
}

impl KeySource {
    pub(super) fn read(&self) -> anyhow::Result<ApiKey> {
        let text = match self {
            Self::Environment(name) => {
                std::env::var(name).with_context(|| format!("the environment variable {name} with an API key"))?
            }
            Self::File(path) => {
                std::fs::read_to_string(path).with_context(|| format!("the API key file {}", path.display()))?
            }
        };
        match ApiKey::new(&text) {
            Ok(key) => Ok(key),
            Err(reason) => bail!("{self:?}: {reason}"),
        }
    }
}

/// A logprobs mode by its name on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mode(pub(super) LogprobsMode);

impl FromStr for Mode {
    type Err = de::value::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        LogprobsMode::deserialize(text.into_deserializer()).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_has_a_kind_an_address_and_a_name() {
        let spec = |text: &str| text.parse::<EngineSpec>();
        let plain = spec("vllm=http://127.0.0.1:8000").unwrap();
        assert_eq!((plain.name.as_str(), plain.kind), ("vllm", DriverKind::Vllm));
        let named = spec("bf16=vllm@http://h:1/a=b").unwrap();
        assert_eq!((named.name.as_str(), named.kind, named.url.as_str()), ("bf16", DriverKind::Vllm, "http://h:1/a=b"));
        let with_credentials = spec("sglang=http://me:pw@h").unwrap();
        assert_eq!(with_credentials.url, "http://me:pw@h");
        assert!(spec("http://127.0.0.1").is_err());
        assert!(spec("bf16=http://h").unwrap_err().contains("NAME=KIND@URL"));
        assert!(spec("a b=vllm@http://h").unwrap_err().contains("name"));
        assert!(spec("x=mine@http://h").unwrap_err().contains("known are"));
    }

    #[test]
    fn keys_come_from_the_environment_or_a_file() {
        let given: OfEngine<KeySource> = "bf16=env:KEY".parse().unwrap();
        assert_eq!(given, OfEngine { name: "bf16".into(), value: KeySource::Environment("KEY".into()) });
        assert_eq!("file:/a:b".parse(), Ok(KeySource::File("/a:b".into())));
        assert!("sk-secret".parse::<KeySource>().is_err());
        let error = KeySource::File("/nowhere/key".into()).read().unwrap_err();
        assert!(error.to_string().contains("/nowhere/key"), "{error}");
    }

    #[test]
    fn modes_have_their_wire_names() {
        assert_eq!("processed".parse(), Ok(Mode(LogprobsMode::Processed)));
        assert!("cooked".parse::<Mode>().is_err());
    }
}
