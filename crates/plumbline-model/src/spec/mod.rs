//! A decoder described by data.
//!
//! [`DecoderSpec`] says everything that distinguishes one decoder-only transformer from another: the forward in
//! `decoder.rs` is written once over it. A family is a mapping from its Hugging Face `config.json` to this description,
//! one small function in `families`.

mod activation;
mod altered;
mod config;
mod families;
mod layout;
mod rope;
mod windows;

use plumbline_core::TokenId;

pub use config::ConfigError;
pub use rope::{RopeScaling, RopeSpec, YarnSpec};

/// A decoder-only transformer.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderSpec {
    /// `model_type` of the configuration.
    pub family: String,
    /// What every tensor name but the head's begins with; checkpoints of the bare decoder leave it out.
    pub base_prefix: String,
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
    /// Name of a table of learned positions, `[max_positions, hidden_size]`, added to the embedded tokens.
    pub learned_positions: Option<String>,
    /// Rotary embeddings in use; layers refer to them by index.
    pub ropes: Vec<RopeSpec>,
    /// The decoder layers in order.
    pub layers: Vec<LayerSpec>,
    /// Norm before the head.
    pub final_norm: NormSpec,
    /// The lm_head.
    pub head: HeadSpec,
    /// Endings (or, with a full stop at the end, beginnings) of tensor names that some checkpoints hold and the forward has
    /// no use for.
    pub ignorable_tensors: Vec<String>,
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
    /// Width of a query and key head.
    pub head_dim: usize,
    /// Width of a value head.
    pub value_dim: usize,
    /// Factor on `q k^T`.
    pub scale: f64,
    /// How queries, keys and values come from the layer's input.
    pub projection: AttentionProjection,
    /// The output projection, stored in one piece.
    pub output: ProjectionSpec,
    /// Index into [`DecoderSpec::ropes`]; `None` = no positional encoding here.
    pub rope: Option<usize>,
    /// Number of keys that a query sees, itself included; `None` = all before it.
    pub window: Option<usize>,
    /// `c` of `c * tanh(s / c)` on the scaled scores.
    pub softcap: Option<f64>,
}

/// How queries, keys and values come from the layer's input.
#[derive(Clone, Debug, PartialEq)]
pub enum AttentionProjection {
    /// One linear map each.
    Direct {
        /// The three projections; their outputs are concatenated as queries, keys, values.
        qkv: ProjectionSpec,
        /// Norms on queries and keys before the rotary embedding.
        qk_norm: Option<QkNormSpec>,
    },
    /// Through a low-rank latent, with one rotary key part shared by all heads (DeepSeek's MLA).
    Latent(LatentSpec),
}

/// Multi-head latent attention: `[nope | rope]` channels in each query and key head.
#[derive(Clone, Debug, PartialEq)]
pub struct LatentSpec {
    /// Down-projection of queries and the norm after it; `None` = queries straight from the input.
    pub query_down: Option<(ProjectionSpec, NormSpec)>,
    /// To `heads * head_dim`.
    pub query_up: ProjectionSpec,
    /// To `kv_rank + rope_dim`.
    pub kv_down: ProjectionSpec,
    /// Norm of the latent's `kv_rank` channels.
    pub kv_norm: NormSpec,
    /// From `kv_rank` to `heads * (head_dim - rope_dim + value_dim)`.
    pub kv_up: ProjectionSpec,
    /// Width of the key/value latent.
    pub kv_rank: usize,
    /// Trailing channels of a head that rotate.
    pub rope_dim: usize,
}

/// Norms on queries and keys.
#[derive(Clone, Debug, PartialEq)]
pub struct QkNormSpec {
    /// Norm on queries.
    pub query: NormSpec,
    /// Norm on keys.
    pub key: NormSpec,
    /// What is normalised and how the weights are stored.
    pub scope: QkNormScope,
}

/// What a query/key norm normalises over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNormScope {
    /// Each head apart, one weight of `[head_dim]` for all of them.
    Head,
    /// Each head apart with its own weight, stored as one `[heads, head_dim]`.
    EachHead,
    /// Each head apart with its own weight, stored as `NAME.norms.HEAD.weight`.
    EachHeadListed,
    /// All heads together, weight `[heads * head_dim]`.
    AllHeads,
}

