//! What a diagnosis is given.

use plumbline_core::{Rollout, TokenId, TokenScores};

use crate::{FloorCurve, SequenceComparison, TokenFloor};

/// Facts of the resident model that hypotheses need. What is empty or `None` is not known, and hypotheses that need it are
/// not tried.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelFacts {
    /// The token that a tokenizer puts in front.
    pub bos_token_id: Option<TokenId>,
    /// Tokens that end a sequence.
    pub eos_token_ids: Vec<TokenId>,
    /// Special tokens (starts and ends of turns, padding): where a template may cut a prompt.
    pub special_token_ids: Vec<TokenId>,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Ids that the tokenizer can make; below `vocab_size` where the embedding is padded.
    pub tokenizer_size: Option<usize>,
    /// Whether tokens are routed to experts.
    pub mixture_of_experts: bool,
    /// Window of the layers that have one.
    pub sliding_window: Option<usize>,
    /// Base of the rotary embeddings.
    pub rope_theta: Option<f64>,
    /// Soft-cap `c` of the logits, `c * tanh(z / c)`.
    pub logit_softcap: Option<f64>,
    /// What a chat template may put before a prompt (a default system prompt).
    pub template_prefixes: Vec<Vec<TokenId>>,
    /// What a chat template may put behind a prompt (a generation prompt).
    pub generation_prompts: Vec<Vec<TokenId>>,
}

/// One rollout with what is already known of it.
#[derive(Clone, Copy, Debug)]
pub struct SuspectSequence<'a> {
    /// As posted.
    pub rollout: &'a Rollout,
    /// The reference's scores of it.
    pub scores: &'a TokenScores,
    /// Both side by side.
    pub comparison: &'a SequenceComparison,
    /// Tokens of the prompt that the engine took from its prefix cache, if it said so.
    pub cached_tokens: Option<usize>,
}

/// The rollouts of one request, in its order: of one engine and worker.
#[derive(Clone, Copy)]
pub struct DiagnosisInput<'a> {
    /// The rollouts.
    pub sequences: &'a [SuspectSequence<'a>],
    /// The model that scored them.
    pub model: &'a ModelFacts,
    /// Its noise floor at temperature 1.
    pub floor: &'a dyn Floor,
}

impl std::fmt::Debug for DiagnosisInput<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiagnosisInput").field("sequences", &self.sequences).field("model", self.model).finish()
    }
}

/// What a faithful bf16 engine shows on one token, by the entropy in nats of the reference's distribution there.
pub trait Floor {
    /// Expected `|d|` and `d^2` at temperature 1.
    fn token(&self, entropy: f64) -> TokenFloor;
}

impl Floor for FloorCurve {
    fn token(&self, entropy: f64) -> TokenFloor {
        Self::token(self, entropy)
    }
}
