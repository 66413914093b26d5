//! The layout that most families share, read from the keys that most families share. A family reads it with its own
//! [`Layout`] and then changes what differs.

use super::config::{ConfigError, HfConfig};
use super::rope::DEFAULT_THETA;
use super::windows::Windows;
use super::{
    Activation, AttentionProjection, AttentionSpec, DecoderSpec, GatedSpec, HeadSpec, LayerSpec, MlpSpec, NormKind,
    NormSpec, ProjectionSpec, QkNormScope, QkNormSpec, RopeSpec, WeightLayout,
};

/// What distinguishes families with Llama's tensor names. The default is Llama itself.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) norm: NormKind,
    pub(super) norm_bias: bool,
    pub(super) norm_weight_offset: f64,
    pub(super) eps_key: &'static str,
    pub(super) activation_keys: &'static [&'static str],
    pub(super) mlp: MlpLayout,
    pub(super) qkv_bias: bool,
    pub(super) output_bias: bool,
    pub(super) mlp_bias: bool,
    /// Queries, keys and values stored as one `qkv_proj`.
    pub(super) fused_qkv: bool,
    pub(super) windows: Windows,
    /// Value of `tie_word_embeddings` where the key is absent (Hugging Face's class default).
    pub(super) tied: bool,
    pub(super) rope_interleaved: bool,
    /// Value of `partial_rotary_factor` where the key is absent.
    pub(super) rotary_fraction: f64,
    /// Base of the rotary embedding where the configuration does not say.
    pub(super) rotary_theta: f64,
}

/// How the MLP is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MlpLayout {
    /// `gate_proj`, `up_proj`, `down_proj`
    Gated,
    /// `gate_up_proj`, `down_proj`
    GatedFused,
    /// `c_fc`, `c_proj`, not gated
    Plain,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            norm: NormKind::Rms,
            norm_bias: false,
            norm_weight_offset: 0.0,
            eps_key: "rms_norm_eps",
            activation_keys: &["hidden_act"],
            mlp: MlpLayout::Gated,
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            fused_qkv: false,
            windows: Windows::default(),
            tied: false,
            rope_interleaved: false,
            rotary_fraction: 1.0,
            rotary_theta: DEFAULT_THETA,
        }
    }
}

impl Layout {
    /// A norm of this layout.
    pub(super) fn norm(&self, name: String, eps: f64) -> NormSpec {
        NormSpec { name, kind: self.norm, eps, weight_offset: self.norm_weight_offset, bias: self.norm_bias }
    }

    /// Reads the shared keys.
    pub(super) fn read(&self, config: &mut HfConfig) -> Result<DecoderSpec, ConfigError> {
        let vocab_size = config.count("vocab_size")?;
        let hidden = config.count("hidden_size")?;
        let intermediate = config.count("intermediate_size")?;
        let layer_count = config.layer_count("num_hidden_layers")?;
        let heads = Heads::read(config, hidden)?;
        let max_positions = config.count("max_position_embeddings")?;
        let eps = config.f64(self.eps_key)?;
        let activation = Activation::from_config(config, self.activation_keys)?;
        let mut rope =
            RopeSpec::from_config(config, heads.head_dim, (self.rotary_theta, self.rotary_fraction), max_positions)?;
        rope.interleaved = self.rope_interleaved;
        let tied = config.flag("tie_word_embeddings", self.tied)?;

        let mut layers = Vec::with_capacity(layer_count);
        for index in 0..layer_count {
            let name = |part: &str| format!("model.layers.{index}.{part}");
            layers.push(LayerSpec {
                pre_attention: Some(self.norm(name("input_layernorm"), eps)),
                attention: self.attention(&name, hidden, &heads, self.windows.of_layer(config, index)?),
                post_attention: None,
                pre_mlp: Some(self.norm(name("post_attention_layernorm"), eps)),
                mlp: self.mlp(&name, hidden, intermediate, activation),
                post_mlp: None,
                parallel: false,
                residual_multiplier: 1.0,
            });
        }
        Ok(DecoderSpec {
            family: String::new(),
            base_prefix: "model.".into(),
            vocab_size,
            hidden_size: hidden,
            max_positions: rope.longest_context(max_positions),
            embedding: "model.embed_tokens.weight".into(),
            embedding_multiplier: 1.0,
            learned_positions: None,
            ropes: vec![rope],
            layers,
            final_norm: self.norm("model.norm".into(), eps),
            head: HeadSpec {
                weight: (!tied).then(|| "lm_head.weight".into()),
                bias: None,
                multiplier: 1.0,
                softcap: None,
            },
            ignorable_tensors: Vec::new(),
            eos_token_ids: Vec::new(),
        })
    }

