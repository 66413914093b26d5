//! One function per model family: its `config.json` as a [`DecoderSpec`].

use super::config::{ConfigError, HfConfig};
use super::{
    Activation, AttentionSpec, DecoderSpec, HeadSpec, LayerSpec, MlpSpec, NormKind, NormSpec, ProjectionSpec,
    QkNormScope, QkNormSpec, RopeSpec,
};

type Family = fn(&mut HfConfig) -> Result<DecoderSpec, ConfigError>;

/// Every supported `model_type`.
const FAMILIES: &[(&str, Family)] = &[("llama", llama), ("qwen2", qwen2), ("qwen3", qwen3)];

impl DecoderSpec {
    /// Reads a Hugging Face `config.json`.
    ///
    /// # Errors
    /// [`ConfigError`] names the family or key that is not supported, missing, or unknown.
    pub fn from_config_json(json: &[u8]) -> Result<Self, ConfigError> {
        let mut config = HfConfig::parse(json)?;
        let family = config.string("model_type")?;
        let Some((_, read)) = FAMILIES.iter().find(|(name, _)| *name == family) else {
            let supported = FAMILIES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            return Err(ConfigError::UnknownFamily { family, supported });
        };
        let mut spec = read(&mut config)?;
        spec.family = family;
        spec.eos_token_ids = config.token_ids("eos_token_id")?;
        config.finish()?;
        Ok(spec)
    }

    /// Adds the EOS ids of a `generation_config.json`; everything else in it is about sampling.
    ///
    /// # Errors
    /// [`ConfigError`] if it is not JSON or its ids are none.
    pub fn add_generation_config(&mut self, json: &[u8]) -> Result<(), ConfigError> {
        for id in HfConfig::parse(json)?.token_ids("eos_token_id")? {
            if !self.eos_token_ids.contains(&id) {
                self.eos_token_ids.push(id);
            }
        }
        Ok(())
    }
}

fn llama(config: &mut HfConfig) -> Result<DecoderSpec, ConfigError> {
    let qkv_bias = config.flag("attention_bias", false)?;
    let mlp_bias = config.flag("mlp_bias", false)?;
    LlamaLike { qkv_bias, output_bias: qkv_bias, mlp_bias, qk_norm: false, windows: Windows::default() }.read(config)
}

fn qwen2(config: &mut HfConfig) -> Result<DecoderSpec, ConfigError> {
    let windows = Windows::qwen(config)?;
    LlamaLike { qkv_bias: true, output_bias: false, mlp_bias: false, qk_norm: false, windows }.read(config)
}

fn qwen3(config: &mut HfConfig) -> Result<DecoderSpec, ConfigError> {
    let qkv_bias = config.flag("attention_bias", false)?;
    let windows = Windows::qwen(config)?;
    LlamaLike { qkv_bias, output_bias: qkv_bias, mlp_bias: false, qk_norm: true, windows }.read(config)
}

/// Which layers see only a window.
#[derive(Debug, Default)]
struct Windows {
    window: Option<usize>,
    /// By layer; `None` = as `first_windowed` says.
    layer_types: Option<Vec<String>>,
    /// Layers from here on are windowed.
    first_windowed: usize,
}

impl Windows {
    /// `use_sliding_window` switches `sliding_window` on for the layers from `max_window_layers` on, or as `layer_types` says.
    fn qwen(config: &mut HfConfig) -> Result<Self, ConfigError> {
        let on = config.flag("use_sliding_window", false)?;
        let window = config.optional_usize("sliding_window")?.filter(|_| on);
        let first_windowed = config.optional_usize("max_window_layers")?.unwrap_or(28);
        Ok(Self { window, layer_types: config.strings("layer_types")?, first_windowed })
    }

    fn of_layer(&self, config: &HfConfig, layer: usize) -> Result<Option<usize>, ConfigError> {
        match &self.layer_types {
            None => Ok(self.window.filter(|_| layer >= self.first_windowed)),
            Some(types) => match types.get(layer).map(String::as_str) {
                Some("full_attention") => Ok(None),
                Some("sliding_attention") if self.window.is_some() => Ok(self.window),
                Some("sliding_attention") => {
                    Err(config.invalid("sliding_window", "null", "layer_types asks for a window"))
                }
                Some(other) => Err(config.unsupported("layer_types", other)),
                None => Err(config.invalid("layer_types", format!("{types:?}"), "has fewer entries than layers")),
            },
        }
    }
}

