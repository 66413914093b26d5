//! A conversation as it is given to a chat template.

use std::collections::BTreeMap;

use minijinja::Value;
use minijinja::value::ValueKind;
use serde::Deserialize;

use super::error::TextError;

/// A JSON value as a template sees it. Keys keep the order in which they were written, for it shows in the prompt.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub struct ChatValue(pub(super) Value);

impl From<&str> for ChatValue {
    fn from(text: &str) -> Self {
        Self(Value::from(text))
    }
}

impl From<bool> for ChatValue {
    fn from(value: bool) -> Self {
        Self(Value::from(value))
    }
}

impl From<i64> for ChatValue {
    fn from(value: i64) -> Self {
        Self(Value::from(value))
    }
}

impl From<serde_json::Value> for ChatValue {
    /// `serde_json` sorts the keys of its objects unless it is built with `preserve_order`: where the order shows, read
    /// the JSON text itself into a [`ChatValue`].
    fn from(value: serde_json::Value) -> Self {
        use serde_json::Value as Json;
        Self(match value {
            Json::Null => Value::from(()),
            Json::Bool(value) => Value::from(value),
            Json::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(integer), _) => Value::from(integer),
                (None, Some(integer)) => Value::from(integer),
                // Without arbitrary precision a JSON number is an integer or a float.
                (None, None) => number.as_f64().map_or(Value::UNDEFINED, Value::from),
            },
            Json::String(text) => Value::from(text),
            Json::Array(items) => Value::from(items.into_iter().map(|item| Self::from(item).0).collect::<Vec<_>>()),
            Json::Object(pairs) => Value::from_pairs(pairs.into_iter().map(|(key, item)| (key, Self::from(item).0))),
        })
    }
}

/// The arguments of `apply_chat_template`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chat {
    /// The messages, objects with at least a `role`.
    pub messages: Vec<ChatValue>,
    /// JSON schemas of tools. None and an empty list are different things to a template.
    #[serde(default)]
    pub tools: Option<Vec<ChatValue>>,
    /// Documents for retrieval, objects with `title` and `text`.
    #[serde(default)]
    pub documents: Option<Vec<ChatValue>>,
    /// Whether the prompt ends in the header of the answer.
    #[serde(default)]
    pub add_generation_prompt: bool,
    /// Name of the template, where the model has several; by default as transformers chooses.
    #[serde(default)]
    pub template: Option<String>,
    /// More variables for the template, such as `enable_thinking`. They come before all others.
    #[serde(default)]
    pub variables: BTreeMap<String, ChatValue>,
}

/// Names that a message's reasoning goes by; the first is what templates read.
const REASONING_FIELDS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

impl Chat {
    /// The messages as transformers gives them to the template: keys that are null left out, reasoning under every name.
    pub(super) fn normalised_messages(&self) -> Result<Vec<Value>, TextError> {
        if self.messages.is_empty() {
            return Err(TextError::Chat("it has no messages".into()));
        }
        self.messages.iter().enumerate().map(|(index, message)| normalised(index, &message.0)).collect()
    }
}

fn normalised(index: usize, message: &Value) -> Result<Value, TextError> {
    if message.kind() != ValueKind::Map {
        return Err(TextError::Chat(format!("message {index} is no object")));
    }
    let mut pairs: Vec<(String, Value)> = Vec::new();
    for key in message.try_iter().map_err(|error| TextError::Chat(error.to_string()))? {
        let value = message.get_item(&key).map_err(|error| TextError::Chat(error.to_string()))?;
        if !value.is_none() {
            pairs.push((key.to_string(), value));
        }
    }
    let field = |name: &str| pairs.iter().position(|(key, _)| key == name);
    if let Some(reasoning) = REASONING_FIELDS.iter().find_map(|name| field(name)).map(|at| pairs[at].1.clone()) {
        match field("thinking") {
            Some(at) => {
                let thinking = pairs.remove(at);
                pairs.insert(0, thinking);
            }
            None => pairs.insert(0, ("thinking".into(), reasoning.clone())),
        }
        if !pairs.iter().any(|(key, _)| key == REASONING_FIELDS[0]) {
            pairs.push((REASONING_FIELDS[0].into(), reasoning));
        }
    }
    Ok(Value::from_pairs(pairs))
}
