//! The other implementations: for each, what it needs of a configuration, and how it is run on one sequence at a time.

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{
    deepseek2, gemma as ct_gemma, gemma2 as ct_gemma2, gemma3 as ct_gemma3, glm4_new, granite as ct_granite,
    llama as ct_llama, mistral as ct_mistral, mixtral as ct_mixtral, olmo2 as ct_olmo2, phi3 as ct_phi3,
    qwen2 as ct_qwen2, qwen2_moe as ct_qwen2_moe, qwen3 as ct_qwen3, qwen3_moe as ct_qwen3_moe,
    smol::smollm3 as ct_smollm3, stable_lm, starcoder2 as ct_starcoder2,
};
use serde_json::json;

use super::asked::{Asked, Unsupported};
use super::families::SecondOpinion;
use crate::spec::{AttentionProjection, RopeScaling};

/// A model that keeps a cache between calls and can clear it: every sequence starts without.
macro_rules! cleared {
    ($name:literal, $model:expr) => {{
        let mut model = $model;
        opinion($name, move |ids| {
            model.clear_kv_cache();
            model.forward(ids, 0)
        })
    }};
}

fn opinion(
    implementation: &'static str,
    forward: impl FnMut(&Tensor) -> candle_core::Result<Tensor> + 'static,
) -> Result<SecondOpinion, Unsupported> {
    Ok(SecondOpinion::new(implementation, Box::new(forward)))
}

/// Llama's own implementation has neither biases nor a `head_dim`; two others compute the same and have one of them.
pub(super) fn llama(asked: &mut Asked<'_>, weights: VarBuilder<'static>) -> Result<SecondOpinion, Unsupported> {
    match (asked.has_standard_heads(), asked.has_biases()) {
        (true, false) => {}
        (false, false) => return mistral(asked, weights),
        (true, true) => return smollm3_with(asked, weights),
        (false, true) => return Err(Unsupported("candle-transformers has biases or head_dim, but not both".into())),
    }
    asked.needs_silu()?;
    if !matches!(asked.spec.ropes[0].scaling, RopeScaling::Llama3 { .. }) {
        asked.needs_plain_rope()?;
        asked.remove("rope_scaling");
    }
    let config = asked.read::<ct_llama::LlamaConfig>()?.into_config(false);
    let mut cache = ct_llama::Cache::new(false, DType::F32, &config, weights.device())?;
    let model = ct_llama::Llama::load(weights, &config)?;
    opinion("llama", move |ids| model.forward(ids, 0, &mut cache))
}

/// Leaves out the four multipliers.
pub(super) fn granite(asked: &mut Asked<'_>, weights: VarBuilder<'static>) -> Result<SecondOpinion, Unsupported> {
    let spec = asked.spec;
    let multipliers = [spec.embedding_multiplier, spec.head.multiplier];
    let residuals = spec.layers.iter().map(|layer| layer.residual_multiplier);
    if multipliers.into_iter().chain(residuals).any(|multiplier| multiplier != 1.0) {
        let reason =
            "candle-transformers' granite ignores embedding_multiplier, residual_multiplier and logits_scaling";
        return Err(Unsupported(reason.into()));
    }
    asked.needs_standard_scale("attention_multiplier")?;
    asked.needs_standard_heads()?;
    asked.needs_silu()?;
    asked.needs_plain_rope()?;
    let config = asked.read::<ct_granite::GraniteConfig>()?.into_config(false);
    let mut cache = ct_granite::Cache::new(false, DType::F32, &config, weights.device())?;
    let model = ct_granite::Granite::load(weights, &config)?;
    opinion("granite", move |ids| model.forward(ids, 0, &mut cache))
}

pub(super) fn mistral(asked: &mut Asked<'_>, weights: VarBuilder<'static>) -> Result<SecondOpinion, Unsupported> {
    asked.needs_plain_rope()?;
    let window = asked.window_of_every_layer();
    asked.set("sliding_window", json!(window));
    cleared!("mistral", ct_mistral::Model::new(&asked.read()?, weights)?)
}

/// Sets the window for implementations whose configuration must have one.
fn require_window(asked: &mut Asked<'_>) {
    let window = asked.window_of_every_layer().unwrap_or(asked.longest);
    asked.set("sliding_window", json!(window));
    asked.default("use_sliding_window", json!(false));
    asked.default("max_window_layers", json!(0));
}

pub(super) fn mixtral(asked: &mut Asked<'_>, weights: VarBuilder<'static>) -> Result<SecondOpinion, Unsupported> {
    asked.needs_plain_rope()?;
    asked.needs_standard_heads()?;
    require_window(asked);
    asked.set("use_flash_attn", json!(false));
    // It cannot clear its cache, but a copy that shares the weights has none yet.
    let pristine = ct_mixtral::Model::new(&asked.read()?, weights)?;
    opinion("mixtral", move |ids| pristine.clone().forward(ids, 0))
}

