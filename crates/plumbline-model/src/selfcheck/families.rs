//! Which of candle-transformers' models (0.11.1) gives the second opinion on which family, and what each of them leaves out
//! or gets wrong. Every line here was read in its source; a feature that is left out makes a configuration unsupported.
//!
//! What holds for several: a cache that must be cleared, or switched off, between sequences; no RoPE scaling; sliding
//! windows on all layers or none, and one key too wide.

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;

use super::FamilySupport;
use super::asked::{Asked, Unsupported};
use super::models::{
    deepseek_v2, gemma, gemma2, gemma3, glm4, granite, llama, mistral, mixtral, olmo2, phi3, qwen2, qwen2_moe, qwen3,
    qwen3_moe, smollm3, stablelm, starcoder2,
};

/// Logits of the token after ids `[1, tokens]`, their last dimension the vocabulary.
pub(super) type Forward = Box<dyn FnMut(&Tensor) -> candle_core::Result<Tensor>>;

/// Another implementation of a model, with its weights.
pub(super) struct SecondOpinion {
    /// candle-transformers' module.
    pub(super) implementation: &'static str,
    forward: Forward,
}

impl SecondOpinion {
    pub(super) fn new(implementation: &'static str, forward: Forward) -> Self {
        Self { implementation, forward }
    }

    /// Logits over the vocabulary of the token after `ids`, `[1, tokens]`.
    pub(super) fn next_token_logits(&mut self, ids: &Tensor) -> candle_core::Result<Vec<f32>> {
        (self.forward)(ids)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
    }
}

type Build = fn(&mut Asked<'_>, VarBuilder<'static>) -> Result<SecondOpinion, Unsupported>;

struct Family {
    support: FamilySupport,
    build: Option<Build>,
}

const fn checked(
    family: &'static str,
    build: Build,
    implementations: &'static [&'static str],
    limits: &'static str,
) -> Family {
    Family { support: FamilySupport { family, implementations, limits }, build: Some(build) }
}

const fn unchecked(family: &'static str, limits: &'static str) -> Family {
    Family { support: FamilySupport { family, implementations: &[], limits }, build: None }
}

const NONE: &str = "candle-transformers has no implementation of this family";
const PLAIN_ROPE: &str = "RoPE scaling is not implemented";
const WINDOWS: &str = "RoPE scaling is not implemented; where only some layers have a sliding window, sequences are compared up to its length";

const FAMILIES: &[Family] = &[
    unchecked("cohere", NONE),
    checked(
        "deepseek_v2",
        deepseek_v2,
        &["deepseek2"],
        "topk_method group_limited_greedy picks groups by their experts' indices, which is wrong; only YaRN with both mscales; rms_norm_eps must be 1e-6",
    ),
    unchecked("deepseek_v3", "candle-transformers' deepseek2 has neither sigmoid routing nor the router's bias"),
    checked("gemma", gemma, &["gemma"], "RoPE scaling and an untied head are not implemented"),
    checked(
        "gemma2",
        gemma2,
        &["gemma2"],
        "query_pre_attn_scalar other than head_dim, RoPE scaling and an untied head are not implemented; windows are on every layer, so sequences are compared up to the window's length",
    ),
    checked(
        "gemma3_text",
        gemma3,
        &["gemma3"],
        "it fails with more than one key/value head; query_pre_attn_scalar other than head_dim, RoPE scaling, an untied head and layer_types without a regular pattern are not implemented",
    ),
    checked("glm4", glm4, &["glm4_new"], PLAIN_ROPE),
    unchecked("gpt2", NONE),
    unchecked("gpt_neox", NONE),
    checked(
        "granite",
        granite,
        &["granite"],
        "none of the four multipliers is implemented, so only a configuration in which they change nothing can be checked",
    ),
    checked(
        "llama",
        llama,
        &["llama", "mistral", "smol::smollm3"],
        "RoPE scaling other than llama3, and llama3 with biases or a head_dim of its own, are not implemented; biases with such a head_dim neither",
    ),
    checked("mistral", mistral, &["mistral"], PLAIN_ROPE),
    checked("mixtral", mixtral, &["mixtral"], "RoPE scaling and a head_dim of its own are not implemented"),
    checked("olmo2", olmo2, &["olmo2"], PLAIN_ROPE),
    unchecked("olmoe", NONE),
    checked(
        "phi3",
        phi3,
        &["phi3"],
        "longrope multiplies the frequencies by its factors instead of dividing, which is wrong; sequences are compared up to a sliding window's length",
    ),
    checked("qwen2", qwen2, &["qwen2"], WINDOWS),
    checked("qwen2_moe", qwen2_moe, &["qwen2_moe"], "mlp_only_layers is not implemented; for the rest as qwen2"),
    checked("qwen3", qwen3, &["qwen3"], WINDOWS),
    checked("qwen3_moe", qwen3_moe, &["qwen3_moe"], "mlp_only_layers is not implemented; for the rest as qwen3"),
    checked("smollm3", smollm3, &["smol::smollm3"], WINDOWS),
    checked(
        "stablelm",
        stablelm,
        &["stable_lm"],
        "RoPE scaling, use_parallel_residual and qk_layernorm are not implemented",
    ),
    checked("starcoder2", starcoder2, &["starcoder2"], "RoPE scaling and an untied head are not implemented"),
];

/// The table, in the order of [`crate::DecoderSpec::families`].
pub(super) fn support() -> impl Iterator<Item = FamilySupport> {
    FAMILIES.iter().map(|family| family.support)
}

/// Builds the other implementation of the model.
pub(super) fn second_opinion(
    asked: &mut Asked<'_>,
    weights: VarBuilder<'static>,
) -> Result<SecondOpinion, Unsupported> {
    let named = &asked.spec.family;
    match FAMILIES.iter().find(|family| family.support.family == named) {
        Some(Family { build: Some(build), .. }) => build(asked, weights),
        Some(Family { support, build: None }) => Err(Unsupported(support.limits.into())),
        None => Err(Unsupported(NONE.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DecoderSpec;

    #[test]
    fn the_table_says_something_of_every_family_once() {
        assert!(support().map(|family| family.family).eq(DecoderSpec::families()));
        assert!(support().all(|family| !family.implementations.is_empty() || !family.limits.is_empty()));
    }
}
