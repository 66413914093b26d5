//! Methods of Python's strings, lists and dictionaries.
//!
//! The engine's own Python layer serves what it does as Python; what it lacks or does otherwise is here.

use minijinja::value::{ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

use super::objects::View;
use super::python::{bind, is_space};

/// Calls a method of a value.
pub(super) fn call(state: &mut State<'_, '_>, value: &Value, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let own = match value.kind() {
        ValueKind::String => string_method(value.as_str().unwrap_or_default(), name, arguments)?,
        ValueKind::Seq => list_method(value, name, arguments)?,
        ValueKind::Map if matches!(name, "copy" | "keys" | "values" | "items") => {
            let () = from_args(arguments)?;
            Some(if name == "copy" { value.clone() } else { View::of_dict(value, name)? })
        }
        _ => None,
    };
    match own {
        Some(result) => Ok(result),
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, arguments),
    }
}

fn list_method(list: &Value, name: &str, arguments: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match name {
        "index" => {
            let (wanted,): (&Value,) = from_args(arguments)?;
            let found = list.try_iter()?.position(|item| item == *wanted);
            Value::from(found.ok_or_else(|| invalid(format!("{wanted} is not in the list")))?)
        }
        "copy" if !list.is_tuple() => {
            let () = from_args(arguments)?;
            list.clone()
        }
        _ => return Ok(None),
    }))
}

fn string_method(text: &str, name: &str, arguments: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match name {
        "strip" | "lstrip" | "rstrip" => {
            let (set,): (Option<&str>,) = from_args(arguments)?;
            let cut = |c: char| set.map_or_else(|| is_space(c), |set| set.contains(c));
            Value::from(match name {
                "strip" => text.trim_matches(cut),
                "lstrip" => text.trim_start_matches(cut),
                _ => text.trim_end_matches(cut),
            })
        }
        "split" | "rsplit" => {
            let (separator, limit) = split_arguments(arguments)?;
            let cut = if name == "split" { split } else { rsplit };
            Value::from(cut(text, separator.as_deref(), limit))
        }
        "splitlines" => {
            let [keep_ends] = bind(arguments, ["keepends"])?;
            let lines = split_lines(text, keep_ends.is_some_and(|keep| keep.is_true()));
            lines.into_iter().map(Value::from).collect()
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(arguments)?;
            let found = if name == "partition" { text.split_once(separator) } else { text.rsplit_once(separator) };
            if separator.is_empty() {
                return Err(invalid("empty separator".into()));
            }
            let parts = match found {
                Some((head, tail)) => [head, separator, tail],
                None if name == "partition" => [text, "", ""],
                None => ["", "", text],
            };
            Value::from(minijinja::value::Tuple::from(parts.map(Value::from)))
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(arguments)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(arguments)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "startswith" | "endswith" => {
            let (affixes, start, end): (&Value, Option<i64>, Option<i64>) = from_args(arguments)?;
            Value::from(has_affix(window(text, start, end).map(|(_, window)| window), affixes, name == "startswith")?)
        }
        "find" | "rfind" | "index" | "rindex" => {
            let (wanted, start, end): (&str, Option<i64>, Option<i64>) = from_args(arguments)?;
            let found = window(text, start, end).and_then(|(before, window)| {
                let at = if name.starts_with('r') { window.rfind(wanted) } else { window.find(wanted) };
                Some(before + window[..at?].chars().count())
            });
            match found {
                Some(at) => Value::from(at),
                None if name.ends_with("find") => Value::from(-1),
                None => return Err(invalid("substring not found".into())),
            }
        }
        "count" => {
            let (wanted, start, end): (&str, Option<i64>, Option<i64>) = from_args(arguments)?;
            Value::from(window(text, start, end).map_or(0, |(_, window)| window.matches(wanted).count()))
        }
        "join" => {
            let (values,): (&Value,) = from_args(arguments)?;
            let mut parts = Vec::new();
            for (index, value) in values.try_iter()?.enumerate() {
                let part = value.as_str().map(str::to_owned);
                parts.push(part.ok_or_else(|| invalid(format!("join: item {index} is no string")))?);
            }
            Value::from(parts.join(text))
        }
        "ljust" | "rjust" | "center" | "zfill" => justified(text, name, arguments)?,
        "swapcase" => {
            let () = from_args(arguments)?;
            let swap = |c: char| -> String {
                if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
            };
            Value::from(text.chars().map(swap).collect::<String>())
        }
        "title" => {
            let () = from_args(arguments)?;
            Value::from(title(text)?)
        }
        "capitalize" => {
            let () = from_args(arguments)?;
            Value::from(capitalize(text)?)
        }
        "isdigit" | "isnumeric" | "isdecimal" | "isalpha" | "isalnum" | "isidentifier" | "istitle" | "isprintable" => {
            let () = from_args(arguments)?;
            ascii_only(text, name)?;
            let all = |test: fn(&char) -> bool| !text.is_empty() && text.chars().all(|c| test(&c));
            Value::from(match name {
                "isalpha" => all(char::is_ascii_alphabetic),
                "isalnum" => all(char::is_ascii_alphanumeric),
                "isprintable" => text.chars().all(|c| (' '..='~').contains(&c)),
                "istitle" => text.chars().any(|c| c.is_ascii_alphabetic()) && title(text)? == text,
                "isidentifier" => {
                    all(|c| c.is_ascii_alphanumeric() || *c == '_') && !text.starts_with(|c: char| c.is_ascii_digit())
                }
                _ => all(char::is_ascii_digit),
            })
        }
        "isspace" => {
            let () = from_args(arguments)?;
            Value::from(!text.is_empty() && text.chars().all(is_space))
        }
        _ => return Ok(None),
    }))
}

