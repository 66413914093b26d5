//! Python's `json` writes NaN and infinities as bare words, which JSON does not have.
//!
//! An engine's NaN must be counted as one and not hide behind "malformed", so the words are put in quotes, where the
//! deserialiser of logprobs understands them. Everywhere else a string is the wrong type and is refused as such.

/// The bare words, longest first where one ends in the other.
const WORDS: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];

/// A body whose bare words stand in quotes.
#[derive(Debug)]
pub struct Quoted {
    /// The body.
    pub bytes: Vec<u8>,
    /// Line (from 1) and column (from 1) after each quoted word, in `bytes`.
    ends: Vec<(usize, usize)>,
}

impl Quoted {
    /// The column in the original body of a position in [`Quoted::bytes`]; quoting adds no lines.
    #[must_use]
    pub fn original_column(&self, line: usize, column: usize) -> usize {
        let before = self.ends.iter().filter(|(end_line, end)| *end_line == line && *end <= column).count();
        column.saturating_sub(2 * before)
    }
}

/// Puts bare `NaN`, `Infinity` and `-Infinity` outside strings in quotes; `None` if there are none.
#[must_use]
pub fn quote_non_finite(body: &[u8]) -> Option<Quoted> {
    let mut quoted = Quoted { bytes: Vec::new(), ends: Vec::new() };
    let (mut copied, mut index) = (0, 0);
    let (mut line, mut line_start) = (1, 0);
    let mut in_string = false;
    while index < body.len() {
        match body[index] {
            b'\\' if in_string => index += 1,
            b'"' => in_string = !in_string,
            b'\n' => (line, line_start) = (line + 1, index + 1),
            b'N' | b'I' | b'-' if !in_string => {
                if let Some(word) = word_at(body, index) {
                    quoted.bytes.extend_from_slice(&body[copied..index]);
                    quoted.bytes.push(b'"');
                    quoted.bytes.extend_from_slice(word);
                    quoted.bytes.push(b'"');
                    index += word.len();
                    copied = index;
                    let added = 2 * (1 + quoted.ends.iter().rev().take_while(|(at, _)| *at == line).count());
                    quoted.ends.push((line, index - line_start + added + 1));
                    continue;
                }
            }
            _ => {}
        }
        index += 1;
    }
    if quoted.ends.is_empty() {
        return None;
    }
    quoted.bytes.extend_from_slice(&body[copied..]);
    Some(quoted)
}

/// The bare word that stands at `index` as a whole value.
fn word_at(body: &[u8], index: usize) -> Option<&'static [u8]> {
    let word = WORDS.into_iter().find(|word| body[index..].starts_with(word))?;
    let opens = |byte: &u8| matches!(byte, b'[' | b',' | b':') || byte.is_ascii_whitespace();
    let closes = |byte: &u8| matches!(byte, b']' | b',' | b'}') || byte.is_ascii_whitespace();
    let before = index.checked_sub(1).is_none_or(|before| opens(&body[before]));
    let after = body.get(index + word.len()).is_none_or(closes);
    // A name of a field is none, with white space behind it neither.
    let is_name = body[index + word.len()..].trim_ascii_start().first() == Some(&b':');
    (before && after && !is_name).then_some(word)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quote(body: &str) -> Option<String> {
        quote_non_finite(body.as_bytes()).map(|quoted| String::from_utf8(quoted.bytes).unwrap())
    }

    #[test]
    fn bare_words_are_quoted_and_strings_are_left_alone() {
        assert_eq!(quote("[NaN,Infinity, -Infinity]").unwrap(), r#"["NaN","Infinity", "-Infinity"]"#);
        assert_eq!(quote(r#"{"NaN":"[NaN]","a\"NaN":NaN}"#).unwrap(), r#"{"NaN":"[NaN]","a\"NaN":"NaN"}"#);
        assert_eq!(quote(r#"["NaN,", "\\", -1, null]"#), None);
        assert_eq!(quote("NaN").unwrap(), "\"NaN\"");
    }

    #[test]
    fn what_is_no_whole_value_stays_malformed() {
        for body in ["[NaNs]", "[xNaN]", "[-NaN]", "[Infinit]", "[--Infinity]", "{NaN:1}", "{NaN \n:1}"] {
            assert_eq!(quote(body), None, "{body}");
        }
    }

    #[test]
    fn columns_are_those_of_the_original() {
        let body = "[NaN, NaN,\nNaN, x]";
        let quoted = quote_non_finite(body.as_bytes()).unwrap();
        let error = serde_json::from_slice::<serde_json::Value>(&quoted.bytes).unwrap_err();
        assert_eq!((error.line(), error.column()), (2, 8));
        assert_eq!(quoted.original_column(2, 8), 6);
        assert_eq!(quoted.original_column(1, 1), 1);
        assert_eq!(quoted.original_column(1, 16), 12);
    }

    /// JSON-like text: values with bare words and hostile strings, between whitespace.
    fn value() -> impl Strategy<Value = (String, serde_json::Value)> {
        let leaf = prop_oneof![
            Just(("NaN".to_owned(), "NaN".into())),
            Just(("Infinity".to_owned(), "Infinity".into())),
            Just(("-Infinity".to_owned(), "-Infinity".into())),
            Just(("null".to_owned(), serde_json::Value::Null)),
            any::<i32>().prop_map(|number| (number.to_string(), number.into())),
            r#"[ \\"\[\],:NaInfity\n-]{0,12}"#.prop_map(|text| {
                let json = serde_json::Value::from(text);
                (json.to_string(), json)
            }),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            (prop::collection::vec((inner, "[ \n\t]{0,2}"), 0..6), any::<bool>()).prop_map(|(items, object)| {
                let texts = items.iter().enumerate().map(|(index, ((text, _), space))| {
                    if object {
                        format!("{space}\"NaN{index}\":{space}{text}{space}")
                    } else {
                        format!("{space}{text}{space}")
                    }
                });
                let text = texts.collect::<Vec<_>>().join(",");
                let values = items.into_iter().map(|((_, value), _)| value);
                if object {
                    let entries = values.enumerate().map(|(index, value)| (format!("NaN{index}"), value));
                    (format!("{{{text}}}"), serde_json::Value::Object(entries.collect()))
                } else {
                    (format!("[{text}]"), serde_json::Value::Array(values.collect()))
                }
            })
        })
    }

    proptest! {
        #[test]
        fn quoted_bodies_parse_to_what_was_meant((text, expected) in value()) {
            let bytes = quote_non_finite(text.as_bytes()).map_or_else(|| text.clone().into_bytes(), |quoted| quoted.bytes);
            prop_assert_eq!(serde_json::from_slice::<serde_json::Value>(&bytes).unwrap(), expected);
        }

        #[test]
        fn valid_json_is_never_touched((text, _) in value()) {
            if serde_json::from_str::<serde_json::Value>(&text).is_ok() {
                prop_assert!(quote_non_finite(text.as_bytes()).is_none());
            }
        }

        /// Any bytes: only quotes are added, two for each word.
        #[test]
        fn nothing_but_quotes_is_added(body in prop::collection::vec(prop::sample::select(&b"NaInfity-\"\\[],: \n1"[..]), 0..60)) {
            if let Some(quoted) = quote_non_finite(&body) {
                prop_assert_eq!(quoted.bytes.len(), body.len() + 2 * quoted.ends.len());
                let without = |bytes: &[u8]| bytes.iter().copied().filter(|byte| *byte != b'"').collect::<Vec<_>>();
                prop_assert_eq!(without(&quoted.bytes), without(&body));
            }
        }
    }
}
