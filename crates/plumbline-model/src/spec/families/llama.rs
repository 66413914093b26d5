//! Llama and the families closest to it.

use crate::spec::config::{ConfigError, HfConfig};
use crate::spec::layout::Layout;
use crate::spec::windows::Windows;
use crate::spec::{DecoderSpec, QkNormScope};

/// `attention_bias` and `mlp_bias` as Llama has them.
fn with_biases(config: &mut HfConfig) -> Result<Layout, ConfigError> {
    let attention_bias = config.flag("attention_bias", false)?;
    Ok(Layout {
        qkv_bias: attention_bias,
        output_bias: attention_bias,
        mlp_bias: config.flag("mlp_bias", false)?,
        ..Layout::default()
    })
}

pub(super) fn llama(config: &mut HfConfig) -> Result<DecoderSpec, ConfigError> {
    with_biases(config)?.read(config)
}

pub(super) fn mistral(config: &mut HfConfig) -> Result<DecoderSpec, ConfigError> {
    Layout { windows: Windows::everywhere(config, Some(4096))?, ..Layout::default() }.read(config)
}

pub(super) fn qwen2(config: &mut HfConfig) -> Result<DecoderSpec, ConfigError> {
    Layout { qkv_bias: true, windows: Windows::qwen(config)?, ..Layout::default() }.read(config)
}

pub(super) fn qwen3(config: &mut HfConfig) -> Result<DecoderSpec, ConfigError> {
    let bias = config.flag("attention_bias", false)?;
    let layout = Layout { qkv_bias: bias, output_bias: bias, windows: Windows::qwen(config)?, ..Layout::default() };
    let mut spec = layout.read(config)?;
    let eps = spec.final_norm.eps;
    spec.add_qk_norm(QkNormScope::Head, |name| layout.norm(name, eps));
    Ok(spec)
}

/// Llama without rotary embeddings on some layers.
pub(super) fn smollm3(config: &mut HfConfig) -> Result<DecoderSpec, ConfigError> {
    let layout =
        Layout { windows: Windows::qwen(config)?, tied: true, rotary_theta: 2_000_000.0, ..with_biases(config)? };
    let mut spec = layout.read(config)?;
    let interval = config.optional_usize("no_rope_layer_interval")?.unwrap_or(4);
    let listed = config.integers("no_rope_layers")?;
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        let rotates = match &listed {
            Some(flags) => match flags.get(index) {
                Some(flag) => *flag != 0,
                None => return Err(config.invalid("no_rope_layers", flags.len(), "has fewer entries than layers")),
            },
            None => interval == 0 || !(index + 1).is_multiple_of(interval),
        };
        if !rotates {
            layer.attention.rope = None;
        }
    }
    Ok(spec)
}

/// Llama with four multipliers.
pub(super) fn granite(config: &mut HfConfig) -> Result<DecoderSpec, ConfigError> {
    let mut spec = with_biases(config)?.read(config)?;
    spec.embedding_multiplier = config.f64("embedding_multiplier")?;
    spec.head.multiplier = 1.0 / config.f64("logits_scaling")?;
    let (attention, residual) = (config.f64("attention_multiplier")?, config.f64("residual_multiplier")?);
    for layer in &mut spec.layers {
        layer.attention.scale = attention;
        layer.residual_multiplier = residual;
    }
    Ok(spec)
}
