//! Activation names of configurations.

use super::Activation;
use super::config::{ConfigError, HfConfig};

impl Activation {
    /// Reads an activation under the first of `keys` that is there.
    pub(super) fn from_config(config: &mut HfConfig, keys: &[&str]) -> Result<Self, ConfigError> {
        let mut found = None;
        for key in keys {
            // Every key is taken, so that a second one does not count as unknown.
            let name = config.optional_string(key)?;
            found = found.or(name.map(|name| (*key, name)));
        }
        let Some((key, name)) = found else {
            return Err(ConfigError::Missing { key: keys.join("` or `") });
        };
        match name.as_str() {
            "silu" | "swish" => Ok(Self::Silu),
            "gelu" => Ok(Self::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" => Ok(Self::GeluTanh),
            "relu" => Ok(Self::Relu),
            other => Err(config.unsupported(key, other)),
        }
    }
}
