//! Array elements that are stricter, or more lenient, than their plain Rust types.

use std::fmt;
use std::marker::PhantomData;

use plumbline_core::{LogprobsMode, TokenId};
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, SeqAccess, Unexpected, Visitor};

/// How the deserialiser says that an integer can be no token id, whatever the model; see `super::errors`.
pub(super) const IMPOSSIBLE_TOKEN_ID: &str = "no vocabulary has a token id ";

/// Reads an array through elements of type `E`.
pub(super) fn array<'de, D: Deserializer<'de>, E: Deserialize<'de> + Into<T>, T>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    Ok(Vec::<E>::deserialize(deserializer)?.into_iter().map(Into::into).collect())
}

/// The same for an array that may be absent or null.
pub(super) fn optional_array<'de, D: Deserializer<'de>, E: Deserialize<'de> + Into<T>, T>(
    deserializer: D,
) -> Result<Option<Vec<T>>, D::Error> {
    Ok(Option::<Vec<E>>::deserialize(deserializer)?.map(|array| array.into_iter().map(Into::into).collect()))
}

/// Elements that are kept of the request's list of sequences or exchanges: no configuration allows more in one request.
pub(crate) const MAX_SEQUENCES: usize = 1 << 16;

/// A list of which no more is kept than could be used: a body of millions of elements takes no memory before it is refused.
#[derive(Debug)]
pub(crate) struct Bounded<T> {
    /// The first ones.
    pub(crate) kept: Vec<T>,
    /// How many there are.
    pub(crate) count: usize,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Bounded<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BoundedVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for BoundedVisitor<T> {
            type Value = Bounded<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a sequence")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Bounded<T>, A::Error> {
                let mut kept = Vec::new();
                while kept.len() < MAX_SEQUENCES
                    && let Some(element) = elements.next_element()?
                {
                    kept.push(element);
                }
                let mut count = kept.len();
                while count >= MAX_SEQUENCES && elements.next_element::<IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(Bounded { kept, count })
            }
        }
        deserializer.deserialize_seq(BoundedVisitor(PhantomData))
    }
}

/// Reads a logprobs mode, or null, also by vLLM's names.
pub(super) fn optional_mode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<LogprobsMode>, D::Error> {
    const NAMES: &[&str] = &["raw", "temperature", "processed", "raw_logprobs", "processed_logprobs"];
    let name = Option::<String>::deserialize(deserializer)?;
    name.map(|name| match name.as_str() {
        "raw" | "raw_logprobs" => Ok(LogprobsMode::Raw),
        "temperature" => Ok(LogprobsMode::Temperature),
        "processed" | "processed_logprobs" => Ok(LogprobsMode::Processed),
        other => Err(D::Error::unknown_variant(other, NAMES)),
    })
    .transpose()
}

/// A token id. One that does not fit 32 bits is out of every vocabulary, which is not the same as a wrong type.
pub(super) struct Id(TokenId);

impl From<Id> for TokenId {
    fn from(id: Id) -> Self {
        id.0
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IdVisitor;

        impl Visitor<'_> for IdVisitor {
            type Value = Id;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a token id (an unsigned integer)")
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Id, E> {
                TokenId::try_from(value).map(Id).map_err(|_| E::custom(format_args!("{IMPOSSIBLE_TOKEN_ID}{value}")))
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Id, E> {
                // An integer beyond 64 bits arrives as a float.
                if value.fract() == 0.0 && value > u64::MAX as f64 / 2.0 {
                    return Err(E::custom(format_args!("{IMPOSSIBLE_TOKEN_ID}{value}")));
                }
                Err(E::invalid_type(Unexpected::Float(value), &self))
            }
        }
        deserializer.deserialize_any(IdVisitor)
    }
}

/// An element of a loss mask: 0, 1, false or true.
pub(super) struct Kept(bool);

impl From<Kept> for bool {
    fn from(kept: Kept) -> Self {
        kept.0
    }
}

impl<'de> Deserialize<'de> for Kept {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeptVisitor;

        impl Visitor<'_> for KeptVisitor {
            type Value = Kept;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("0, 1, false or true")
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<Kept, E> {
                Ok(Kept(value))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Kept, E> {
                match value {
                    0 => Ok(Kept(false)),
                    1 => Ok(Kept(true)),
                    _ => Err(E::invalid_value(Unexpected::Unsigned(value), &self)),
                }
            }
        }
        deserializer.deserialize_any(KeptVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: for<'de> Deserialize<'de>>(json: &str) -> Result<T, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn ids_are_unsigned_integers() {
        assert_eq!(read::<Id>("4294967295").map(TokenId::from), Ok(u32::MAX));
        for impossible in ["4294967296", "18446744073709551616", "1e30"] {
            let error = read::<Id>(impossible).err().unwrap();
            assert!(error.starts_with(IMPOSSIBLE_TOKEN_ID), "{error}");
        }
        for wrong in ["-1", "1.5", "7.0", "\"7\"", "null", "true"] {
            let error = read::<Id>(wrong).err().unwrap();
            assert!(error.starts_with("invalid type"), "{error}");
        }
    }

    #[test]
    fn masks_are_bits() {
        let value = |json| read::<Kept>(json).map(bool::from);
        assert_eq!((value("0"), value("1"), value("true"), value("false")), (Ok(false), Ok(true), Ok(true), Ok(false)));
        for wrong in ["2", "-1", "1.0", "\"1\"", "null"] {
            assert!(value(wrong).is_err(), "{wrong}");
        }
    }
}
