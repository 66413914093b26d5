//! Families with Llama's tensor names and a block of their own.

use crate::spec::config::{ConfigError, HfConfig};
use crate::spec::layout::{Layout, MlpLayout};
use crate::spec::windows::Windows;
use crate::spec::{AttentionProjection, DecoderSpec, NormKind, NormSpec, QkNormScope, QkNormSpec};

/// Fused projections, partial rotary embedding, long-context factors.
pub(super) fn phi3(config: &mut HfConfig) -> Result<DecoderSpec, ConfigError> {
    let windows = Windows::everywhere(config, None)?;
    Layout { mlp: MlpLayout::GatedFused, fused_qkv: true, windows, ..Layout::default() }.read(config)
}

/// Norms on the outputs only, and over all query or key channels at once.
pub(super) fn olmo2(config: &mut HfConfig) -> Result<DecoderSpec, ConfigError> {
    let bias = config.flag("attention_bias", false)?;
    let layout = Layout { qkv_bias: bias, output_bias: bias, ..Layout::default() };
    let mut spec = layout.read(config)?;
    let eps = spec.final_norm.eps;
    spec.add_qk_norm(QkNormScope::AllHeads, |name| layout.norm(name, eps));
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        let norm = |part: &str| Some(layout.norm(format!("model.layers.{index}.{part}"), eps));
        (layer.pre_attention, layer.post_attention) = (None, norm("post_attention_layernorm"));
        (layer.pre_mlp, layer.post_mlp) = (None, norm("post_feedforward_layernorm"));
    }
    Ok(spec)
}

/// Norms on inputs and outputs, fused gate and up, pairs of neighbouring channels rotate.
pub(super) fn glm4(config: &mut HfConfig) -> Result<DecoderSpec, ConfigError> {
    let layout = Layout {
        mlp: MlpLayout::GatedFused,
        qkv_bias: config.flag("attention_bias", false)?,
        rope_interleaved: true,
        rotary_fraction: 0.5,
        ..Layout::default()
    };
    let mut spec = layout.read(config)?;
    let eps = spec.final_norm.eps;
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        let norm = |part: &str| Some(layout.norm(format!("model.layers.{index}.{part}"), eps));
        layer.post_attention = norm("post_self_attn_layernorm");
        layer.post_mlp = norm("post_mlp_layernorm");
    }
    Ok(spec)
}

/// LayerNorm, partial rotary embedding, optionally parallel and with a norm of its own for each head.
pub(super) fn stablelm(config: &mut HfConfig) -> Result<DecoderSpec, ConfigError> {
    let layout = Layout {
        norm: NormKind::Layer,
        norm_bias: true,
        eps_key: "layer_norm_eps",
        qkv_bias: config.flag("use_qkv_bias", false)?,
        rotary_fraction: 0.25,
        ..Layout::default()
    };
    let mut spec = layout.read(config)?;
    let eps = spec.final_norm.eps;
    let head_norm = |name| NormSpec { name, kind: NormKind::Layer, eps, weight_offset: 0.0, bias: false };
    let (parallel, qk_norms) = (config.flag("use_parallel_residual", false)?, config.flag("qk_layernorm", false)?);
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        if parallel {
            layer.parallel = true;
            layer.pre_mlp = None;
        }
        if let (true, AttentionProjection::Direct { qk_norm, .. }) = (qk_norms, &mut layer.attention.projection) {
            let name = |part: &str| format!("model.layers.{index}.self_attn.{part}");
            *qk_norm = Some(QkNormSpec {
                query: head_norm(name("q_layernorm")),
                key: head_norm(name("k_layernorm")),
                scope: QkNormScope::EachHeadListed,
            });
        }
    }
    Ok(spec)
}

/// LayerNorm without bias, parallel block, scaled logits, pairs of neighbouring channels rotate.
pub(super) fn cohere(config: &mut HfConfig) -> Result<DecoderSpec, ConfigError> {
    let bias = config.flag("attention_bias", false)?;
    let layout = Layout {
        norm: NormKind::Layer,
        eps_key: "layer_norm_eps",
        qkv_bias: bias,
        output_bias: bias,
        tied: true,
        rope_interleaved: true,
        rotary_theta: 500_000.0,
        ..Layout::default()
    };
    let mut spec = layout.read(config)?;
    spec.head.multiplier = config.f64("logit_scale")?;
    let eps = spec.final_norm.eps;
    if config.flag("use_qk_norm", false)? {
        spec.add_qk_norm(QkNormScope::EachHead, |name| layout.norm(name, eps));
    }
    for layer in &mut spec.layers {
        layer.parallel = true;
        layer.pre_mlp = None;
    }
    Ok(spec)
}
