//! What each GGUF architecture is called in Hugging Face's terms, and what llama.cpp's converter did to its tensors.

/// A supported `general.architecture`.
pub(super) struct Architecture {
    pub(super) name: &'static str,
    /// `model_type` of the configuration.
    pub(super) model_type: &'static str,
    /// Names of a block's parts where they differ from [`BLOCK_PARTS`], or are not in it.
    parts: &'static [(&'static str, &'static str)],
    /// Rows of query and key heads are stored so that neighbouring channels form a rotating pair.
    permuted: bool,
    /// Norm weights are stored with the 1 that Hugging Face's forward adds.
    norms_plus_one: bool,
    /// Biases that the configuration has to announce.
    pub(super) announces_biases: bool,
}

/// How a tensor of the file becomes Hugging Face's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Undo {
    /// It is.
    Nothing,
    /// The rows of each of so many heads are put back in order.
    Permutation {
        /// Number of heads.
        heads: usize,
    },
    /// 1 is subtracted.
    PlusOne,
}

const QUERY_KEY_NORMS: [(&str, &str); 2] = [("attn_q_norm", "self_attn.q_norm"), ("attn_k_norm", "self_attn.k_norm")];

/// Gemma's norms on inputs and outputs; its `post_attention_layernorm` is not Llama's.
const SANDWICH: [(&str, &str); 3] = [
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

const LLAMA: Architecture = Architecture {
    name: "llama",
    model_type: "llama",
    parts: &[],
    permuted: true,
    norms_plus_one: false,
    announces_biases: true,
};

const GEMMA: Architecture = Architecture { permuted: false, norms_plus_one: true, ..LLAMA };

/// Every supported architecture. `llama` covers the families that llama.cpp converts to it: Llama, Mistral, SmolLM.
pub(super) const ARCHITECTURES: &[Architecture] = &[
    LLAMA,
    Architecture { name: "qwen2", model_type: "qwen2", permuted: false, announces_biases: false, ..LLAMA },
    Architecture { name: "qwen3", model_type: "qwen3", parts: &QUERY_KEY_NORMS, permuted: false, ..LLAMA },
    Architecture { name: "gemma", model_type: "gemma", ..GEMMA },
    Architecture { name: "gemma2", model_type: "gemma2", parts: &SANDWICH, ..GEMMA },
    Architecture {
        name: "gemma3",
        model_type: "gemma3_text",
        parts: &[SANDWICH[0], SANDWICH[1], SANDWICH[2], QUERY_KEY_NORMS[0], QUERY_KEY_NORMS[1]],
        ..GEMMA
    },
    Architecture {
        name: "phi3",
        model_type: "phi3",
        parts: &[("attn_qkv", "self_attn.qkv_proj"), ("ffn_up", "mlp.gate_up_proj")],
        permuted: false,
        announces_biases: false,
        ..LLAMA
    },
];

const TOP: &[(&str, &str)] = &[
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    (HEAD, "lm_head.weight"),
];

const BLOCK_PARTS: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The lm_head; a file without it has the embedding do its work.
pub(super) const HEAD: &str = "output.weight";

impl Architecture {
    /// Hugging Face's name of a tensor; `None` if this architecture has no such tensor.
    pub(super) fn hugging_face_name(&self, name: &str) -> Option<String> {
        let lookup = |table: &[(&str, &'static str)], name: &str| {
            table.iter().find(|(gguf, _)| *gguf == name).map(|(_, hugging_face)| *hugging_face)
        };
        if let Some(name) = lookup(TOP, name) {
            return Some(name.into());
        }
        let (block, part) = name.strip_prefix("blk.")?.split_once('.')?;
        let (part, kind) = part.rsplit_once('.')?;
        let part = lookup(self.parts, part).or_else(|| lookup(BLOCK_PARTS, part))?;
        Some(format!("model.layers.{block}.{part}.{kind}"))
    }

    /// What has to be undone for a tensor of Hugging Face's name.
    pub(super) fn undo(&self, name: &str, heads: usize, kv_heads: usize) -> Undo {
        if self.norms_plus_one && name.ends_with("norm.weight") {
            Undo::PlusOne
        } else if self.permuted && name.contains("self_attn.q_proj.") {
            Undo::Permutation { heads }
        } else if self.permuted && name.contains("self_attn.k_proj.") {
            Undo::Permutation { heads: kv_heads }
        } else {
            Undo::Nothing
        }
    }
}