/// `(separator, limit)` of `split` and `rsplit`; no separator means white space, no limit means all.
fn split_arguments(arguments: &[Value]) -> Result<(Option<String>, Option<usize>), Error> {
    let [separator, limit] = bind(arguments, ["sep", "maxsplit"])?;
    let separator = match separator {
        Some(separator) => match separator.as_str() {
            Some("") => return Err(invalid("empty separator".into())),
            Some(text) => Some(text.to_owned()),
            None => return Err(invalid(format!("the separator must be a string, not {separator}"))),
        },
        None => None,
    };
    let limit = match limit {
        Some(limit) => {
            let limit = limit.as_i64().ok_or_else(|| invalid("maxsplit must be an integer".into()))?;
            usize::try_from(limit).ok()
        }
        None => None,
    };
    Ok((separator, limit))
}

fn split(text: &str, separator: Option<&str>, limit: Option<usize>) -> Vec<Value> {
    if let Some(separator) = separator {
        return match limit {
            Some(limit) => text.splitn(limit.saturating_add(1), separator).map(Value::from).collect(),
            None => text.split(separator).map(Value::from).collect(),
        };
    }
    let mut parts = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        if limit == Some(parts.len()) {
            parts.push(Value::from(rest));
            break;
        }
        let end = rest.find(is_space).unwrap_or(rest.len());
        parts.push(Value::from(&rest[..end]));
        rest = rest[end..].trim_start_matches(is_space);
    }
    parts
}

fn rsplit(text: &str, separator: Option<&str>, limit: Option<usize>) -> Vec<Value> {
    let mut parts: Vec<Value> = match (separator, limit) {
        (Some(separator), Some(limit)) => text.rsplitn(limit.saturating_add(1), separator).map(Value::from).collect(),
        (Some(separator), None) => text.rsplit(separator).map(Value::from).collect(),
        (None, _) => {
            let mut parts = Vec::new();
            let mut rest = text.trim_end_matches(is_space);
            while !rest.is_empty() {
                if limit == Some(parts.len()) {
                    parts.push(Value::from(rest));
                    break;
                }
                let start = rest.char_indices().rev().find(|(_, c)| is_space(*c)).map_or(0, |(i, c)| i + c.len_utf8());
                parts.push(Value::from(&rest[start..]));
                rest = rest[..start].trim_end_matches(is_space);
            }
            parts
        }
    };
    parts.reverse();
    parts
}

pub(super) fn split_lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut start = 0;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if !matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}') {
            continue;
        }
        let mut end = at + c.len_utf8();
        if c == '\r' && chars.next_if(|(_, next)| *next == '\n').is_some() {
            end += 1;
        }
        lines.push(&text[start..if keep_ends { end } else { at }]);
        start = end;
    }
    if start < text.len() {
        lines.push(&text[start..]);
    }
    lines
}

