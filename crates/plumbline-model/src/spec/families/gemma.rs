//! Gemma 1 to 3: norm weights stored around 0, scaled embeddings, soft-caps, windows on some layers.

use serde_json::{Map, Value};

use crate::spec::config::{ConfigError, HfConfig};
use crate::spec::layout::Layout;
use crate::spec::rope::RopeSpec;
use crate::spec::windows::Windows;
use crate::spec::{DecoderSpec, QkNormScope};

fn layout(config: &mut HfConfig, windows: Windows) -> Result<Layout, ConfigError> {
    let bias = config.flag("attention_bias", false)?;
    Ok(Layout {
        norm_weight_offset: 1.0,
        activation_keys: &["hidden_activation", "hidden_act"],
        qkv_bias: bias,
        output_bias: bias,
        windows,
        tied: true,
        ..Layout::default()
    })
}

fn scale_embeddings(spec: &mut DecoderSpec) {
    spec.embedding_multiplier = (spec.hidden_size as f64).sqrt();
}

pub(super) fn gemma(config: &mut HfConfig) -> Result<DecoderSpec, ConfigError> {
    let mut spec = layout(config, Windows::default())?.read(config)?;
    scale_embeddings(&mut spec);
    Ok(spec)
}

pub(super) fn gemma2(config: &mut HfConfig) -> Result<DecoderSpec, ConfigError> {
    let windows = Windows::gemma(config, 2)?;
    let layout = layout(config, windows)?;
    let mut spec = layout.read(config)?;
    sandwich(&mut spec, config, &layout)?;
    Ok(spec)
}

/// Base of the rotary embedding of layers with a window where the configuration does not say.
const LOCAL_THETA: f64 = 10_000.0;

pub(super) fn gemma3_text(config: &mut HfConfig) -> Result<DecoderSpec, ConfigError> {
    let public = config.optional_usize("sliding_window_pattern")?;
    let private = config.optional_usize("_sliding_window_pattern")?;
    let windows = Windows::gemma(config, public.or(private).filter(|pattern| *pattern > 0).unwrap_or(6))?;
    let layout = Layout { rotary_theta: 1_000_000.0, ..layout(config, windows)? };
    // One rotary embedding for layers that see everything, and one for those with a window.
    let mut types = match config.value("rope_parameters") {
        Some(Value::Object(types)) if types.contains_key("full_attention") => types,
        Some(other) => {
            config.put("rope_parameters", other);
            Map::new()
        }
        None => Map::new(),
    };
    let (full, sliding) = (types.remove("full_attention"), types.remove("sliding_attention"));
    if let Some((other, value)) = types.into_iter().next() {
        return Err(config.invalid("rope_parameters", value, format!("`{other}` is no layer type of this family")));
    }
    if let Some(parameters) = full {
        config.put("rope_parameters", parameters);
    }
    let local_theta = config.optional_f64("rope_local_base_freq")?.unwrap_or(LOCAL_THETA);
    let mut spec = layout.read(config)?;
    let dim = spec.ropes[0].dim;
    spec.ropes.push(match sliding {
        Some(parameters) => {
            config.put("rope_parameters", parameters);
            RopeSpec::from_config(config, dim, (LOCAL_THETA, 1.0), spec.max_positions)?
        }
        None => RopeSpec::plain(dim, local_theta),
    });
    for layer in &mut spec.layers {
        layer.attention.rope = Some(usize::from(layer.attention.window.is_some()));
    }
    let eps = spec.final_norm.eps;
    spec.add_qk_norm(QkNormScope::Head, |name| layout.norm(name, eps));
    sandwich(&mut spec, config, &layout)?;
    Ok(spec)
}

/// Norms before and after attention and MLP, soft-caps, and a scale that is not the head's width.
fn sandwich(spec: &mut DecoderSpec, config: &mut HfConfig, layout: &Layout) -> Result<(), ConfigError> {
    scale_embeddings(spec);
    spec.head.softcap = config.optional_f64("final_logit_softcapping")?;
    let softcap = config.optional_f64("attn_logit_softcapping")?;
    let scale = 1.0 / config.f64("query_pre_attn_scalar")?.sqrt();
    let eps = spec.final_norm.eps;
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        let norm = |part: &str| Some(layout.norm(format!("model.layers.{index}.{part}"), eps));
        layer.attention.scale = scale;
        layer.attention.softcap = softcap;
        layer.post_attention = norm("post_attention_layernorm");
        layer.pre_mlp = norm("pre_feedforward_layernorm");
        layer.post_mlp = norm("post_feedforward_layernorm");
    }
    Ok(())
}
