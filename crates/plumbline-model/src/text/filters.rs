//! Filters and tests as Jinja2 has them, where the engine's own differ or say more.

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};

use super::objects::View;
use super::python::{self, bind_named, is_space};
use super::{json, methods};

/// Filters that Jinja2 does not have, and filters whose result would be another one: a template that uses one is refused.
const REMOVED: [&str; 8] = ["bool", "split", "lines", "zip", "chain", "attr", "pprint", "groupby"];

pub(super) fn install(environment: &mut Environment<'static>) {
    for name in REMOVED {
        environment.remove_filter(name);
    }
    environment.add_function("range", View::range);
    environment.add_filter("tojson", |value: &Value, a: Rest<Value>, k: Kwargs| json::tojson(value, &a, &k));
    environment.add_filter("string", |value: &Value| python::to_str(value));
    environment.add_filter("trim", |value: &Value, a: Rest<Value>, k: Kwargs| trim(value, &a, &k));
    environment.add_filter("join", |value: &Value, a: Rest<Value>, k: Kwargs| join(value, &a, &k));
    environment.add_filter("list", |value: &Value| Ok::<Value, Error>(Value::from(items(value)?)));
    environment.add_filter("indent", |value: &Value, a: Rest<Value>, k: Kwargs| indent(value, &a, &k));
    environment.add_filter("default", |value: &Value, a: Rest<Value>, k: Kwargs| default(value, &a, &k));
    environment.add_filter("d", |value: &Value, a: Rest<Value>, k: Kwargs| default(value, &a, &k));
    environment.add_filter("int", |value: &Value, a: Rest<Value>, k: Kwargs| int(value, &a, &k));
    environment.add_filter("float", |value: &Value, a: Rest<Value>, k: Kwargs| float(value, &a, &k));
    environment.add_filter("capitalize", |value: &Value| methods::capitalize(&python::to_str(value)?));
    for name in ["e", "escape"] {
        environment.add_filter(name, |value: &Value| python::to_str(value).map(|text| escape(value, &text)));
    }
    let is_view = |value: &Value| value.downcast_object_ref::<View>().is_some();
    environment.add_test("iterable", is_iterable);
    environment.add_test("sequence", move |value: &Value| {
        is_iterable(value) && (!is_view(value) || value.to_string().starts_with("range"))
    });
    environment.add_test("float", |value: &Value| python::as_float(value).is_some());
    environment.add_test("integer", is_integer);
    environment.add_test("number", |value: &Value| {
        value.kind() == ValueKind::Bool || is_integer(value) || python::as_float(value).is_some()
    });
    environment
        .add_test("callable", |value: &Value| value.kind() == ValueKind::Plain && python::as_float(value).is_none());
}

fn is_integer(value: &Value) -> bool {
    value.kind() == ValueKind::Number && value.is_integer()
}

fn trim(value: &Value, arguments: &[Value], kwargs: &Kwargs) -> Result<String, Error> {
    let [set] = bind_named(arguments, kwargs, ["chars"])?;
    let set = match &set {
        Some(set) => Some(set.as_str().ok_or_else(|| invalid(format!("trim cannot trim by {set}")))?),
        None => None,
    };
    let text = python::to_str(value)?;
    Ok(text.trim_matches(|c: char| set.map_or_else(|| is_space(c), |set| set.contains(c))).to_owned())
}

fn join(value: &Value, arguments: &[Value], kwargs: &Kwargs) -> Result<String, Error> {
    let [separator, attribute] = bind_named(arguments, kwargs, ["d", "attribute"])?;
    let separator = separator.map_or(Ok(String::new()), |separator| python::to_str(&separator))?;
    let mut parts = Vec::new();
    for mut item in items(value)? {
        if let Some(attribute) = &attribute {
            for key in python::to_str(attribute)?.split('.') {
                let key = key.parse::<usize>().map_or_else(|_| Value::from(key), Value::from);
                item = item.get_item(&key)?;
            }
        }
        parts.push(python::to_str(&item)?);
    }
    Ok(parts.join(&separator))
}

/// What Python's `iter()` yields; the engine itself takes none for an empty list.
fn items(value: &Value) -> Result<Vec<Value>, Error> {
    if value.is_none() {
        return Err(invalid("none cannot be iterated over".into()));
    }
    Ok(value.try_iter()?.collect())
}