/// The part of a text from `start` to `end` in characters, as Python slices, and how many characters stand before it.
fn window(text: &str, start: Option<i64>, end: Option<i64>) -> Option<(usize, &str)> {
    if start.is_none() && end.is_none() {
        return Some((0, text));
    }
    let length = i64::try_from(text.chars().count()).ok()?;
    let clamp = |at: i64| usize::try_from(if at < 0 { (at + length).max(0) } else { at.min(length) }).ok();
    // A start behind the text finds nothing, not even the empty string.
    if start.is_some_and(|start| start > length) {
        return None;
    }
    let (start, end) = (clamp(start.unwrap_or(0))?, clamp(end.unwrap_or(length))?);
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    (start <= end).then(|| (start, &text[byte(start)..byte(end)]))
}

fn has_affix(text: Option<&str>, affixes: &Value, at_start: bool) -> Result<bool, Error> {
    let has =
        |affix: &str| text.is_some_and(|text| if at_start { text.starts_with(affix) } else { text.ends_with(affix) });
    if let Some(affix) = affixes.as_str() {
        return Ok(has(affix));
    }
    if !affixes.is_tuple() {
        return Err(invalid(format!("expected a string or a tuple of strings, not {affixes}")));
    }
    for affix in affixes.try_iter()? {
        let affix = affix.as_str().ok_or_else(|| invalid(format!("expected a string, not {affix}")))?;
        if has(affix) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn justified(text: &str, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (width, fill): (usize, Option<char>) = from_args(arguments)?;
    let length = text.chars().count();
    let missing = width.min(MAX_WIDTH).saturating_sub(length);
    if width > MAX_WIDTH {
        return Err(invalid(format!("a width of {width} is too much")));
    }
    let fill = |count: usize| fill.unwrap_or(' ').to_string().repeat(count);
    Ok(Value::from(match name {
        "ljust" => format!("{text}{}", fill(missing)),
        "rjust" => format!("{}{text}", fill(missing)),
        "center" => {
            // CPython puts the odd one to the left only where the width is odd too.
            let left = missing / 2 + (missing & width & 1);
            format!("{}{text}{}", fill(left), fill(missing - left))
        }
        _ => {
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
            format!("{sign}{}{digits}", "0".repeat(missing))
        }
    }))
}

/// Widest text that a template may pad to.
const MAX_WIDTH: usize = 1_000_000;

/// `str.title()`, for ASCII: the letters behind a non-letter are capital.
fn title(text: &str) -> Result<String, Error> {
    ascii_only(text, "title")?;
    let mut inside = false;
    Ok(text
        .chars()
        .map(|c| {
            let cased = if inside { c.to_ascii_lowercase() } else { c.to_ascii_uppercase() };
            inside = c.is_ascii_alphabetic();
            cased
        })
        .collect())
}

/// `str.capitalize()`; a first letter with a title case of its own is refused.
pub(super) fn capitalize(text: &str) -> Result<String, Error> {
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return Ok(String::new()) };
    let mut upper = first.to_uppercase();
    let (Some(capital), None) = (upper.next(), upper.next()) else {
        return Err(invalid(format!("capitalize cannot start with {first:?}")));
    };
    // The digraphs whose title case is not their upper case.
    if matches!(first, '\u{1c4}'..='\u{1cc}' | '\u{1f1}'..='\u{1f3}') {
        return Err(invalid(format!("capitalize cannot start with {first:?}")));
    }
    // Lowered as part of the whole, for a final sigma depends on what stands before it.
    let lowered = text.to_lowercase();
    let skip = first.to_lowercase().map(char::len_utf8).sum::<usize>();
    Ok(format!("{capital}{}", &lowered[skip..]))
}

/// Unicode categories differ between Python's tables and these: where it would matter, only ASCII is served.
fn ascii_only(text: &str, method: &str) -> Result<(), Error> {
    if text.is_ascii() { Ok(()) } else { Err(invalid(format!("{method} is supported for ASCII text only"))) }
}

fn invalid(reason: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}
