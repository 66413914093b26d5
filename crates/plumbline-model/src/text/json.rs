//! The `tojson` filter as transformers defines it: Python's `json.dumps` with `ensure_ascii=False`.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

use super::objects::View;
use super::python::{self, bind_named};

struct Style {
    ensure_ascii: bool,
    /// What one level of nesting is indented by; none writes one line.
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

/// `tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn tojson(value: &Value, positional: &[Value], kwargs: &Kwargs) -> Result<String, Error> {
    let style = style(positional, kwargs)?;
    let mut out = String::new();
    write(&mut out, value, &style, 0)?;
    Ok(out)
}

fn style(positional: &[Value], kwargs: &Kwargs) -> Result<Style, Error> {
    let [ensure_ascii, indent, separators, sort_keys] =
        bind_named(positional, kwargs, ["ensure_ascii", "indent", "separators", "sort_keys"])?;
    let indent = indent.map(|indent| indent_text(&indent)).transpose()?;
    let (item_separator, key_separator) = match separators {
        Some(pair) => separator_pair(&pair)?,
        None => ((if indent.is_some() { "," } else { ", " }).to_owned(), ": ".to_owned()),
    };
    Ok(Style {
        ensure_ascii: ensure_ascii.is_some_and(|value| value.is_true()),
        indent,
        item_separator,
        key_separator,
        sort_keys: sort_keys.is_some_and(|value| value.is_true()),
    })
}

fn indent_text(indent: &Value) -> Result<String, Error> {
    if let Some(text) = indent.as_str() {
        return Ok(text.to_owned());
    }
    if indent.kind() == ValueKind::Bool {
        return Ok((if indent.is_true() { " " } else { "" }).to_owned());
    }
    match indent.as_i64() {
        Some(width) if indent.is_integer() && width <= 1000 => Ok(" ".repeat(usize::try_from(width).unwrap_or(0))),
        _ => Err(invalid(format!("tojson cannot indent by {indent}"))),
    }
}

fn separator_pair(pair: &Value) -> Result<(String, String), Error> {
    let texts: Option<Vec<String>> = pair.try_iter()?.map(|text| text.as_str().map(str::to_owned)).collect();
    match texts.map(<[String; 2]>::try_from) {
        Some(Ok([item, key])) => Ok((item, key)),
        _ => Err(invalid(format!("tojson needs two strings as separators, not {pair}"))),
    }
}

fn write(out: &mut String, value: &Value, style: &Style, depth: usize) -> Result<(), Error> {
    if let Some(float) = python::as_float(value) {
        write_float(out, float);
        return Ok(());
    }
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => {
            let _ = write!(out, "{value}");
        }
        ValueKind::String => write_string(out, value.as_str().unwrap_or_default(), style.ensure_ascii),
        ValueKind::Iterable if value.downcast_object_ref::<View>().is_some() => {
            return Err(invalid(format!("{value} is not JSON serializable")));
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.collect();
            write_nested(out, style, depth, ['[', ']'], &items, |out, item| write(out, item, style, depth + 1))?;
        }
        ValueKind::Map => {
            let mut pairs = Vec::new();
            for key in value.try_iter()? {
                let item = value.get_item(&key)?;
                pairs.push((key, item));
            }
            if style.sort_keys {
                sort_by_key(&mut pairs)?;
            }
            write_nested(out, style, depth, ['{', '}'], &pairs, |out, (key, item)| {
                write_key(out, key, style)?;
                out.push_str(&style.key_separator);
                write(out, item, style, depth + 1)
            })?;
        }
        kind => return Err(invalid(format!("a value of type {kind} is not JSON serializable"))),
    }
    Ok(())
}

fn write_nested<T>(
    out: &mut String,
    style: &Style,
    depth: usize,
    [open, close]: [char; 2],
    items: &[T],
    mut write_item: impl FnMut(&mut String, &T) -> Result<(), Error>,
) -> Result<(), Error> {
    out.push(open);
    let line = |out: &mut String, depth: usize| {
        if let Some(indent) = &style.indent {
            out.push('\n');
            out.push_str(&indent.repeat(depth));
        }
    };
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push_str(&style.item_separator);
        }
        line(out, depth + 1);
        write_item(out, item)?;
    }
    if !items.is_empty() {
        line(out, depth);
    }
    out.push(close);
    Ok(())
}

fn sort_by_key(pairs: &mut [(Value, Value)]) -> Result<(), Error> {
    let all = |kind| pairs.iter().all(|(key, _)| key.kind() == kind);
    if !all(ValueKind::String) && !all(ValueKind::Number) {
        return Err(invalid("keys of different types cannot be sorted".into()));
    }
    pairs.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(())
}

fn write_key(out: &mut String, key: &Value, style: &Style) -> Result<(), Error> {
    match key.kind() {
        ValueKind::String => write_string(out, key.as_str().unwrap_or_default(), style.ensure_ascii),
        ValueKind::None | ValueKind::Bool | ValueKind::Number => {
            let mut text = String::new();
            write(&mut text, key, style, 0)?;
            write_string(out, &text, style.ensure_ascii);
        }
        kind => return Err(invalid(format!("a key of type {kind} is not JSON serializable"))),
    }
    Ok(())
}

fn write_float(out: &mut String, float: f64) {
    if float.is_finite() {
        out.push_str(&python::float_repr(float));
    } else {
        out.push_str(match float {
            f64::INFINITY => "Infinity",
            f64::NEG_INFINITY => "-Infinity",
            _ => "NaN",
        });
    }
}

fn write_string(out: &mut String, text: &str, ensure_ascii: bool) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            c if c < ' ' || (ensure_ascii && !(' '..='~').contains(&c)) => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

fn invalid(reason: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}