fn indent(value: &Value, arguments: &[Value], kwargs: &Kwargs) -> Result<String, Error> {
    let [width, first, blank] = bind_named(arguments, kwargs, ["width", "first", "blank"])?;
    let [first, blank] = [first, blank].map(|flag| flag.is_some_and(|flag| flag.is_true()));
    let indention = match &width {
        None => " ".repeat(4),
        Some(width) => match (width.as_str(), width.as_i64()) {
            (Some(text), _) => text.to_owned(),
            (None, Some(width)) if width <= 1000 => " ".repeat(usize::try_from(width).unwrap_or(0)),
            _ => return Err(invalid(format!("indent cannot indent by {width}"))),
        },
    };
    let text = python::to_str(value)? + "\n";
    let mut out = String::new();
    for (index, line) in methods::split_lines(&text, false).into_iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        if if index == 0 { first } else { blank || !line.is_empty() } {
            out.push_str(&indention);
        }
        out.push_str(line);
    }
    Ok(out)
}

fn default(value: &Value, arguments: &[Value], kwargs: &Kwargs) -> Result<Value, Error> {
    // Bound by hand: a default that is `None` is a default too.
    let (mut positional, mut boolean) = (arguments.iter().cloned(), false);
    let mut default = positional.next();
    boolean |= positional.next().is_some_and(|flag| flag.is_true());
    if kwargs.has("default_value") {
        default = Some(kwargs.get("default_value")?);
    }
    if kwargs.has("boolean") {
        boolean |= kwargs.get::<Value>("boolean")?.is_true();
    }
    kwargs.assert_all_used()?;
    let replaced = value.is_undefined() || (boolean && !value.is_true());
    Ok(if replaced { default.unwrap_or_else(|| Value::from("")) } else { value.clone() })
}

fn int(value: &Value, arguments: &[Value], kwargs: &Kwargs) -> Result<Value, Error> {
    let [default, base] = bind_named(arguments, kwargs, ["default", "base"])?;
    let default = || Ok(default.clone().unwrap_or_else(|| Value::from(0)));
    if value.kind() == ValueKind::Bool {
        return Ok(Value::from(i64::from(value.is_true())));
    }
    if is_integer(value) {
        return Ok(value.clone());
    }
    if value.is_undefined() {
        return Err(invalid("int of an undefined value".into()));
    }
    let base = base.map_or(Some(10), |base| base.as_i64()).and_then(|base| u32::try_from(base).ok());
    let base = base.filter(|base| (2..=36).contains(base)).ok_or_else(|| invalid("int has no such base".into()))?;
    let float = match (python::as_float(value), value.as_str()) {
        (Some(float), _) => float,
        (None, Some(text)) => {
            let digits = text.trim_matches(is_space);
            let prefixed = match base {
                16 => digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")),
                8 => digits.strip_prefix("0o").or_else(|| digits.strip_prefix("0O")),
                2 => digits.strip_prefix("0b").or_else(|| digits.strip_prefix("0B")),
                _ => None,
            };
            if let Ok(integer) = i64::from_str_radix(prefixed.unwrap_or(digits), base) {
                return Ok(Value::from(integer));
            }
            match parse_float(digits)? {
                Some(float) => float,
                None => return default(),
            }
        }
        _ => return default(),
    };
    if float.is_nan() || float.is_infinite() {
        return default();
    }
    // Every float below 2^63 in magnitude has an exact integer part.
    if float.abs() < 9_223_372_036_854_775_808.0 {
        #[allow(clippy::cast_possible_truncation)]
        return Ok(Value::from(float as i64));
    }
    Err(invalid(format!("int of {value} is too large")))
}

fn float(value: &Value, arguments: &[Value], kwargs: &Kwargs) -> Result<Value, Error> {
    let [default] = bind_named(arguments, kwargs, ["default"])?;
    let number = match value.as_str() {
        Some(text) => parse_float(text.trim_matches(is_space))?,
        None => python::as_float(value).or_else(|| f64::try_from(value.clone()).ok()),
    };
    Ok(number.map_or_else(|| default.unwrap_or_else(|| Value::from(0.0)), Value::from))
}

/// Python's `float(text)`; `None` where it is no number.
fn parse_float(text: &str) -> Result<Option<f64>, Error> {
    if text.contains('_') || !text.is_ascii() {
        return Err(invalid(format!("{text:?} as a number is not supported")));
    }
    Ok(text.parse().ok())
}

fn escape(value: &Value, text: &str) -> Value {
    if value.is_safe() {
        return value.clone();
    }
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    Value::from_safe_string(escaped.replace('\'', "&#39;").replace('"', "&#34;"))
}

/// Whatever Python's `iter()` takes: Jinja's undefined too.
fn is_iterable(value: &Value) -> bool {
    matches!(
        value.kind(),
        ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable
    )
}

fn invalid(reason: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}
