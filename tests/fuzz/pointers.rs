//! Whether a JSON pointer points at something, in the text of a body as it was sent.
//!
//! The text may hold what no document can (bare `NaN`, `1e999`, lone surrogates, fields that appear twice, any depth), so it is
//! not parsed but walked. It must be JSON but for that.

/// Whether the text has a value at `pointer`.
pub(crate) fn exists(text: &[u8], pointer: &str) -> bool {
    let steps: Vec<String> =
        pointer.split('/').skip(1).map(|step| step.replace("~1", "/").replace("~0", "~")).collect();
    walk(skip_space(text), &steps)
}

/// Whether the text has a value, but not at `pointer` itself: there a field is missing.
pub(crate) fn is_missing(text: &[u8], pointer: &str) -> bool {
    pointer.rsplit_once('/').is_some_and(|(parent, _)| exists(text, parent))
}

fn walk(value: &[u8], steps: &[String]) -> bool {
    let Some((step, rest)) = steps.split_first() else { return !value.is_empty() };
    match value.first() {
        Some(b'[') => {
            let Ok(wanted) = step.parse::<usize>() else { return false };
            let mut at = skip_space(&value[1..]);
            for index in 0.. {
                if matches!(at.first(), None | Some(b']')) {
                    return false;
                }
                if index == wanted {
                    return walk(at, rest);
                }
                at = after_comma(skip_value(at));
            }
            false
        }
        Some(b'{') => {
            let mut at = skip_space(&value[1..]);
            loop {
                if at.first() != Some(&b'"') {
                    return false;
                }
                let after_key = skip_value(at);
                let key = &at[1..at.len() - after_key.len() - 1];
                let after_colon = skip_space(after_key);
                at = skip_space(after_colon.strip_prefix(b":").unwrap_or(after_colon));
                // A field that appears twice: either will do.
                if unescaped(key) == *step && walk(at, rest) {
                    return true;
                }
                at = after_comma(skip_value(at));
            }
        }
        _ => false,
    }
}

fn skip_space(text: &[u8]) -> &[u8] {
    text.trim_ascii_start()
}

fn after_comma(text: &[u8]) -> &[u8] {
    let text = skip_space(text);
    text.strip_prefix(b",").map_or(text, skip_space)
}

/// What follows the value at the beginning.
fn skip_value(text: &[u8]) -> &[u8] {
    let (mut depth, mut index) = (0usize, 0);
    while let Some(byte) = text.get(index) {
        match byte {
            b'"' => {
                index += 1;
                while let Some(byte) = text.get(index).filter(|byte| **byte != b'"') {
                    index += if *byte == b'\\' { 2 } else { 1 };
                }
            }
            b'[' | b'{' => depth += 1,
            b']' | b'}' if depth == 0 => return &text[index..],
            b']' | b'}' => depth -= 1,
            b',' | b':' if depth == 0 => return &text[index..],
            _ => {}
        }
        index += 1;
        if depth == 0 && matches!(byte, b'"' | b']' | b'}') {
            break;
        }
    }
    text.get(index..).unwrap_or_default()
}

/// A key without its escapes. A lone surrogate has no character; such keys have no pointer that a test could ask for.
fn unescaped(key: &[u8]) -> String {
    let quoted = [b"\"", key, b"\""].concat();
    serde_json::from_slice(&quoted).unwrap_or_else(|_| String::from_utf8_lossy(key).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_found_where_they_are() {
        let text = br#" { "a" : [1, NaN, {"b/c~": 1e999, "":[ ]}], "a":7, "d\u0065":"]}\"" } "#;
        for pointer in ["", "/a", "/a/0", "/a/1", "/a/2", "/a/2/b~1c~0", "/a/2/", "/de"] {
            assert!(exists(text, pointer), "{pointer}");
        }
        for pointer in ["/b", "/a/3", "/a/x", "/a/2/b", "/a/2//0", "/de/0", "/de/"] {
            assert!(!exists(text, pointer), "{pointer}");
        }
        assert!(!exists(b"  ", ""));
        assert!(is_missing(text, "/a/2/new") && !is_missing(text, "/new/new") && !is_missing(text, ""));
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert!(exists(deep.as_bytes(), "/0/0/0") && !exists(deep.as_bytes(), "/1"));
    }
}
