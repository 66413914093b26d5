//! Families that are not gated: GPT-2, GPT-NeoX, StarCoder 2.

use crate::spec::config::{ConfigError, HfConfig};
use crate::spec::layout::{Layout, MlpLayout};
use crate::spec::rope::{DEFAULT_THETA, RopeSpec};
use crate::spec::windows::Windows;
use crate::spec::{
    Activation, AttentionProjection, AttentionSpec, DecoderSpec, HeadSpec, LayerSpec, MlpSpec, NormKind, NormSpec,
    ProjectionSpec, WeightLayout,
};

fn layer_norm(name: String, eps: f64) -> NormSpec {
    NormSpec { name, kind: NormKind::Layer, eps, weight_offset: 0.0, bias: true }
}

/// Llama's names, LayerNorm and biases everywhere.
pub(super) fn starcoder2(config: &mut HfConfig) -> Result<DecoderSpec, ConfigError> {
    let bias = config.flag("use_bias", true)?;
    Layout {
        norm: NormKind::Layer,
        norm_bias: true,
        eps_key: "norm_epsilon",
        mlp: MlpLayout::Plain,
        qkv_bias: bias,
        output_bias: bias,
        mlp_bias: bias,
        windows: Windows::everywhere(config, None)?,
        tied: true,
        ..Layout::default()
    }
    .read(config)
}

/// What GPT-2 and GPT-NeoX share: equal heads, one stored query/key/value projection, LayerNorms with bias.
struct Block {
    hidden: usize,
    heads: usize,
    intermediate: usize,
    eps: f64,
    activation: Activation,
    bias: bool,
    layout: WeightLayout,
    qkv_layout: WeightLayout,
}

