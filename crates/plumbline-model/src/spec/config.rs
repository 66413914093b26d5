//! Reading a Hugging Face `config.json` without ignoring anything.
//!
//! Every key that a family reads is consumed; what is left at the end must be known to be without effect on the maths,
//! or off (`null`, `false`, empty). Anything else is refused by name and value: a key that is silently ignored would make
//! every number of the reference a lie.

use serde_json::{Map, Value};

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// Not a JSON object.
    #[error("config.json is not a JSON object: {0}")]
    Malformed(String),
    /// A `model_type` without a mapping.
    #[error("model_type `{family}` is not supported; supported: {supported}")]
    UnknownFamily {
        /// What the configuration says.
        family: String,
        /// The families that are.
        supported: String,
    },
    /// A key that must be there is not.
    #[error("config.json lacks `{key}`")]
    Missing {
        /// Path of the key.
        key: String,
    },
    /// A key with a value of the wrong type or range.
    #[error("config.json: `{key}` = {value}: {reason}")]
    Invalid {
        /// Path of the key.
        key: String,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A value that asks for maths that the decoder does not have.
    #[error("config.json: `{key}` = {value} is not supported")]
    Unsupported {
        /// Path of the key.
        key: String,
        /// Its value.
        value: String,
    },
    /// Keys that nobody reads and that are not known to be harmless.
    #[error("config.json has keys that this decoder does not know and may not ignore: {}", keys.join(", "))]
    Unknown {
        /// `key = value` of each.
        keys: Vec<String>,
    },
}

/// Keys without effect on a forward in inference: bookkeeping, training, generation, caching, heads for other tasks, and
/// GPT-2's upcast, which changes nothing in f32.
const NEUTRAL_KEYS: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_model_name_or_path",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attn_pdrop",
    "auto_map",
    "aux_loss_alpha",
    "bos_token_id",
    "classifier_dropout",
    "dtype",
    "embd_pdrop",
    "embedding_dropout",
    "ep_size",
    "gradient_checkpointing",
    "hidden_dropout",
    "id2label",
    "initializer_range",
    "label2id",
    "n_ctx",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "pretraining_tp",
    "reorder_and_upcast_attn",
    "resid_pdrop",
    "residual_dropout",
    "return_dict",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "seq_aux",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "task_specific_params",
    "torch_dtype",
    "transformers_version",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
];

/// Far above every known decoder.
const MAX_LAYERS: usize = 10_000;

/// A JSON object whose keys are taken out as they are read.
#[derive(Debug)]
pub(super) struct HfConfig {
    path: String,
    keys: Map<String, Value>,
}