pub(super) fn qwen2(asked: &mut Asked<'_>, weights: VarBuilder<'static>) -> Result<SecondOpinion, Unsupported> {
    asked.needs_plain_rope()?;
    asked.needs_standard_heads()?;
    require_window(asked);
    cleared!("qwen2", ct_qwen2::ModelForCausalLM::new(&asked.read()?, weights)?)
}

fn needs_no_dense_layers(asked: &mut Asked<'_>) -> Result<(), Unsupported> {
    if let Some(count) = asked.get("num_local_experts").cloned() {
        asked.default("num_experts", count);
    }
    asked.default("decoder_sparse_step", json!(1));
    asked.default("norm_topk_prob", json!(false));
    match asked.get("mlp_only_layers").and_then(|layers| layers.as_array()) {
        Some(layers) if !layers.is_empty() => Err(Unsupported("candle-transformers ignores mlp_only_layers".into())),
        _ => Ok(()),
    }
}

pub(super) fn qwen2_moe(asked: &mut Asked<'_>, weights: VarBuilder<'static>) -> Result<SecondOpinion, Unsupported> {
    asked.needs_plain_rope()?;
    asked.needs_standard_heads()?;
    needs_no_dense_layers(asked)?;
    require_window(asked);
    cleared!("qwen2_moe", ct_qwen2_moe::Model::new(&asked.read()?, weights)?)
}

/// Refuses windows, but takes sequences that fit into one.
fn switch_windows_off(asked: &mut Asked<'_>) {
    asked.without_windows();
    asked.remove("sliding_window");
    asked.set("use_sliding_window", json!(false));
    asked.default("max_window_layers", json!(0));
}

pub(super) fn qwen3(asked: &mut Asked<'_>, weights: VarBuilder<'static>) -> Result<SecondOpinion, Unsupported> {
    asked.needs_plain_rope()?;
    switch_windows_off(asked);
    cleared!("qwen3", ct_qwen3::ModelForCausalLM::new(&asked.read()?, weights)?)
}

pub(super) fn qwen3_moe(asked: &mut Asked<'_>, weights: VarBuilder<'static>) -> Result<SecondOpinion, Unsupported> {
    asked.needs_plain_rope()?;
    needs_no_dense_layers(asked)?;
    switch_windows_off(asked);
    cleared!("qwen3_moe", ct_qwen3_moe::ModelForCausalLM::new(&asked.read()?, weights)?)
}

/// Without any key about it every layer rotates, where Hugging Face lets every fourth one go without.
pub(super) fn smollm3(asked: &mut Asked<'_>, weights: VarBuilder<'static>) -> Result<SecondOpinion, Unsupported> {
    asked.default("no_rope_layer_interval", json!(4));
    smollm3_with(asked, weights)
}

fn smollm3_with(asked: &mut Asked<'_>, weights: VarBuilder<'static>) -> Result<SecondOpinion, Unsupported> {
    asked.needs_plain_rope()?;
    asked.needs_standard_heads()?;
    switch_windows_off(asked);
    cleared!("smol::smollm3", ct_smollm3::ModelForCausalLM::new(&asked.read()?, weights)?)
}

/// Leaves one activation key, under the name that both generations of Gemma know.
fn one_activation(asked: &mut Asked<'_>) {
    if let Some(activation) = asked.get("hidden_activation").or_else(|| asked.get("hidden_act")).cloned() {
        asked.remove("hidden_act");
        asked.set("hidden_activation", activation);
    }
}

pub(super) fn gemma(asked: &mut Asked<'_>, weights: VarBuilder<'static>) -> Result<SecondOpinion, Unsupported> {
    asked.needs_plain_rope()?;
    asked.needs_tied_head()?;
    one_activation(asked);
    cleared!("gemma", ct_gemma::Model::new(false, &asked.read()?, weights)?)
}

pub(super) fn gemma2(asked: &mut Asked<'_>, weights: VarBuilder<'static>) -> Result<SecondOpinion, Unsupported> {
    asked.needs_plain_rope()?;
    asked.needs_tied_head()?;
    asked.needs_standard_scale("query_pre_attn_scalar")?;
    one_activation(asked);
    let window = asked.window_of_every_layer();
    asked.set("sliding_window", json!(window));
    cleared!("gemma2", ct_gemma2::Model::new(false, &asked.read()?, weights)?)
}

