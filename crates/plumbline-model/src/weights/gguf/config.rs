//! GGUF metadata as a Hugging Face configuration, so that families are described once, in `spec`.
//!
//! Where a key is absent, llama.cpp's default holds. What Hugging Face has and the format has no key for follows llama.cpp's
//! own rule, said at its place. A Mistral of the `llama` architecture has no sliding window: the format drops it.

use serde_json::{Map, Value, json};

use super::architecture::Architecture;
use super::keys::Keys;

/// What the configuration needs to know of the tensors.
pub(super) trait Tensors {
    /// The shape of a tensor of the file.
    fn shape(&self, name: &str) -> Option<&[usize]>;
    /// The values of a small tensor, such as rope factors.
    fn values(&self, name: &str) -> Result<Option<Vec<f64>>, String>;
}

/// A configuration, with the head counts that put permuted tensors back.
#[derive(Debug)]
pub(super) struct Synthesised {
    pub(super) json: Value,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
}

/// Divisors of the inverse frequencies (Llama 3).
pub(super) const ROPE_FREQUENCIES: &str = "rope_freqs.weight";
/// Divisors of the inverse frequencies for long sequences, and for short ones (Phi-3).
pub(super) const ROPE_FACTORS: (&str, &str) = ("rope_factors_long.weight", "rope_factors_short.weight");

impl Architecture {
    /// Writes the configuration. Errors name the key.
    pub(super) fn config(&self, metadata: &Map<String, Value>, tensors: &impl Tensors) -> Result<Synthesised, String> {
        let keys = &mut Keys::of(self.name, metadata);
        let (hidden, layers) = (keys.count("embedding_length")?, keys.count("block_count")?);
        let last = format!("blk.{}.attn_norm.weight", layers - 1);
        if tensors.shape(&last).is_none() {
            return Err(format!("lacks tensor `{last}`, though `{}.block_count` = {layers}", self.name));
        }
        let heads = keys.count("attention.head_count")?;
        let kv_heads = keys.optional_count("attention.head_count_kv")?.unwrap_or(heads);
        let head_dim = match keys.optional_count("attention.key_length")? {
            Some(head_dim) => head_dim,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => return Err(keys.missing("attention.key_length")),
        };
        keys.only("attention.value_length", &head_dim.into())?;
        keys.only("attention.causal", &true.into())?;
        keys.only("expert_count", &0.into())?;
        keys.only("expert_used_count", &0.into())?;
        let rows = tensors.shape("token_embd.weight").and_then(<[usize]>::first).copied();
        let vocab_size = keys.optional_count("vocab_size")?.or(rows).ok_or_else(|| keys.missing("vocab_size"))?;
        let context = keys.count("context_length")?;
        let tied = tensors.shape(super::architecture::HEAD).is_none();

        let mut config = Map::new();
        let mut set = |key: &str, value: Value| config.insert(key.into(), value);
        set("model_type", self.model_type.into());
        set("hidden_size", hidden.into());
        set("num_hidden_layers", layers.into());
        set("num_attention_heads", heads.into());
        set("num_key_value_heads", kv_heads.into());
        set("head_dim", head_dim.into());
        set("intermediate_size", keys.count("feed_forward_length")?.into());
        set("max_position_embeddings", context.into());
        set("vocab_size", vocab_size.into());
        set("rms_norm_eps", keys.number("attention.layer_norm_rms_epsilon")?.into());
        set("tie_word_embeddings", tied.into());
        set("eos_token_id", end_tokens(metadata));
        set("rope_theta", keys.optional_number("rope.freq_base")?.unwrap_or(10_000.0).into());
        let rotating = keys.optional_count("rope.dimension_count")?.unwrap_or(head_dim);
        if rotating != head_dim {
            set("partial_rotary_factor", rotary_fraction(rotating, head_dim).into());
        }
        if self.announces_biases {
            set("attention_bias", tensors.shape("blk.0.attn_q.bias").is_some().into());
        }
        set("hidden_act", "silu".into());
        match self.name {
            "llama" => {
                set("mlp_bias", tensors.shape("blk.0.ffn_up.bias").is_some().into());
                // What older converters wrote of permuted rows.
                keys.only("tensor_data_layout", &"Meta AI original pth".into())?;
            }
            "gemma" => {
                set("hidden_act", "gelu_pytorch_tanh".into());
            }
            "gemma2" | "gemma3" => {
                set("hidden_act", "gelu_pytorch_tanh".into());
                set("sliding_window", keys.count("attention.sliding_window")?.into());
                // The format has no key for the scale: llama.cpp knows the 27B models by their number of layers.
                let largest = if self.name == "gemma2" { 46 } else { 62 };
                let scalar = if layers == largest { hidden / heads } else { head_dim };
                set("query_pre_attn_scalar", scalar.into());
                if self.name == "gemma2" {
                    set("attn_logit_softcapping", keys.number("attn_logit_softcapping")?.into());
                    set("final_logit_softcapping", keys.number("final_logit_softcapping")?.into());
                } else {
                    let softcap = keys.optional_number("final_logit_softcapping")?;
                    set("final_logit_softcapping", json!(softcap));
                    set("rope_local_base_freq", keys.optional_number("rope.freq_base_swa")?.unwrap_or(10_000.0).into());
                    let pattern = keys.optional_count("attention.sliding_window_pattern")?.unwrap_or(6);
                    set("sliding_window_pattern", pattern.into());
                }
            }
            "phi3" => {
                // The converter writes 0 for none.
                let window = keys.optional_whole("attention.sliding_window")?.filter(|window| *window > 0);
                set("sliding_window", json!(window));
            }
            _ => {}
        }
        set("rope_scaling", self.rope_scaling(keys, tensors, context)?);
        keys.finish()?;
        Ok(Synthesised { json: config.into(), heads, kv_heads })
    }

