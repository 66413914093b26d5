//! Values as dumps write them.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, IntoDeserializer, SeqAccess, Unexpected, Visitor};

/// Plain values.
pub(super) fn plain<T: Into<U>, U>(values: Vec<T>) -> Vec<U> {
    values.into_iter().map(Into::into).collect()
}

/// An element of a mask: false or true, 0 or 1, as an integer or (from a tensor of floats) as a float.
#[derive(Clone, Copy, Debug)]
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

            fn visit_f64<E: Error>(self, value: f64) -> Result<Kept, E> {
                match value {
                    0.0 => Ok(Kept(false)),
                    1.0 => Ok(Kept(true)),
                    _ => Err(E::invalid_value(Unexpected::Float(value), &self)),
                }
            }
        }
        deserializer.deserialize_any(KeptVisitor)
    }
}

/// A name that some writers give as a number: versions, indices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name(pub(super) String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;

        impl Visitor<'_> for NameVisitor {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name (a string or an integer)")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Name, E> {
                Ok(Name(text.to_owned()))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Name, E> {
                Ok(Name(value.to_string()))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Name, E> {
                Ok(Name(value.to_string()))
            }
        }
        deserializer.deserialize_any(NameVisitor)
    }
}

/// One value, or an array of them: what stands once in a record of one sample and as an array in a record of a batch.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    pub(super) fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrManyVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrManyVisitor<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value or an array of values")
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
                T::deserialize(value.into_deserializer()).map(OneOrMany::One)
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
                T::deserialize(value.into_deserializer()).map(OneOrMany::One)
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
                T::deserialize(value.into_deserializer()).map(OneOrMany::One)
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
                T::deserialize(value.into_deserializer()).map(OneOrMany::One)
            }

            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                T::deserialize(().into_deserializer()).map(OneOrMany::One)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                T::deserialize(text.into_deserializer()).map(OneOrMany::One)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
                let mut many = Vec::new();
                while let Some(value) = array.next_element()? {
                    many.push(value);
                }
                Ok(OneOrMany::Many(many))
            }
        }
        deserializer.deserialize_any(OneOrManyVisitor(PhantomData))
    }
}

/// A column of one sample (`[1, 2]`) or of a batch of samples (`[[1, 2], [3]]`).
#[derive(Clone, Debug)]
pub(super) struct Column<T>(pub(super) Vec<Vec<T>>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Column<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ColumnVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ColumnVisitor<T> {
            type Value = Column<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of values, or an array of such arrays")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
                let (mut flat, mut batch) = (Vec::new(), Vec::new());
                while let Some(value) = array.next_element::<OneOrMany<T>>()? {
                    match value {
                        OneOrMany::One(one) if batch.is_empty() => flat.push(one),
                        OneOrMany::Many(many) if flat.is_empty() => batch.push(many),
                        _ => return Err(A::Error::custom("holds values and arrays side by side")),
                    }
                }
                Ok(Column(if batch.is_empty() { vec![flat] } else { batch }))
            }
        }
        deserializer.deserialize_seq(ColumnVisitor(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(json: &str) -> Result<Vec<Vec<u32>>, String> {
        serde_json::from_str::<Column<u32>>(json).map(|column| column.0).map_err(|error| error.to_string())
    }

    #[test]
    fn columns_are_of_one_sample_or_of_a_batch() {
        assert_eq!(column("[1,2]"), Ok(vec![vec![1, 2]]));
        assert_eq!(column("[[1,2],[3]]"), Ok(vec![vec![1, 2], vec![3]]));
        assert_eq!(column("[]"), Ok(vec![vec![]]));
        for wrong in ["[1,[2]]", "[[1],2]", "[1.5]", "[-1]", "[4294967296]", "7", "[null]", "[[[1]]]"] {
            assert!(column(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn masks_are_bits_of_any_type() {
        let mask: Vec<Kept> = serde_json::from_str("[0,1,true,false,1.0,0.0]").unwrap();
        assert_eq!(plain::<_, bool>(mask), [false, true, true, false, true, false]);
        for wrong in ["2", "0.5", "-1", "null", "\"1\""] {
            assert!(serde_json::from_str::<Kept>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_may_be_numbers() {
        let name = |json| serde_json::from_str::<Name>(json).map(|name| name.0).ok();
        assert_eq!((name("7"), name("\"a\""), name("-1")), (Some("7".into()), Some("a".into()), Some("-1".into())));
        assert_eq!((name("1.5"), name("null")), (None, None));
        let many: OneOrMany<Name> = serde_json::from_str("[1,\"b\"]").unwrap();
        assert_eq!(many.into_vec().len(), 2);
    }
}