pub(super) fn gemma3(asked: &mut Asked<'_>, weights: VarBuilder<'static>) -> Result<SecondOpinion, Unsupported> {
    asked.needs_plain_rope()?;
    asked.needs_tied_head()?;
    asked.needs_standard_scale("query_pre_attn_scalar")?;
    one_activation(asked);
    let Some((window, pattern)) = asked.window_pattern() else {
        let reason = "candle-transformers ignores layer_types, and these do not follow a sliding_window_pattern";
        return Err(Unsupported(reason.into()));
    };
    let full_layers = || asked.spec.layers.iter().filter(|layer| layer.attention.window.is_none());
    if full_layers().any(|layer| layer.attention.kv_heads > 1) {
        let reason =
            "candle-transformers' gemma3 fails to cache more than one key/value head on layers without a window";
        return Err(Unsupported(reason.into()));
    }
    asked.set("sliding_window", json!(window));
    asked.set("sliding_window_pattern", json!(pattern));
    asked.default("rope_theta", json!(1e6));
    asked.default("rope_local_base_freq", json!(1e4));
    cleared!("gemma3", ct_gemma3::Model::new(false, &asked.read()?, weights)?)
}

pub(super) fn phi3(asked: &mut Asked<'_>, weights: VarBuilder<'static>) -> Result<SecondOpinion, Unsupported> {
    if matches!(asked.spec.ropes[0].scaling, RopeScaling::LongRope { .. }) {
        let reason =
            "candle-transformers' longrope multiplies the frequencies by its factors instead of dividing by them";
        return Err(Unsupported(reason.into()));
    }
    asked.needs_plain_rope()?;
    asked.needs_standard_heads()?;
    asked.without_windows();
    cleared!("phi3", ct_phi3::Model::new(&asked.read()?, weights)?)
}

pub(super) fn olmo2(asked: &mut Asked<'_>, weights: VarBuilder<'static>) -> Result<SecondOpinion, Unsupported> {
    asked.needs_plain_rope()?;
    asked.needs_standard_heads()?;
    cleared!("olmo2", ct_olmo2::Model::new(&asked.read()?, weights)?)
}

/// Without a key every channel rotates, where Hugging Face lets half of them go without.
pub(super) fn glm4(asked: &mut Asked<'_>, weights: VarBuilder<'static>) -> Result<SecondOpinion, Unsupported> {
    asked.needs_plain_rope()?;
    asked.default("partial_rotary_factor", json!(0.5));
    cleared!("glm4_new", glm4_new::ModelForCausalLM::new(&asked.read()?, weights)?)
}

pub(super) fn starcoder2(asked: &mut Asked<'_>, weights: VarBuilder<'static>) -> Result<SecondOpinion, Unsupported> {
    asked.needs_plain_rope()?;
    asked.needs_standard_heads()?;
    asked.needs_tied_head()?;
    asked.default("use_bias", json!(true));
    let window = asked.window_of_every_layer();
    asked.set("sliding_window", json!(window));
    cleared!("starcoder2", ct_starcoder2::Model::new(&asked.read()?, weights)?)
}

pub(super) fn stablelm(asked: &mut Asked<'_>, weights: VarBuilder<'static>) -> Result<SecondOpinion, Unsupported> {
    asked.needs_plain_rope()?;
    asked.needs_standard_heads()?;
    let has_qk_norm =
        |projection: &AttentionProjection| matches!(projection, AttentionProjection::Direct { qk_norm: Some(_), .. });
    for layer in &asked.spec.layers {
        if layer.parallel {
            return Err(Unsupported("candle-transformers ignores use_parallel_residual".into()));
        }
        if has_qk_norm(&layer.attention.projection) {
            return Err(Unsupported("candle-transformers ignores qk_layernorm".into()));
        }
    }
    asked.default("partial_rotary_factor", json!(0.25));
    // Its cache cannot be cleared, but switched off.
    asked.set("use_cache", json!(false));
    let mut model = stable_lm::Model::new(&asked.read()?, weights)?;
    opinion("stable_lm", move |ids| model.forward(ids, 0))
}

pub(super) fn deepseek_v2(asked: &mut Asked<'_>, weights: VarBuilder<'static>) -> Result<SecondOpinion, Unsupported> {
    match &asked.spec.ropes[0].scaling {
        RopeScaling::Yarn(yarn)
            if yarn.truncate && asked.get("rope_scaling").is_some_and(|rope| rope["attention_factor"].is_null()) => {}
        RopeScaling::Yarn(_) => {
            return Err(Unsupported("candle-transformers' YaRN ignores truncate and attention_factor".into()));
        }
        _ => asked.needs_plain_rope()?,
    }
    if asked.get("topk_method").is_some_and(|method| method == "group_limited_greedy") {
        let reason = "candle-transformers' group_limited_greedy picks groups by the indices of experts";
        return Err(Unsupported(reason.into()));
    }
    if asked.spec.final_norm.eps != 1e-6 {
        let reason = "candle-transformers uses rms_norm_eps in the latent norms, where Hugging Face has 1e-6";
        return Err(Unsupported(reason.into()));
    }
    asked.default("n_group", json!(1));
    asked.default("topk_group", json!(1));
    cleared!("deepseek2", deepseek2::DeepSeekV2::new(&asked.read()?, weights)?)
}
