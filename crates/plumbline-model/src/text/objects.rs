//! Values as a template sees them: dictionaries that answer like Python's.

use std::fmt;
use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectExt, ObjectRepr, Tuple, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

use super::{methods, python};

/// Methods of a Python dictionary, which an attribute finds before it finds a key.
pub(super) const DICT_METHODS: [&str; 11] =
    ["clear", "copy", "fromkeys", "get", "items", "keys", "pop", "popitem", "setdefault", "update", "values"];

/// Marks a key as an attribute's name: no key that a template writes contains it by accident.
pub(super) const ATTRIBUTE_MARK: &str = "\u{f0000}attribute:";

/// Marks a key as one that falls back to the method of that name.
pub(super) const ITEM_MARK: &str = "\u{f0000}item:";

/// The value with its dictionaries as Python dictionaries, and its floats as Python writes them.
pub(super) fn python_value(value: &Value) -> Value {
    match value.kind() {
        ValueKind::Map => {
            let keys: Vec<Value> = value.try_iter().into_iter().flatten().collect();
            let pairs = keys.iter().filter_map(|key| Some((key.clone(), python_value(&value.get_item(key).ok()?))));
            dict(Value::from_pairs(pairs))
        }
        ValueKind::Number => match python::as_float(value).filter(|float| python::is_unlike_engine(*float)) {
            Some(float) => Value::from_object(Float(float)),
            None => value.clone(),
        },
        ValueKind::Seq if !value.is_tuple() => {
            Value::from(value.try_iter().into_iter().flatten().map(|item| python_value(&item)).collect::<Vec<_>>())
        }
        _ => value.clone(),
    }
}

/// A Python dictionary of a mapping of the engine's.
pub(super) fn dict(pairs: Value) -> Value {
    Value::from_object(Dict { pairs })
}

/// A dictionary that finds its methods by attribute first, and by subscript where it has no such key, as Jinja2 does.
#[derive(Debug)]
struct Dict {
    pairs: Value,
}

impl Object for Dict {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let item = |key: &Value| self.pairs.get_item(key).ok().filter(|value| !value.is_undefined());
        if let Some(attribute) = key.as_str().and_then(|name| name.strip_prefix(ATTRIBUTE_MARK)) {
            return Some(self.method(attribute));
        }
        match key.as_str().and_then(|name| name.strip_prefix(ITEM_MARK)) {
            Some(name) => item(&Value::from(name)).or_else(|| Some(self.method(name))),
            None => item(key),
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        self.mapped_enumerator(|this| match this.pairs.try_iter() {
            Ok(keys) => Box::new(keys),
            Err(_) => Box::new(std::iter::empty()),
        })
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        self.pairs.len()
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        match python::write_repr(&mut text, &self.pairs) {
            Ok(()) => f.write_str(&text),
            // Only JSON values are ever put into one: all of them have a text.
            Err(_) => fmt::Debug::fmt(&self.pairs, f),
        }
    }
}

impl Dict {
    fn method(self: &Arc<Self>, name: &str) -> Value {
        Value::from_object(BoundMethod { dict: Value::from_dyn_object(self.clone()), name: name.to_owned() })
    }
}

/// A dictionary's method that was looked up and not called: true, callable, without items and without a text.
#[derive(Debug)]
struct BoundMethod {
    dict: Value,
    name: String,
}

impl Object for BoundMethod {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
        methods::call(state, &self.dict, &self.name, arguments)
    }
}

/// A float that the engine would write otherwise than Python. It can be shown, and not computed with.
#[derive(Debug)]
pub(super) struct Float(pub(super) f64);

impl Object for Float {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&python::float_repr(self.0))
    }
}

/// What can be iterated and is no list: a range, or a dictionary's keys, values or items.
#[derive(Debug)]
pub(super) struct View {
    items: Vec<Value>,
    pub(super) repr: String,
}

impl View {
    /// `keys()`, `values()` or `items()` of a dictionary.
    pub(super) fn of_dict(dict: &Value, name: &str) -> Result<Value, Error> {
        let mut items = Vec::new();
        for key in dict.try_iter()? {
            items.push(match name {
                "keys" => key,
                "values" => dict.get_item(&key)?,
                _ => {
                    let value = dict.get_item(&key)?;
                    Value::from(Tuple::from([key, value]))
                }
            });
        }
        let mut repr = format!("dict_{name}(");
        python::write_repr(&mut repr, &Value::from(items.clone()))?;
        repr.push(')');
        Ok(Value::from_object(Self { items, repr }))
    }

    /// Python's `range`, as far as Jinja's sandbox lets it go.
    pub(super) fn range(first: i64, second: Option<i64>, step: Option<i64>) -> Result<Value, Error> {
        let (start, stop) = second.map_or((0, first), |second| (first, second));
        let by = step.unwrap_or(1);
        let (low, high) = if by > 0 { (start, stop) } else { (stop, start) };
        let count = match by.unsigned_abs() {
            0 => return Err(Error::new(ErrorKind::InvalidOperation, "the step of a range must not be zero")),
            by => high.checked_sub(low).map_or(u64::MAX, |span| u64::try_from(span).unwrap_or(0).div_ceil(by)),
        };
        if count > MAX_RANGE {
            return Err(Error::new(ErrorKind::InvalidOperation, format!("a range of more than {MAX_RANGE} numbers")));
        }
        let items = (0..count.cast_signed()).map(|index| Value::from(start + index * by)).collect();
        let step = step.filter(|step| *step != 1).map_or(String::new(), |step| format!(", {step}"));
        Ok(Value::from_object(Self { items, repr: format!("range({start}, {stop}{step})") }))
    }
}

/// Longest range of Jinja2's sandbox.
const MAX_RANGE: u64 = 100_000;

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        self.mapped_enumerator(|this| Box::new(this.items.iter().cloned()))
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.items.len())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repr)
    }
}