/// The layout that Llama made common: pre-norm RMS, rotary attention, gated MLP.
#[derive(Debug)]
struct LlamaLike {
    qkv_bias: bool,
    output_bias: bool,
    mlp_bias: bool,
    qk_norm: bool,
    windows: Windows,
}

impl LlamaLike {
    fn read(self, config: &mut HfConfig) -> Result<DecoderSpec, ConfigError> {
        let vocab_size = config.count("vocab_size")?;
        let hidden = config.count("hidden_size")?;
        let intermediate = config.count("intermediate_size")?;
        let layers = config.count("num_hidden_layers")?;
        let heads = config.count("num_attention_heads")?;
        let kv_heads = config.optional_usize("num_key_value_heads")?.unwrap_or(heads);
        let head_dim = match config.optional_usize("head_dim")? {
            Some(head_dim) => head_dim,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => return Err(config.invalid("num_attention_heads", heads, "does not divide hidden_size")),
        };
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(config.invalid("num_key_value_heads", kv_heads, "must divide num_attention_heads"));
        }
        if head_dim == 0 || !head_dim.is_multiple_of(2) {
            return Err(config.invalid("head_dim", head_dim, "must be even"));
        }
        let max_positions = config.count("max_position_embeddings")?;
        let eps = config.f64("rms_norm_eps")?;
        let activation = activation(config, "hidden_act")?;
        let rope = RopeSpec::from_config(config, head_dim)?;
        let tied = config.flag("tie_word_embeddings", false)?;
        let norm = |name: String| NormSpec { name, kind: NormKind::Rms, eps, weight_offset: 0.0, bias: false };
        let layers = (0..layers)
            .map(|index| {
                let name = |part: &str| format!("model.layers.{index}.{part}");
                let qk_norm = self.qk_norm.then(|| QkNormSpec {
                    query: norm(name("self_attn.q_norm")),
                    key: norm(name("self_attn.k_norm")),
                    scope: QkNormScope::Head,
                });
                Ok(LayerSpec {
                    pre_attention: Some(norm(name("input_layernorm"))),
                    attention: AttentionSpec {
                        heads,
                        kv_heads,
                        head_dim,
                        scale: 1.0 / (head_dim as f64).sqrt(),
                        qkv: ProjectionSpec {
                            parts: vec![
                                (name("self_attn.q_proj"), heads * head_dim),
                                (name("self_attn.k_proj"), kv_heads * head_dim),
                                (name("self_attn.v_proj"), kv_heads * head_dim),
                            ],
                            input: hidden,
                            bias: self.qkv_bias,
                        },
                        output: ProjectionSpec {
                            parts: vec![(name("self_attn.o_proj"), hidden)],
                            input: heads * head_dim,
                            bias: self.output_bias,
                        },
                        qk_norm,
                        rope: Some(0),
                        window: self.windows.of_layer(config, index)?,
                        softcap: None,
                    },
                    post_attention: None,
                    pre_mlp: Some(norm(name("post_attention_layernorm"))),
                    mlp: MlpSpec::Gated {
                        gate_up: ProjectionSpec {
                            parts: vec![(name("mlp.gate_proj"), intermediate), (name("mlp.up_proj"), intermediate)],
                            input: hidden,
                            bias: self.mlp_bias,
                        },
                        down: ProjectionSpec {
                            parts: vec![(name("mlp.down_proj"), hidden)],
                            input: intermediate,
                            bias: self.mlp_bias,
                        },
                        activation,
                    },
                    post_mlp: None,
                    parallel: false,
                    residual_multiplier: 1.0,
                })
            })
            .collect::<Result<_, ConfigError>>()?;
        Ok(DecoderSpec {
            family: String::new(),
            vocab_size,
            hidden_size: hidden,
            max_positions,
            embedding: "model.embed_tokens.weight".into(),
            embedding_multiplier: 1.0,
            ropes: vec![rope],
            layers,
            final_norm: norm("model.norm".into()),
            head: HeadSpec {
                weight: (!tied).then(|| "lm_head.weight".into()),
                bias: None,
                multiplier: 1.0,
                softcap: None,
            },
            eos_token_ids: Vec::new(),
        })
    }
}

fn activation(config: &mut HfConfig, key: &str) -> Result<Activation, ConfigError> {
    match config.string(key)?.as_str() {
        "silu" | "swish" => Ok(Activation::Silu),
        other => Err(config.unsupported(key, other)),
    }
}
