//! A decoder described by data.
//!
//! [`DecoderSpec`] says everything that distinguishes one decoder-only transformer from another: the forward in
//! `decoder.rs` is written once over it. A family is a mapping from its Hugging Face `config.json` to this description,
//! one small function in `families.rs`.

mod config;
mod families;
mod rope;

use plumbline_core::TokenId;

pub use config::ConfigError;
pub use rope::{RopeScaling, RopeSpec};

/// A decoder-only transformer.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderSpec {
    /// `model_type` of the configuration.
    pub family: String,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Longest sequence.
    pub max_positions: usize,
    /// Name of the embedding table, `[vocab_size, hidden_size]`.
    pub embedding: String,
    /// Factor on the embedded tokens.
    pub embedding_multiplier: f64,
    /// Rotary embeddings in use; layers refer to them by index.
    pub ropes: Vec<RopeSpec>,
    /// The decoder layers in order.
    pub layers: Vec<LayerSpec>,
    /// Norm before the head.
    pub final_norm: NormSpec,
    /// The lm_head.
    pub head: HeadSpec,
    /// Ids that end a sequence.
    pub eos_token_ids: Vec<TokenId>,
}

/// The lm_head: hidden states to logits.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadSpec {
    /// Name of the head's weight, `[vocab_size, hidden_size]`; `None` = tied to the embedding.
    pub weight: Option<String>,
    /// Name of a bias, `[vocab_size]`.
    pub bias: Option<String>,
    /// Factor on the logits.
    pub multiplier: f64,
    /// `c` of `c * tanh(z / c)`, applied after the multiplier.
    pub softcap: Option<f64>,
}

/// One layer: attention and MLP with their norms and residuals.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSpec {
    /// Norm on the attention's input; `None` = the residual stream itself.
    pub pre_attention: Option<NormSpec>,
    /// The attention.
    pub attention: AttentionSpec,
    /// Norm on the attention's output, before it joins the residual stream.
    pub post_attention: Option<NormSpec>,
    /// Norm on the MLP's input; `None` = the attention's normed input when `parallel`, else the residual stream itself.
    pub pre_mlp: Option<NormSpec>,
    /// The MLP.
    pub mlp: MlpSpec,
    /// Norm on the MLP's output, before it joins the residual stream.
    pub post_mlp: Option<NormSpec>,
    /// Attention and MLP both read the layer's input (`x + attn(n1(x)) + mlp(n2(x))`).
    pub parallel: bool,
    /// Factor on what each of the two adds to the residual stream.
    pub residual_multiplier: f64,
}

/// A normalisation over the last dimension.
#[derive(Clone, Debug, PartialEq)]
pub struct NormSpec {
    /// Name of the norm; its tensors are `NAME.weight` and `NAME.bias`.
    pub name: String,
    /// Root mean square, or mean and variance.
    pub kind: NormKind,
    /// Added to the mean square or variance.
    pub eps: f64,
    /// Added to the stored weight (1 for Gemma, whose weights are stored around 0).
    pub weight_offset: f64,
    /// Whether there is a `NAME.bias`.
    pub bias: bool,
}

/// What a norm divides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// `x / sqrt(mean(x^2) + eps) * w`
    Rms,
    /// `(x - mean(x)) / sqrt(var(x) + eps) * w + b`
    Layer,
}

/// Multi-head attention with grouped key/value heads.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Factor on `q k^T`.
    pub scale: f64,
    /// Where the query, key and value projections are stored.
    pub qkv: ProjectionSpec,
    /// The output projection, stored in one piece.
    pub output: ProjectionSpec,
    /// Norms on queries and keys before the rotary embedding.
    pub qk_norm: Option<QkNormSpec>,
    /// Index into [`DecoderSpec::ropes`]; `None` = no positional encoding here.
    pub rope: Option<usize>,
    /// Number of keys that a query sees, itself included; `None` = all before it.
    pub window: Option<usize>,
    /// `c` of `c * tanh(s / c)` on the scaled scores.
    pub softcap: Option<f64>,
}

/// Norms on queries and keys.
#[derive(Clone, Debug, PartialEq)]
pub struct QkNormSpec {
    /// Norm on queries.
    pub query: NormSpec,
    /// Norm on keys.
    pub key: NormSpec,
    /// Over each head, or over all heads at once.
    pub scope: QkNormScope,
}

/// What a query/key norm normalises over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNormScope {
    /// Each head apart, one weight of `[head_dim]` for all of them.
    Head,
    /// All heads together, weight `[heads * head_dim]`.
    AllHeads,
}

/// One or several linear projections of the same input that are computed as one.
#[derive(Clone, Debug, PartialEq)]
pub struct ProjectionSpec {
    /// Names and output widths, in the order in which the outputs are concatenated. Tensors are `NAME.weight`
    /// (`[out, in]`) and `NAME.bias`.
    pub parts: Vec<(String, usize)>,
    /// Width of the input.
    pub input: usize,
    /// Whether there are biases.
    pub bias: bool,
}

/// The feed-forward part of a layer.
#[derive(Clone, Debug, PartialEq)]
pub enum MlpSpec {
    /// `down(act(gate(x)) * up(x))`
    Gated {
        /// Gate and up projections; their outputs are concatenated in this order.
        gate_up: ProjectionSpec,
        /// Down projection.
        down: ProjectionSpec,
        /// Activation of the gate.
        activation: Activation,
    },
}

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`
    Silu,
}