struct BlockNames {
    prefix: String,
    norms: [&'static str; 2],
    qkv: &'static str,
    output: &'static str,
    up: &'static str,
    down: &'static str,
}

impl Block {
    fn layer(&self, names: &BlockNames, scale: f64, rope: Option<usize>, parallel: bool) -> LayerSpec {
        let Self { hidden, heads, intermediate, eps, activation, bias, layout, qkv_layout } = *self;
        let name = |part: &str| format!("{}{part}", names.prefix);
        let projection = |part: &str, input, output, bias, layout| ProjectionSpec {
            layout,
            ..ProjectionSpec::single(name(part), input, output, bias)
        };
        LayerSpec {
            pre_attention: Some(layer_norm(name(names.norms[0]), eps)),
            attention: AttentionSpec {
                heads,
                kv_heads: heads,
                head_dim: hidden / heads,
                value_dim: hidden / heads,
                scale,
                projection: AttentionProjection::Direct {
                    qkv: projection(names.qkv, hidden, 3 * hidden, bias, qkv_layout),
                    qk_norm: None,
                },
                output: projection(names.output, hidden, hidden, bias, layout),
                rope,
                window: None,
                softcap: None,
            },
            post_attention: None,
            pre_mlp: Some(layer_norm(name(names.norms[1]), eps)),
            mlp: MlpSpec::Plain {
                up: projection(names.up, hidden, intermediate, true, layout),
                down: projection(names.down, intermediate, hidden, true, layout),
                activation,
            },
            post_mlp: None,
            parallel,
            residual_multiplier: 1.0,
        }
    }
}

fn head_count(config: &mut HfConfig, key: &str, hidden: usize) -> Result<usize, ConfigError> {
    let heads = config.count(key)?;
    if hidden.is_multiple_of(heads) { Ok(heads) } else { Err(config.invalid(key, heads, "does not divide the width")) }
}

pub(super) fn gpt2(config: &mut HfConfig) -> Result<DecoderSpec, ConfigError> {
    let hidden = config.count("n_embd")?;
    let block = Block {
        hidden,
        heads: head_count(config, "n_head", hidden)?,
        intermediate: config.optional_usize("n_inner")?.unwrap_or(4 * hidden),
        eps: config.f64("layer_norm_epsilon")?,
        activation: Activation::from_config(config, &["activation_function"])?,
        bias: true,
        layout: WeightLayout::InOut,
        qkv_layout: WeightLayout::InOut,
    };
    let scaled = config.flag("scale_attn_weights", true)?;
    let by_layer = config.flag("scale_attn_by_inverse_layer_idx", false)?;
    let layers = (0..config.layer_count("n_layer")?)
        .map(|index| {
            let names = BlockNames {
                prefix: format!("transformer.h.{index}."),
                norms: ["ln_1", "ln_2"],
                qkv: "attn.c_attn",
                output: "attn.c_proj",
                up: "mlp.c_fc",
                down: "mlp.c_proj",
            };
            let scale = if scaled { 1.0 / ((hidden / block.heads) as f64).sqrt() } else { 1.0 };
            block.layer(&names, if by_layer { scale / (index + 1) as f64 } else { scale }, None, false)
        })
        .collect();
    let tied = config.flag("tie_word_embeddings", true)?;
    Ok(DecoderSpec {
        family: String::new(),
        base_prefix: "transformer.".into(),
        vocab_size: config.count("vocab_size")?,
        hidden_size: hidden,
        max_positions: config.count("n_positions")?,
        embedding: "transformer.wte.weight".into(),
        embedding_multiplier: 1.0,
        learned_positions: Some("transformer.wpe.weight".into()),
        ropes: Vec::new(),
        layers,
        final_norm: layer_norm("transformer.ln_f".into(), block.eps),
        head: HeadSpec { weight: (!tied).then(|| "lm_head.weight".into()), bias: None, multiplier: 1.0, softcap: None },
        ignorable_tensors: vec![".attn.bias".into(), ".attn.masked_bias".into()],
        eos_token_ids: Vec::new(),
    })
}

pub(super) fn gpt_neox(config: &mut HfConfig) -> Result<DecoderSpec, ConfigError> {
    let hidden = config.count("hidden_size")?;
    let heads = head_count(config, "num_attention_heads", hidden)?;
    // All heads have keys of their own here, whatever a generic script wrote.
    config.discard("num_key_value_heads");
    let block = Block {
        hidden,
        heads,
        intermediate: config.count("intermediate_size")?,
        eps: config.f64("layer_norm_eps")?,
        activation: Activation::from_config(config, &["hidden_act"])?,
        bias: config.flag("attention_bias", true)?,
        layout: WeightLayout::OutIn,
        qkv_layout: WeightLayout::HeadsInterleaved { heads },
    };
    let max_positions = config.count("max_position_embeddings")?;
    let fraction = config.optional_f64("rotary_pct")?.unwrap_or(0.25);
    if let Some(theta) = config.optional_f64("rotary_emb_base")? {
        config.put("rope_theta", theta.into());
    }
    let rope = RopeSpec::from_config(config, hidden / heads, (DEFAULT_THETA, fraction), max_positions)?;
    let parallel = config.flag("use_parallel_residual", true)?;
    let tied = config.flag("tie_word_embeddings", false)?;
    let layers = (0..config.layer_count("num_hidden_layers")?)
        .map(|index| {
            let names = BlockNames {
                prefix: format!("gpt_neox.layers.{index}."),
                norms: ["input_layernorm", "post_attention_layernorm"],
                qkv: "attention.query_key_value",
                output: "attention.dense",
                up: "mlp.dense_h_to_4h",
                down: "mlp.dense_4h_to_h",
            };
            block.layer(&names, 1.0 / ((hidden / heads) as f64).sqrt(), Some(0), parallel)
        })
        .collect();
    Ok(DecoderSpec {
        family: String::new(),
        base_prefix: "gpt_neox.".into(),
        vocab_size: config.count("vocab_size")?,
        hidden_size: hidden,
        max_positions: rope.longest_context(max_positions),
        embedding: "gpt_neox.embed_in.weight".into(),
        embedding_multiplier: 1.0,
        learned_positions: None,
        ropes: vec![rope],
        layers,
        final_norm: layer_norm("gpt_neox.final_layer_norm".into(), block.eps),
        head: HeadSpec {
            weight: (!tied).then(|| "embed_out.weight".into()),
            bias: None,
            multiplier: 1.0,
            softcap: None,
        },
        ignorable_tensors: vec![".attention.bias".into(), ".attention.masked_bias".into()],
        eos_token_ids: Vec::new(),
    })
}
