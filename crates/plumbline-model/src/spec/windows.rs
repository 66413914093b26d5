//! Which layers attend to a sliding window only.

use super::config::{ConfigError, HfConfig};

/// The window of each layer.
#[derive(Debug, Default)]
pub(super) struct Windows {
    window: Option<usize>,
    rule: Rule,
}

#[derive(Debug, Default)]
enum Rule {
    /// All layers.
    #[default]
    Every,
    /// Layers from this one on.
    From(usize),
    /// All but every n-th.
    AllButEvery(usize),
    /// As `layer_types` says.
    Types(Vec<String>),
}

impl Windows {
    /// `sliding_window` on every layer; `default` where the key is absent (Hugging Face's class default).
    pub(super) fn everywhere(config: &mut HfConfig, default: Option<usize>) -> Result<Self, ConfigError> {
        let window = if config.has("sliding_window") { config.optional_usize("sliding_window")? } else { default };
        Ok(Self { window, rule: Rule::Every })
    }

    /// Qwen: `use_sliding_window` switches the window on for the layers from `max_window_layers` on, or as `layer_types` says.
    pub(super) fn qwen(config: &mut HfConfig) -> Result<Self, ConfigError> {
        let on = config.flag("use_sliding_window", false)?;
        let window = config.optional_usize("sliding_window")?.filter(|_| on);
        let first = config.optional_usize("max_window_layers")?.unwrap_or(28);
        Ok(Self { window, rule: Rule::from_types(config, Rule::From(first))? })
    }

    /// Gemma: as `layer_types` says, else all layers but every `pattern`-th.
    pub(super) fn gemma(config: &mut HfConfig, pattern: usize) -> Result<Self, ConfigError> {
        let Self { window, .. } = Self::everywhere(config, Some(4096))?;
        Ok(Self { window, rule: Rule::from_types(config, Rule::AllButEvery(pattern))? })
    }

    /// The window of one layer; `None` = it sees everything before it.
    pub(super) fn of_layer(&self, config: &HfConfig, layer: usize) -> Result<Option<usize>, ConfigError> {
        let windowed = match &self.rule {
            Rule::Every => true,
            Rule::From(first) => layer >= *first,
            Rule::AllButEvery(pattern) => !(layer + 1).is_multiple_of(*pattern),
            Rule::Types(types) => match types.get(layer).map(String::as_str) {
                Some("full_attention") => false,
                Some("sliding_attention") if self.window.is_some() => true,
                Some("sliding_attention") => {
                    return Err(config.invalid("sliding_window", "null", "layer_types asks for a window"));
                }
                Some(other) => return Err(config.unsupported("layer_types", other)),
                None => return Err(config.invalid("layer_types", types.join(", "), "has fewer entries than layers")),
            },
        };
        match self.window.filter(|_| windowed) {
            Some(0) => Err(config.invalid("sliding_window", 0, "a window must hold at least one token")),
            window => Ok(window),
        }
    }
}

impl Rule {
    fn from_types(config: &mut HfConfig, otherwise: Self) -> Result<Self, ConfigError> {
        Ok(config.strings("layer_types")?.map_or(otherwise, Self::Types))
    }
}