impl HfConfig {
    pub(super) fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        match serde_json::from_slice(json) {
            Ok(Value::Object(keys)) => Ok(Self { path: String::new(), keys }),
            Ok(_) => Err(ConfigError::Malformed("another JSON value".into())),
            Err(error) => Err(ConfigError::Malformed(error.to_string())),
        }
    }

    /// An object without keys, standing in for an absent one.
    pub(super) fn empty(&self, key: &str) -> Self {
        Self { path: self.key_path(key), keys: Map::new() }
    }

    /// Takes a nested object; `None` if absent or `null`.
    pub(super) fn object(&mut self, key: &str) -> Result<Option<Self>, ConfigError> {
        let path = self.key_path(key);
        self.take(key, "must be an object", |value| match value {
            Value::Object(keys) => Some(Self { path, keys: keys.clone() }),
            _ => None,
        })
    }

    pub(super) fn optional_f64(&mut self, key: &str) -> Result<Option<f64>, ConfigError> {
        self.take(key, "must be a number", Value::as_f64)
    }

    pub(super) fn f64(&mut self, key: &str) -> Result<f64, ConfigError> {
        let value = self.optional_f64(key)?;
        self.required(key, value)
    }

    pub(super) fn optional_usize(&mut self, key: &str) -> Result<Option<usize>, ConfigError> {
        self.take(key, "must be a non-negative integer", |value| value.as_u64()?.try_into().ok())
    }

    /// A count that must be there and positive.
    pub(super) fn count(&mut self, key: &str) -> Result<usize, ConfigError> {
        let value = self.take(key, "must be a positive integer", |value| {
            value.as_u64()?.try_into().ok().filter(|count: &usize| *count > 0)
        })?;
        self.required(key, value)
    }

    /// The number of layers: a count that a configuration cannot use to make the loader build forever.
    pub(super) fn layer_count(&mut self, key: &str) -> Result<usize, ConfigError> {
        match self.count(key)? {
            layers if layers > MAX_LAYERS => {
                Err(self.invalid(key, layers, format!("more layers than any decoder has ({MAX_LAYERS})")))
            }
            layers => Ok(layers),
        }
    }

    pub(super) fn flag(&mut self, key: &str, default: bool) -> Result<bool, ConfigError> {
        Ok(self.take(key, "must be true or false", Value::as_bool)?.unwrap_or(default))
    }

    pub(super) fn optional_string(&mut self, key: &str) -> Result<Option<String>, ConfigError> {
        self.take(key, "must be a string", |value| value.as_str().map(str::to_owned))
    }

    pub(super) fn string(&mut self, key: &str) -> Result<String, ConfigError> {
        let value = self.optional_string(key)?;
        self.required(key, value)
    }

    pub(super) fn strings(&mut self, key: &str) -> Result<Option<Vec<String>>, ConfigError> {
        self.take(key, "must be a list of strings", |value| {
            value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
        })
    }

    /// Ids given as one integer or a list; empty if absent.
    pub(super) fn token_ids(&mut self, key: &str) -> Result<Vec<u32>, ConfigError> {
        let id = |value: &Value| value.as_u64().and_then(|id| id.try_into().ok());
        let ids = self.take(key, "must be a token id or a list of token ids", |value| match value {
            Value::Array(items) => items.iter().map(id).collect(),
            other => id(other).map(|id| vec![id]),
        })?;
        Ok(ids.unwrap_or_default())
    }

    pub(super) fn floats(&mut self, key: &str) -> Result<Option<Vec<f64>>, ConfigError> {
        self.take(key, "must be a list of numbers", |value| value.as_array()?.iter().map(Value::as_f64).collect())
    }

    pub(super) fn integers(&mut self, key: &str) -> Result<Option<Vec<i64>>, ConfigError> {
        self.take(key, "must be a list of integers", |value| value.as_array()?.iter().map(Value::as_i64).collect())
    }

    /// Whether a key is there, `null` included: Hugging Face puts class defaults where a key is absent only.
    pub(super) fn has(&self, key: &str) -> bool {
        self.keys.contains_key(key)
    }

    /// Takes a key that this family has no use for.
    pub(super) fn discard(&mut self, key: &str) {
        self.keys.remove(key);
    }

    /// Puts a key where the shared layout will look for it.
    pub(super) fn put(&mut self, key: &str, value: Value) {
        self.keys.insert(key.into(), value);
    }

    /// Takes any value.
    pub(super) fn value(&mut self, key: &str) -> Option<Value> {
        self.keys.remove(key)
    }

    pub(super) fn missing(&self, key: &str) -> ConfigError {
        ConfigError::Missing { key: self.key_path(key) }
    }

    pub(super) fn unsupported(&self, key: &str, value: &str) -> ConfigError {
        ConfigError::Unsupported { key: self.key_path(key), value: value.into() }
    }

    pub(super) fn invalid(&self, key: &str, value: impl std::fmt::Display, reason: impl Into<String>) -> ConfigError {
        ConfigError::Invalid { key: self.key_path(key), value: value.to_string(), reason: reason.into() }
    }

    /// Refuses every key that is left and could change the maths.
    pub(super) fn finish(&self) -> Result<(), ConfigError> {
        let off = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(keys) => keys.is_empty(),
            _ => false,
        };
        let keys: Vec<String> = self
            .keys
            .iter()
            .filter(|(key, value)| !NEUTRAL_KEYS.contains(&key.as_str()) && !off(value))
            .map(|(key, value)| format!("`{}` = {value}", self.key_path(key)))
            .collect();
        if keys.is_empty() { Ok(()) } else { Err(ConfigError::Unknown { keys }) }
    }

    fn take<T>(
        &mut self,
        key: &str,
        reason: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        match self.keys.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match read(&value) {
                Some(read) => Ok(Some(read)),
                None => Err(self.invalid(key, value, reason)),
            },
        }
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, ConfigError> {
        value.ok_or_else(|| self.missing(key))
    }

    fn key_path(&self, key: &str) -> String {
        if self.path.is_empty() { key.into() } else { format!("{}.{key}", self.path) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absurd_number_of_layers_is_refused() {
        let mut config = HfConfig::parse(br#"{"layers": 1000000000000}"#).unwrap();
        let error = config.layer_count("layers").unwrap_err();
        assert!(matches!(&error, ConfigError::Invalid { key, .. } if key == "layers"), "{error}");
    }

    #[test]
    fn unknown_keys_are_refused_unless_they_are_off_or_neutral() {
        let finish = |json: &str| HfConfig::parse(json.as_bytes()).unwrap().finish();
        assert_eq!(finish(r#"{"use_cache": true, "new_feature": false, "other": null, "list": []}"#), Ok(()));
        let keys = vec!["`new_feature` = 2".to_owned()];
        assert_eq!(finish(r#"{"new_feature": 2}"#), Err(ConfigError::Unknown { keys }));
    }
}
