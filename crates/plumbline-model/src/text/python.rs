//! How Python writes values: `str()` and `repr()`.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

use super::objects::{Float, View};

/// Python's `str(value)`; an undefined value is empty, as Jinja prints it.
///
/// # Errors
/// A value whose Python text is not reproducible, such as a method.
pub(super) fn to_str(value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    if value.is_undefined() {
        return Ok(String::new());
    }
    let mut out = String::new();
    write_repr(&mut out, value)?;
    Ok(out)
}

/// Python's `repr(value)`, appended.
pub(super) fn write_repr(out: &mut String, value: &Value) -> Result<(), Error> {
    if let Some(view) = value.downcast_object_ref::<View>() {
        out.push_str(&view.repr);
        return Ok(());
    }
    if let Some(float) = as_float(value) {
        out.push_str(&float_repr(float));
        return Ok(());
    }
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => {
            let _ = write!(out, "{value}");
        }
        ValueKind::String => write_str_repr(out, value.as_str().unwrap_or_default()),
        // Sums and slices of lists, which Python makes lists of too.
        ValueKind::Seq | ValueKind::Iterable => {
            let (open, close) = if value.is_tuple() { ('(', ')') } else { ('[', ']') };
            out.push(open);
            let mut count = 0_usize;
            for item in value.try_iter()? {
                if count > 0 {
                    out.push_str(", ");
                }
                write_repr(out, &item)?;
                count += 1;
            }
            if value.is_tuple() && count == 1 {
                out.push(',');
            }
            out.push(close);
        }
        ValueKind::Map => {
            out.push('{');
            for (index, key) in value.try_iter()?.enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                write_repr(out, &key)?;
                out.push_str(": ");
                write_repr(out, &value.get_item(&key)?)?;
            }
            out.push('}');
        }
        kind => {
            let reason = format!("a value of type {kind} cannot be written as Python writes it");
            return Err(Error::new(ErrorKind::InvalidOperation, reason));
        }
    }
    Ok(())
}

/// The value as a float, if it is one (and not an integer).
pub(super) fn as_float(value: &Value) -> Option<f64> {
    if let Some(Float(float)) = value.downcast_object_ref() {
        return Some(*float);
    }
    if value.kind() == ValueKind::Number && !value.is_integer() { f64::try_from(value.clone()).ok() } else { None }
}

/// Whether the template engine itself would write this float otherwise than Python does.
pub(super) fn is_unlike_engine(float: f64) -> bool {
    Value::from(float).to_string() != float_repr(float) || format!("{float:?}") != float_repr(float)
}

/// Python's `repr(float)`: the shortest digits, in exponent form below 1e-4 and from 1e16.
pub(super) fn float_repr(float: f64) -> String {
    if float.is_nan() {
        return "nan".into();
    }
    if float.is_infinite() {
        return (if float > 0.0 { "inf" } else { "-inf" }).into();
    }
    let magnitude = float.abs();
    if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let scientific = format!("{float:e}");
        let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    let plain = float.to_string();
    if plain.contains('.') { plain } else { plain + ".0" }
}

fn write_str_repr(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if is_printable(c) => out.push(c),
            c => {
                let code = u32::from(c);
                let _ = match code {
                    0..=0xff => write!(out, "\\x{code:02x}"),
                    0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(quote);
}

/// Python's `str.isprintable` of one character.
fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return (' '..='~').contains(&c);
    }
    // Behind a first character, `escape_debug` escapes exactly what is not printable: combining marks are left alone.
    let mut buffer = [0; 5];
    buffer[0] = b'a';
    let length = c.encode_utf8(&mut buffer[1..]).len();
    str::from_utf8(&buffer[..=length]).is_ok_and(|text| text.escape_debug().count() == 2)
}

/// A method's arguments by position and by name, as Python binds them; `None` where none was given or it is `None`.
///
/// # Errors
/// Too many arguments, or a name that is not among them.
pub(super) fn bind<const N: usize>(arguments: &[Value], names: [&str; N]) -> Result<[Option<Value>; N], Error> {
    match arguments.split_last() {
        Some((last, before)) if last.is_kwargs() => bind_named(before, &Kwargs::try_from(last.clone())?, names),
        _ => bind_named(arguments, &std::iter::empty::<(&str, Value)>().collect(), names),
    }
}

/// As [`bind`], for a filter's arguments.
pub(super) fn bind_named<const N: usize>(
    positional: &[Value],
    kwargs: &Kwargs,
    names: [&str; N],
) -> Result<[Option<Value>; N], Error> {
    if positional.len() > N {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let mut bound = [const { None }; N];
    for (slot, value) in bound.iter_mut().zip(positional) {
        *slot = Some(value.clone());
    }
    for (slot, name) in bound.iter_mut().zip(names) {
        if kwargs.has(name) {
            *slot = Some(kwargs.get(name)?);
        }
    }
    kwargs.assert_all_used()?;
    Ok(bound.map(|value: Option<Value>| value.filter(|value| !value.is_none())))
}

/// Characters that Python's `str.strip()` and `str.split()` take for white space.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_python_writes_them() {
        let expected = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e-5, "1.5e-05"),
            (0.0001, "0.0001"),
            (-2.5e300, "-2.5e+300"),
            (f64::INFINITY, "inf"),
        ];
        for (float, text) in expected {
            assert_eq!(float_repr(float), text);
        }
    }
}
