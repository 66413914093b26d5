//! Formats of dumps, and how they are told apart.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::error::Fault;
use super::{Place, Rollouts, canonical, exchanges, json, nemo_rl, origin, plumbline, prime_rl, request, slime};

/// How rollouts are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DumpFormat {
    /// One sequence of the API a record: `prompt_token_ids`, `completion_token_ids`, `logprobs`.
    Plumbline,
    /// One sequence a record, prompt and completion in one array: `token_ids`, `prompt_len`, `logprobs`.
    Canonical,
    /// A body of `POST /v1/verifications` a record.
    Request,
    /// A request to an engine and its response a record.
    Exchanges,
    /// NeMo-RL's `train_data_step{N}.jsonl`.
    NemoRl,
    /// prime-rl's `token_exports/step_{N}/rank_{R}.jsonl`.
    PrimeRl,
    /// slime's `Sample` as JSON.
    Slime,
    /// `engine_outputs.jsonl`: `prompt_ids`, `gen_ids`, `gen_logprobs`.
    EngineOutputs,
}

/// Not the name of a format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown format {0:?}, expected one of {names}", names = DumpFormat::ALL.map(DumpFormat::as_str).join(", "))]
pub struct UnknownFormat(String);

impl DumpFormat {
    /// All formats.
    pub const ALL: [Self; 8] = [
        Self::Plumbline,
        Self::Canonical,
        Self::Request,
        Self::Exchanges,
        Self::NemoRl,
        Self::PrimeRl,
        Self::Slime,
        Self::EngineOutputs,
    ];

    /// The name used on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plumbline => "plumbline",
            Self::Canonical => "canonical",
            Self::Request => "request",
            Self::Exchanges => "exchanges",
            Self::NemoRl => "nemo-rl",
            Self::PrimeRl => "prime-rl",
            Self::Slime => "slime",
            Self::EngineOutputs => "engine-outputs",
        }
    }

    /// The format of a record, by the names of its fields.
    pub(super) fn detect(record: &[u8]) -> Result<Self, Fault> {
        let fields: Fields = json::parse(record)?;
        let has = |name: &str| fields.0.contains(name);
        if has("request") && has("response") {
            return Ok(Self::Exchanges);
        }
        if has("sequences") || has("exchanges") {
            return Ok(Self::Request);
        }
        if has("samples") || (has("tokens") && (has("response_length") || has("rollout_log_probs"))) {
            return Ok(Self::Slime);
        }
        if has("gen_ids") && has("prompt_ids") {
            return Ok(Self::EngineOutputs);
        }
        if has("prompt_token_ids") && has("completion_token_ids") {
            return Ok(Self::Plumbline);
        }
        if has("token_ids") {
            if has("generation_logprobs") {
                return Ok(Self::NemoRl);
            }
            if has("inference_logprobs") {
                return Ok(Self::PrimeRl);
            }
            if has("logprobs") {
                return Ok(Self::Canonical);
            }
        }
        if has("content") && has("input_lengths") {
            return Err(Fault::record(
                "this NeMo-RL dump has no token ids and logprobs; versions that write token_ids, generation_logprobs and \
                 prev_logprobs are needed",
            ));
        }
        if has("input") && has("output") && has("step") {
            return Err(Fault::record(
                "this looks like verl's text dump (rollout_data_dir), which has no token ids and logprobs: nothing can be verified",
            ));
        }
        let names: Vec<_> = fields.0.iter().take(12).map(String::as_str).collect();
        Err(Fault::record(format!("no known format has a record with the fields {}", names.join(", "))))
    }

    /// Reads one record.
    pub(super) fn read(self, record: &[u8], place: &Place<'_>) -> Result<Rollouts, Fault> {
        match self {
            Self::Plumbline => plumbline::read(record, place),
            Self::Canonical => canonical::read(record, place),
            Self::Request => request::read(record, place),
            Self::Exchanges => exchanges::read(record, place),
            Self::NemoRl => nemo_rl::read(record, place),
            Self::PrimeRl => prime_rl::read(record, place),
            Self::Slime => slime::read(record, place),
            Self::EngineOutputs => origin::read(record, place),
        }
    }
}

impl fmt::Display for DumpFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for DumpFormat {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        Self::ALL.into_iter().find(|format| format.as_str() == name).ok_or_else(|| UnknownFormat(name.to_owned()))
    }
}

/// Names of the fields of an object; their values are skipped.
struct Fields(BTreeSet<String>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;

        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut names = BTreeSet::new();
                while let Some((name, _)) = map.next_entry::<String, IgnoredAny>()? {
                    names.insert(name);
                }
                Ok(Fields(names))
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for format in DumpFormat::ALL {
            assert_eq!(format.as_str().parse(), Ok(format));
        }
        let error = "verl".parse::<DumpFormat>().unwrap_err().to_string();
        assert!(error.contains("verl") && error.contains("nemo-rl"), "{error}");
    }

    #[test]
    fn what_cannot_be_verified_is_said() {
        let reason = |record: &str| DumpFormat::detect(record.as_bytes()).unwrap_err().reason;
        assert!(reason(r#"{"input":"a","output":"b","gts":1,"score":1,"step":3}"#).contains("verl"));
        assert!(reason(r#"{"content":["a"],"rewards":[1],"input_lengths":[3]}"#).contains("NeMo-RL"));
        assert!(reason(r#"{"a":1,"b":2}"#).ends_with("the fields a, b"));
        assert!(reason("[1]").contains("expected an object"));
        assert!(reason("{\"a\":").contains("cut off"));
    }
}
