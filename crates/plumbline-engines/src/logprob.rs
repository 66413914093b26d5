//! Logprobs as bodies and dumps write them.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};

/// A logprob in nats: a number, `null` (`None`), or a name of what JSON has no number for (`"NaN"`, `"Infinity"`, `"-Infinity"`).
#[derive(Clone, Copy, Debug)]
pub struct Logprob(Option<f64>);

impl From<Logprob> for Option<f64> {
    fn from(logprob: Logprob) -> Self {
        logprob.0
    }
}

impl<'de> Deserialize<'de> for Logprob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LogprobVisitor;

        impl Visitor<'_> for LogprobVisitor {
            type Value = Logprob;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, null, NaN, Infinity or -Infinity")
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Logprob, E> {
                Ok(Logprob(Some(value)))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Logprob, E> {
                Ok(Logprob(Some(value as f64)))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Logprob, E> {
                Ok(Logprob(Some(value as f64)))
            }

            fn visit_unit<E: Error>(self) -> Result<Logprob, E> {
                Ok(Logprob(None))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Logprob, E> {
                match text {
                    "NaN" => Ok(Logprob(Some(f64::NAN))),
                    "Infinity" => Ok(Logprob(Some(f64::INFINITY))),
                    "-Infinity" => Ok(Logprob(Some(f64::NEG_INFINITY))),
                    _ => Err(E::invalid_type(Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(LogprobVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: for<'de> Deserialize<'de>>(json: &str) -> Result<T, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn logprobs_may_be_missing_or_not_finite() {
        let value = |json| read::<Logprob>(json).map(Option::<f64>::from);
        assert_eq!(value("-1.5"), Ok(Some(-1.5)));
        assert_eq!(value("-2"), Ok(Some(-2.0)));
        assert_eq!(value("0"), Ok(Some(0.0)));
        assert_eq!(value("null"), Ok(None));
        assert!(value("\"NaN\"").unwrap().unwrap().is_nan());
        assert_eq!(value("\"-Infinity\""), Ok(Some(f64::NEG_INFINITY)));
        assert_eq!(value("\"Infinity\""), Ok(Some(f64::INFINITY)));
        assert!(value("\"nan\"").is_err() && value("true").is_err() && value("[1]").is_err());
    }
}