    fn rope_scaling(&self, keys: &mut Keys, tensors: &impl Tensors, context: usize) -> Result<Value, String> {
        keys.discard("rope.scaling.finetuned");
        let kind = keys.optional_text("rope.scaling.type")?;
        let factor = keys.optional_number("rope.scaling.factor")?.filter(|factor| *factor != 0.0);
        let original = keys.optional_count("rope.scaling.original_context_length")?;
        if let ("phi3", Some(long)) = (self.name, tensors.values(ROPE_FACTORS.0)?) {
            let short = tensors.values(ROPE_FACTORS.1)?.ok_or_else(|| format!("lacks tensor `{}`", ROPE_FACTORS.1))?;
            if !matches!(kind.as_deref(), None | Some("longrope")) || factor.is_some() {
                return Err(keys.refused("rope.scaling.type", &json!(kind), "contradicts the rope factors"));
            }
            let original = original.ok_or_else(|| keys.missing("rope.scaling.original_context_length"))?;
            let attention = keys.optional_number("rope.scaling.attn_factor")?.unwrap_or(1.0);
            return Ok(long_rope(&short, &long, original, attention));
        }
        for key in ["attn_factor", "yarn_attn_factor", "yarn_ext_factor"] {
            keys.only(&format!("rope.scaling.{key}"), &1.0.into())?;
        }
        keys.only("rope.scaling.yarn_log_multiplier", &0.0.into())?;
        // Llama.cpp takes a factor without a type as linear.
        let scaling = match (kind.as_deref().unwrap_or("linear"), factor) {
            ("none", _) | ("linear", None) => Value::Null,
            ("linear", Some(factor)) => json!({"rope_type": "linear", "factor": factor}),
            ("yarn", Some(factor)) => json!({
                "rope_type": "yarn",
                "factor": factor,
                "original_max_position_embeddings": original.unwrap_or(context),
                "beta_fast": keys.optional_number("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                "beta_slow": keys.optional_number("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            }),
            ("yarn", None) => return Err(keys.missing("rope.scaling.factor")),
            (other, _) => return Err(keys.refused("rope.scaling.type", &other.into(), "is not supported")),
        };
        match (self.name, tensors.values(ROPE_FREQUENCIES)?) {
            ("llama", Some(factors)) if scaling.is_null() => Ok(long_rope(&factors, &factors, context, 1.0)),
            ("llama", Some(_)) => {
                Err(keys.refused("rope.scaling.type", &json!(kind), &format!("contradicts `{ROPE_FREQUENCIES}`")))
            }
            _ => Ok(scaling),
        }
    }
}

/// Divisors of the frequencies as Hugging Face has them.
fn long_rope(short: &[f64], long: &[f64], original: usize, attention_factor: f64) -> Value {
    json!({
        "rope_type": "longrope",
        "short_factor": short,
        "long_factor": long,
        "original_max_position_embeddings": original,
        "attention_factor": attention_factor,
    })
}

/// The fraction whose product with `head_dim`, rounded down, is `rotating`.
fn rotary_fraction(rotating: usize, head_dim: usize) -> f64 {
    let fraction = rotating as f64 / head_dim as f64;
    if (fraction * head_dim as f64) as usize == rotating { fraction } else { fraction.next_up() }
}

/// Ids that end a text, a turn or a message.
fn end_tokens(metadata: &Map<String, Value>) -> Value {
    let keys = ["eos_token_id", "eot_token_id", "eom_token_id"];
    keys.iter().filter_map(|key| metadata.get(&format!("tokenizer.ggml.{key}")).cloned()).collect()
}
