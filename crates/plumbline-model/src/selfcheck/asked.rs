//! What a `config.json` asks for, put into the form that candle-transformers reads, and held against what it can do.
//!
//! Values come from the JSON itself and not from our [`DecoderSpec`], so that a key that we misread shows as a
//! disagreement. The spec only says which features are in play.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::spec::{Activation, AttentionProjection, DecoderSpec, MlpSpec, RopeScaling};

/// Why there is no second opinion on a model.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unsupported(pub(super) String);

impl From<candle_core::Error> for Unsupported {
    fn from(error: candle_core::Error) -> Self {
        Self(format!("candle-transformers' model does not take this one: {}", crate::error::message(&error)))
    }
}

/// A configuration on its way to candle-transformers.
pub(super) struct Asked<'a> {
    keys: Map<String, Value>,
    pub(super) spec: &'a DecoderSpec,
    /// Longest sequence on which the two implementations mean the same.
    pub(super) longest: usize,
    pub(super) notes: Vec<String>,
}

impl<'a> Asked<'a> {
    /// `longest` is the length of the longest sequence that is going to be compared.
    pub(super) fn new(config: &[u8], spec: &'a DecoderSpec, longest: usize) -> Result<Self, Unsupported> {
        let keys = serde_json::from_slice(config).map_err(|error| Unsupported(format!("config.json: {error}")))?;
        let longest = longest.min(spec.max_positions);
        let mut asked = Self { keys, spec, longest, notes: Vec::new() };
        // Lists of ids are not accepted everywhere, and no forward depends on them.
        for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
            asked.keys.remove(key);
        }
        asked.flatten_rope();
        asked.default("tie_word_embeddings", json!(spec.head.weight.is_none()));
        asked.default("attention_bias", json!(false));
        // Some models make tables (one a layer) for all positions; more than are used would only cost memory.
        asked.set("max_position_embeddings", json!(longest));
        Ok(asked)
    }

    /// candle-transformers reads the keys of transformers 4: `rope_theta`, `partial_rotary_factor`, `rope_scaling`.
    fn flatten_rope(&mut self) {
        let mut rope = match self.keys.remove("rope_parameters").or_else(|| self.keys.get("rope_scaling").cloned()) {
            Some(Value::Object(rope)) => rope,
            _ => Map::new(),
        };
        if let Some(local) = rope.remove("sliding_attention") {
            self.set("rope_local_base_freq", local["rope_theta"].clone());
        }
        if let Some(Value::Object(full)) = rope.remove("full_attention") {
            rope = full;
        }
        for key in ["rope_theta", "partial_rotary_factor"] {
            if let Some(value) = rope.remove(key) {
                self.set(key, value);
            }
        }
        let kind = rope.get("rope_type").or_else(|| rope.get("type")).cloned();
        match kind.filter(|kind| kind != "default") {
            Some(kind) => {
                rope.insert("rope_type".into(), kind.clone());
                rope.insert("type".into(), kind);
                self.set("rope_scaling", Value::Object(rope));
            }
            None => {
                self.keys.remove("rope_scaling");
            }
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn set(&mut self, key: &str, value: Value) {
        self.keys.insert(key.into(), value);
    }

    /// Sets what is absent or null.
    pub(super) fn default(&mut self, key: &str, value: Value) {
        if self.get(key).is_none() {
            self.set(key, value);
        }
    }

    pub(super) fn remove(&mut self, key: &str) {
        self.keys.remove(key);
    }

    /// The configuration as candle-transformers' type.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, Unsupported> {
        serde_json::from_value(Value::Object(self.keys.clone()))
            .map_err(|error| Unsupported(format!("candle-transformers cannot read this configuration: {error}")))
    }

    /// The implementation rotates without any scaling.
    pub(super) fn needs_plain_rope(&mut self) -> Result<(), Unsupported> {
        for rope in &self.spec.ropes {
            match &rope.scaling {
                RopeScaling::Default => {}
                RopeScaling::Dynamic { max_positions, .. } => {
                    // The next token counts: the scaling is that of the sequence with it.
                    self.longest = self.longest.min(max_positions.saturating_sub(1).max(1));
                    self.notes.push(format!(
                        "candle-transformers has no dynamic RoPE scaling, which begins after {max_positions} tokens, so it \
                         was not checked"
                    ));
                }
                other => {
                    return Err(Unsupported(format!("candle-transformers has no {} for this family", named(other))));
                }
            }
        }
        Ok(())
    }

    /// The implementation takes `hidden_size / num_attention_heads` for the width of a head.
    pub(super) fn needs_standard_heads(&self) -> Result<(), Unsupported> {
        if self.has_standard_heads() {
            return Ok(());
        }
        Err(Unsupported("candle-transformers ignores head_dim for this family".into()))
    }

    pub(super) fn has_standard_heads(&self) -> bool {
        let heads = |layer: &crate::spec::LayerSpec| layer.attention.heads * layer.attention.head_dim;
        self.spec.layers.iter().all(|layer| heads(layer) == self.spec.hidden_size)
    }

    pub(super) fn needs_silu(&self) -> Result<(), Unsupported> {
        let silu = |mlp: &MlpSpec| matches!(mlp, MlpSpec::Gated(gated) if gated.activation == Activation::Silu);
        if self.spec.layers.iter().all(|layer| silu(&layer.mlp)) {
            return Ok(());
        }
        Err(Unsupported("candle-transformers has only silu for this family".into()))
    }

    pub(super) fn has_biases(&self) -> bool {
        self.spec.layers.iter().any(|layer| {
            let attention = match &layer.attention.projection {
                AttentionProjection::Direct { qkv, .. } => qkv.bias || layer.attention.output.bias,
                AttentionProjection::Latent(_) => layer.attention.output.bias,
            };
            attention || matches!(&layer.mlp, MlpSpec::Gated(gated) if gated.gate_up.bias)
        })
    }

    pub(super) fn needs_tied_head(&self) -> Result<(), Unsupported> {
        if self.spec.head.weight.is_none() {
            return Ok(());
        }
        Err(Unsupported("candle-transformers always ties the head to the embedding for this family".into()))
    }

    /// The implementation scales attention by the width of a head, whatever the configuration says.
    pub(super) fn needs_standard_scale(&self, key: &str) -> Result<(), Unsupported> {
        let standard = |layer: &crate::spec::LayerSpec| {
            let attention = &layer.attention;
            (attention.scale * (attention.head_dim as f64).sqrt() - 1.0).abs() < 1e-9
        };
        if self.spec.layers.iter().all(standard) {
            return Ok(());
        }
        Err(Unsupported(format!("candle-transformers scales attention by the width of a head and ignores {key}")))
    }

    /// Windows of the layers; `None` = the layer sees everything before it.
    fn windows(&self) -> Vec<Option<usize>> {
        self.spec.layers.iter().map(|layer| layer.attention.window).collect()
    }

    /// The implementation has no windows: only sequences that fit into the smallest one mean the same.
    pub(super) fn without_windows(&mut self) {
        if let Some(window) = self.windows().into_iter().flatten().min() {
            self.longest = self.longest.min(window);
        }
    }

    /// The window for an implementation that has the same one on every layer, as that counts it.
    pub(super) fn window_of_every_layer(&mut self) -> Option<usize> {
        let windows = self.windows();
        match windows.first() {
            Some(Some(window)) if windows.iter().all(|other| other == &Some(*window)) => Some(self.shifted(*window)),
            _ => {
                self.without_windows();
                None
            }
        }
    }

    /// The window as candle-transformers' masks count it: they let a query see one key more.
    pub(super) fn shifted(&mut self, window: usize) -> usize {
        self.notes.push(format!(
            "candle-transformers' masks let a query see one key more than the sliding window, so it was given {} for {window}",
            window - 1
        ));
        window - 1
    }

    /// `(window, n)` where all layers but every n-th have the same window; the window is [`Asked::shifted`].
    pub(super) fn window_pattern(&mut self) -> Option<(usize, usize)> {
        let windows = self.windows();
        let pattern = windows.iter().position(Option::is_none).unwrap_or(windows.len()) + 1;
        let Some(window) = windows.iter().flatten().copied().next() else {
            return (pattern == 1).then_some((self.longest, pattern));
        };
        let expected = (1..=windows.len()).map(|layer| (!layer.is_multiple_of(pattern)).then_some(window));
        windows.iter().copied().eq(expected).then(|| (self.shifted(window), pattern))
    }
}

fn named(scaling: &RopeScaling) -> &'static str {
    match scaling {
        RopeScaling::Default => "plain RoPE",
        RopeScaling::Linear { .. } => "linear RoPE scaling",
        RopeScaling::Dynamic { .. } => "dynamic RoPE scaling",
        RopeScaling::Yarn(_) => "YaRN",
        RopeScaling::LongRope { .. } => "longrope scaling",
        RopeScaling::Llama3 { .. } => "llama3 RoPE scaling",
    }
}