/// One or several linear projections of the same input that are computed as one.
#[derive(Clone, Debug, PartialEq)]
pub struct ProjectionSpec {
    /// Names and output widths, in the order in which the outputs are concatenated. Tensors are `NAME.weight`
    /// (`[out, in]` unless the layout says otherwise) and `NAME.bias`.
    pub parts: Vec<(String, usize)>,
    /// Width of the input.
    pub input: usize,
    /// Whether there are biases.
    pub bias: bool,
    /// How the weight is stored.
    pub layout: WeightLayout,
}

impl ProjectionSpec {
    /// A projection stored in one piece as `[out, in]`.
    #[must_use]
    pub fn single(name: String, input: usize, output: usize, bias: bool) -> Self {
        Self { parts: vec![(name, output)], input, bias, layout: WeightLayout::OutIn }
    }
}

/// How a projection's weight is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightLayout {
    /// `[out, in]`, as a linear layer.
    OutIn,
    /// `[in, out]` (GPT-2's one-dimensional convolutions).
    InOut,
    /// `[heads * (query, key, value), in]`: the three of each head next to each other (GPT-NeoX).
    HeadsInterleaved {
        /// Number of heads.
        heads: usize,
    },
}

/// The feed-forward part of a layer.
#[derive(Clone, Debug, PartialEq)]
pub enum MlpSpec {
    /// `down(act(gate(x)) * up(x))`
    Gated(GatedSpec),
    /// `down(act(up(x)))`
    Plain {
        /// Up projection.
        up: ProjectionSpec,
        /// Down projection.
        down: ProjectionSpec,
        /// Activation between them.
        activation: Activation,
    },
    /// A mixture of gated experts.
    Experts(Box<ExpertsSpec>),
}

/// A gated MLP.
#[derive(Clone, Debug, PartialEq)]
pub struct GatedSpec {
    /// Gate and up projections; their outputs are concatenated in this order.
    pub gate_up: ProjectionSpec,
    /// Down projection.
    pub down: ProjectionSpec,
    /// Activation of the gate.
    pub activation: Activation,
}

/// A mixture of experts: each row goes through its chosen experts, weighted, and through the shared one.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertsSpec {
    /// Chooses the experts of a row.
    pub router: RouterSpec,
    /// The experts.
    pub experts: Vec<GatedSpec>,
    /// An expert that every row goes through.
    pub shared: Option<GatedSpec>,
    /// Name of a `[1, in]` weight whose sigmoid scales the shared expert.
    pub shared_gate: Option<ProjectionSpec>,
}

/// How a router turns logits into chosen experts and their weights.
#[derive(Clone, Debug, PartialEq)]
pub struct RouterSpec {
    /// The router's linear map to one logit an expert.
    pub projection: ProjectionSpec,
    /// Experts a row.
    pub chosen: usize,
    /// From logits to scores.
    pub scoring: RouterScoring,
    /// Name of a bias on the scores that counts for the choice only, `[experts]`.
    pub choice_bias: Option<String>,
    /// Groups of experts of which only the best may be chosen from.
    pub groups: Option<RouterGroups>,
    /// Whether the weights of the chosen are made to sum to 1.
    pub normalise: bool,
    /// Factor on the weights.
    pub scale: f64,
}

/// From router logits to scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouterScoring {
    /// Softmax over the experts.
    Softmax,
    /// Sigmoid of each.
    Sigmoid,
}

/// Equal groups of consecutive experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouterGroups {
    /// Number of groups.
    pub count: usize,
    /// Groups that may be chosen from.
    pub chosen: usize,
    /// A group's own score is the sum of so many of its best experts' scores.
    pub best: usize,
}

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`
    Silu,
    /// `x * Phi(x)`
    Gelu,
    /// GELU's approximation by tanh.
    GeluTanh,
    /// `max(x, 0)`
    Relu,
}