    fn attention(
        &self,
        name: &impl Fn(&str) -> String,
        hidden: usize,
        heads: &Heads,
        window: Option<usize>,
    ) -> AttentionSpec {
        let Heads { heads, kv_heads, head_dim } = *heads;
        let parts = if self.fused_qkv {
            vec![(name("self_attn.qkv_proj"), (heads + 2 * kv_heads) * head_dim)]
        } else {
            vec![
                (name("self_attn.q_proj"), heads * head_dim),
                (name("self_attn.k_proj"), kv_heads * head_dim),
                (name("self_attn.v_proj"), kv_heads * head_dim),
            ]
        };
        AttentionSpec {
            heads,
            kv_heads,
            head_dim,
            value_dim: head_dim,
            scale: 1.0 / (head_dim as f64).sqrt(),
            projection: AttentionProjection::Direct {
                qkv: ProjectionSpec { parts, input: hidden, bias: self.qkv_bias, layout: WeightLayout::OutIn },
                qk_norm: None,
            },
            output: ProjectionSpec::single(name("self_attn.o_proj"), heads * head_dim, hidden, self.output_bias),
            rope: Some(0),
            window,
            softcap: None,
        }
    }

    fn mlp(
        &self,
        name: &impl Fn(&str) -> String,
        hidden: usize,
        intermediate: usize,
        activation: Activation,
    ) -> MlpSpec {
        let single = |part: &str, input, output| ProjectionSpec::single(name(part), input, output, self.mlp_bias);
        match self.mlp {
            MlpLayout::Gated => {
                let parts = vec![(name("mlp.gate_proj"), intermediate), (name("mlp.up_proj"), intermediate)];
                MlpSpec::Gated(GatedSpec {
                    gate_up: ProjectionSpec { parts, ..single("", hidden, 0) },
                    down: single("mlp.down_proj", intermediate, hidden),
                    activation,
                })
            }
            MlpLayout::GatedFused => MlpSpec::Gated(GatedSpec {
                gate_up: single("mlp.gate_up_proj", hidden, 2 * intermediate),
                down: single("mlp.down_proj", intermediate, hidden),
                activation,
            }),
            MlpLayout::Plain => MlpSpec::Plain {
                up: single("mlp.c_fc", hidden, intermediate),
                down: single("mlp.c_proj", intermediate, hidden),
                activation,
            },
        }
    }
}

/// Head counts and width.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
}

impl Heads {
    pub(super) fn read(config: &mut HfConfig, hidden: usize) -> Result<Self, ConfigError> {
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
        if head_dim == 0 {
            return Err(config.invalid("head_dim", head_dim, "must be positive"));
        }
        Ok(Self { heads, kv_heads, head_dim })
    }
}

impl DecoderSpec {
    /// Norms queries and keys of every layer with norms called `q_norm` and `k_norm`.
    pub(super) fn add_qk_norm(&mut self, scope: QkNormScope, norm: impl Fn(String) -> NormSpec) {
        for (index, layer) in self.layers.iter_mut().enumerate() {
            let name = |part: &str| format!("model.layers.{index}.self_attn.{part}");
            if let AttentionProjection::Direct { qk_norm, .. } = &mut layer.attention.projection {
                *qk_norm = Some(QkNormSpec { query: norm(name("q_norm")), key: norm(name("k_norm")), scope });
            }
        }
    }
}
