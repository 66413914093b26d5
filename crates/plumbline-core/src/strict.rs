//! Reading JSON as what it says, where serde's derives are lenient.

use serde::de::IntoDeserializer;
use serde::{Deserialize, Deserializer};

/// Makes structs readable from objects alone. Derived code also takes an array, whose elements it calls the fields in their order: a
/// `sampling` of `[0.5]` would be a temperature that nobody wrote.
///
/// The structs derive `Deserialize` with `#[serde(remote = "Self")]`, which makes the derived code a function of the struct's own.
#[macro_export]
macro_rules! objects_only {
    ($($object:ty),+ $(,)?) => {$(
        impl<'de> ::serde::Deserialize<'de> for $object {
            fn deserialize<D: ::serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Object;

                impl<'de> ::serde::de::Visitor<'de> for Object {
                    type Value = $object;

                    fn expecting(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                        f.write_str("an object")
                    }

                    fn visit_map<A: ::serde::de::MapAccess<'de>>(self, fields: A) -> Result<Self::Value, A::Error> {
                        // The struct's own function, not the trait's.
                        <$object>::deserialize(::serde::de::value::MapAccessDeserializer::new(fields))
                    }
                }
                deserializer.deserialize_map(Object)
            }
        }
    )+};
}

/// Reads one of a set of names, or null. serde_json alone calls anything but a string in their place a syntax error, and takes an
/// object with the name as its only field.
///
/// # Errors
/// Neither a string nor null, or a name that is none of the set.
pub fn optional_name<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Option::<String>::deserialize(deserializer)?.map(|name| T::deserialize(name.into_deserializer())).transpose()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use crate::Sampling;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(remote = "Self", deny_unknown_fields)]
    struct Pair {
        a: u32,
        b: Option<u32>,
    }

    crate::objects_only!(Pair);

    #[test]
    fn only_objects_are_objects() {
        let pair = |json: &str| serde_json::from_str::<Pair>(json).map_err(|error| error.to_string());
        assert_eq!(pair(r#"{"a":1}"#), Ok(Pair { a: 1, b: None }));
        assert!(pair("[1,2]").unwrap_err().starts_with("invalid type: sequence, expected an object"));
        assert!(pair("[]").is_err() && pair("1").is_err() && pair("null").is_err());
        assert!(pair(r#"{"a":1,"c":2}"#).unwrap_err().starts_with("unknown field `c`"));
        assert!(pair(r#"{"b":1}"#).unwrap_err().starts_with("missing field `a`"));
        assert!(pair(r#"{"a":1,"a":1}"#).unwrap_err().starts_with("duplicate field `a`"));
        assert_eq!(serde_json::from_str::<Option<Pair>>("null").unwrap(), None);
    }

    #[test]
    fn sampling_is_an_object_and_its_order_a_name() {
        let sampling = |json: &str| serde_json::from_str::<Sampling>(json).map_err(|error| error.to_string());
        assert_eq!(sampling("{}"), Ok(Sampling::default()));
        assert_eq!(sampling(r#"{"order":null,"temperature":0.5}"#).unwrap().temperature, 0.5);
        assert_eq!(sampling(r#"{"order":"tgi"}"#).unwrap().order.unwrap().as_str(), "tgi");
        for bad in ["[0.5]", r#"{"order":{"tgi":null}}"#, r#"{"order":"x"}"#, r#"{"order":1}"#] {
            assert!(sampling(bad).is_err(), "{bad}");
        }
        let written = serde_json::to_value(Sampling::default()).unwrap();
        assert_eq!(serde_json::from_value::<Sampling>(written).unwrap(), Sampling::default());
    }
}
