//! Families with a mixture of experts in place of the MLP.

use crate::spec::config::{ConfigError, HfConfig};
use crate::spec::layout::Layout;
use crate::spec::windows::Windows;
use crate::spec::{
    Activation, DecoderSpec, ExpertsSpec, GatedSpec, MlpSpec, ProjectionSpec, QkNormScope, RouterScoring, RouterSpec,
    WeightLayout,
};

/// Tensor names of a gated MLP: gate, up, down.
pub(super) const GATED_NAMES: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];

/// A gated MLP without biases under `prefix`.
pub(super) fn gated(prefix: &str, names: [&str; 3], hidden: usize, width: usize, activation: Activation) -> GatedSpec {
    let name = |part: &str| format!("{prefix}.{part}");
    GatedSpec {
        gate_up: ProjectionSpec {
            parts: vec![(name(names[0]), width), (name(names[1]), width)],
            input: hidden,
            bias: false,
            layout: WeightLayout::OutIn,
        },
        down: ProjectionSpec::single(name(names[2]), width, hidden, false),
        activation,
    }
}

/// A router that takes the best of a softmax.
fn softmax_router(prefix: &str, hidden: usize, experts: usize, chosen: usize, normalise: bool) -> RouterSpec {
    RouterSpec {
        projection: ProjectionSpec::single(format!("{prefix}.gate"), hidden, experts, false),
        chosen,
        scoring: RouterScoring::Softmax,
        choice_bias: None,
        groups: None,
        normalise,
        scale: 1.0,
    }
}

/// Reads the counts of experts, one of `keys` (names changed between versions), and of chosen ones.
pub(super) fn counts(config: &mut HfConfig, keys: &[&str]) -> Result<(usize, usize), ConfigError> {
    let mut experts = None;
    for key in keys {
        experts = experts.or(config.optional_usize(key)?);
    }
    let experts = experts.ok_or_else(|| ConfigError::Missing { key: keys.join("` or `") })?;
    let chosen = config.count("num_experts_per_tok")?;
    if chosen > experts {
        return Err(config.invalid("num_experts_per_tok", chosen, format!("there are only {experts} experts")));
    }
    Ok((experts, chosen))
}

/// Width and activation of the MLP that the shared layout read, before experts take its place.
pub(super) fn dense_mlp(config: &HfConfig, spec: &DecoderSpec) -> Result<(usize, Activation), ConfigError> {
    match spec.layers.first().map(|layer| &layer.mlp) {
        Some(MlpSpec::Gated(gated)) => Ok((gated.down.input, gated.activation)),
        _ => Err(config.missing("num_hidden_layers")),
    }
}

pub(super) fn mixtral(config: &mut HfConfig) -> Result<DecoderSpec, ConfigError> {
    let layout = Layout { windows: Windows::everywhere(config, None)?, rotary_theta: 1_000_000.0, ..Layout::default() };
    let mut spec = layout.read(config)?;
    let (experts, chosen) = counts(config, &["num_local_experts"])?;
    let (hidden, (width, activation)) = (spec.hidden_size, dense_mlp(config, &spec)?);
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        let prefix = format!("model.layers.{index}.block_sparse_moe");
        let expert =
            |expert| gated(&format!("{prefix}.experts.{expert}"), ["w1", "w3", "w2"], hidden, width, activation);
        layer.mlp = MlpSpec::Experts(Box::new(ExpertsSpec {
            router: softmax_router(&prefix, hidden, experts, chosen, true),
            experts: (0..experts).map(expert).collect(),
            shared: None,
            shared_gate: None,
        }));
    }
    Ok(spec)
}

pub(super) fn olmoe(config: &mut HfConfig) -> Result<DecoderSpec, ConfigError> {
    let bias = config.flag("attention_bias", false)?;
    let layout = Layout { qkv_bias: bias, output_bias: bias, ..Layout::default() };
    let mut spec = layout.read(config)?;
    let eps = spec.final_norm.eps;
    spec.add_qk_norm(QkNormScope::AllHeads, |name| layout.norm(name, eps));
    let (experts, chosen) = counts(config, &["num_experts", "num_local_experts"])?;
    let normalise = config.flag("norm_topk_prob", false)?;
    let (hidden, (width, activation)) = (spec.hidden_size, dense_mlp(config, &spec)?);
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        let prefix = format!("model.layers.{index}.mlp");
        let expert = |expert| gated(&format!("{prefix}.experts.{expert}"), GATED_NAMES, hidden, width, activation);
        layer.mlp = MlpSpec::Experts(Box::new(ExpertsSpec {
            router: softmax_router(&prefix, hidden, experts, chosen, normalise),
            experts: (0..experts).map(expert).collect(),
            shared: None,
            shared_gate: None,
        }));
    }
    Ok(spec)
}

pub(super) fn qwen2_moe(config: &mut HfConfig) -> Result<DecoderSpec, ConfigError> {
    let qkv_bias = config.flag("qkv_bias", true)?;
    let layout = Layout { qkv_bias, windows: Windows::qwen(config)?, ..Layout::default() };
    let mut spec = layout.read(config)?;
    let shared = config.count("shared_expert_intermediate_size")?;
    qwen_experts(&mut spec, config, Some(shared))?;
    Ok(spec)
}

pub(super) fn qwen3_moe(config: &mut HfConfig) -> Result<DecoderSpec, ConfigError> {
    let bias = config.flag("attention_bias", false)?;
    let on = config.flag("use_sliding_window", false)?;
    let windows = Windows::everywhere(config, None)?;
    let windows = if on { windows } else { Windows::default() };
    config.discard("max_window_layers");
    let layout = Layout { qkv_bias: bias, output_bias: bias, windows, ..Layout::default() };
    let mut spec = layout.read(config)?;
    let eps = spec.final_norm.eps;
    spec.add_qk_norm(QkNormScope::Head, |name| layout.norm(name, eps));
    qwen_experts(&mut spec, config, None)?;
    Ok(spec)
}

/// Experts on every `decoder_sparse_step`-th layer that `mlp_only_layers` does not name.
fn qwen_experts(spec: &mut DecoderSpec, config: &mut HfConfig, shared: Option<usize>) -> Result<(), ConfigError> {
    let (experts, chosen) = counts(config, &["num_experts", "num_local_experts"])?;
    let width = config.count("moe_intermediate_size")?;
    let normalise = config.flag("norm_topk_prob", false)?;
    let step = config.optional_usize("decoder_sparse_step")?.unwrap_or(1);
    let dense = config.integers("mlp_only_layers")?.unwrap_or_default();
    let (hidden, (_, activation)) = (spec.hidden_size, dense_mlp(config, spec)?);
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        let sparse = step > 0 && (index + 1).is_multiple_of(step) && !dense.contains(&(index as i64));
        if !sparse {
            continue;
        }
        let prefix = format!("model.layers.{index}.mlp");
        let expert = |expert| gated(&format!("{prefix}.experts.{expert}"), GATED_NAMES, hidden, width, activation);
        layer.mlp = MlpSpec::Experts(Box::new(ExpertsSpec {
            router: softmax_router(&prefix, hidden, experts, chosen, normalise),
            experts: (0..experts).map(expert).collect(),
            shared: shared
                .map(|width| gated(&format!("{prefix}.shared_expert"), GATED_NAMES, hidden, width, activation)),
            shared_gate: shared
                .map(|_| ProjectionSpec::single(format!("{prefix}.shared_expert_gate"), hidden, 1, false)),
        }));
    }
    Ok(())
}
