//! Where a run's differences are, as the API shows it.

use plumbline_core::{TokenId, TokenText};
use plumbline_divergence::{EvidenceKey, TokenComparison, TokenEvidence, WorstToken};
use serde::Serialize;
use utoipa::ToSchema;

/// Where |d| comes from, in the latest 4096 to 8192 sequences.
#[derive(Serialize, ToSchema)]
#[schema(as = TokenEvidence)]
pub(crate) struct EvidenceResponse {
    /// By the engine's probability of the sampled token.
    engine_probability: Vec<RangeResponse>,
    /// By the entropy of the reference's next-token distribution at temperature 1, in nats.
    entropy: Vec<RangeResponse>,
    /// By the index in the completion.
    position: Vec<RangeResponse>,
    /// The tokens with the largest |d|, at most 32 and four of one sequence, the largest first.
    worst_tokens: Vec<WorstTokenResponse>,
}

/// Compared tokens of one range. Ranges without a token are left out.
#[derive(Serialize, ToSchema)]
#[schema(as = EvidenceRange)]
pub(crate) struct RangeResponse {
    /// Its lower bound, which belongs to it; null: none.
    #[schema(required = true)]
    from: Option<f64>,
    /// Its upper bound, which does not; null: none.
    #[schema(required = true)]
    to: Option<f64>,
    /// Tokens.
    tokens: u64,
    /// Mean |d| in nats.
    mae_logprob: f64,
    /// Mean d in nats, signed.
    log_ratio_mean: f64,
    /// Share of the sum of |d| over all ranges; null if that is 0.
    #[schema(required = true)]
    share: Option<f64>,
    /// Tokens with |d| of 0.1 nats and more.
    tail_tokens: u64,
}

/// A token with a large difference.
#[derive(Serialize, ToSchema)]
#[schema(as = WorstToken)]
pub(crate) struct WorstTokenResponse {
    /// The sender's id of its sequence.
    sequence_id: String,
    /// Index in the completion.
    index: usize,
    /// Its id.
    id: TokenId,
    /// Its text; absent where the model has no tokenizer files.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    text: Option<String>,
    /// The engine's logprob.
    #[schema(required = true)]
    engine_logprob: Option<f64>,
    /// The reference's in the same mode.
    #[schema(required = true)]
    reference_logprob: Option<f64>,
    /// Reference minus engine.
    #[schema(required = true)]
    log_ratio: Option<f64>,
    /// Of the reference's next-token distribution at temperature 1, in nats.
    #[schema(required = true)]
    entropy: Option<f64>,
    /// Number of tokens that the reference prefers.
    #[schema(required = true)]
    rank: Option<u32>,
    /// The worker, as sent.
    #[schema(required = true)]
    worker: Option<String>,
    /// Version of the weights that scored it; null if several did.
    #[schema(required = true)]
    policy_version: Option<String>,
}

impl EvidenceResponse {
    pub(crate) fn of(evidence: &TokenEvidence, text: Option<&dyn TokenText>) -> Self {
        Self {
            engine_probability: ranges(evidence, EvidenceKey::EngineProbability),
            entropy: ranges(evidence, EvidenceKey::Entropy),
            position: ranges(evidence, EvidenceKey::Position),
            worst_tokens: evidence.worst().iter().map(|token| WorstTokenResponse::of(token, text)).collect(),
        }
    }
}

fn ranges(evidence: &TokenEvidence, key: EvidenceKey) -> Vec<RangeResponse> {
    let (sums, bounds) = (evidence.by(key), key.bounds());
    let all: f64 = sums.iter().map(|sums| sums.abs_log_ratio).sum();
    let of_range = |(index, sums): (usize, &plumbline_divergence::EvidenceSums)| RangeResponse {
        from: index.checked_sub(1).and_then(|below| bounds.get(below)).copied(),
        to: bounds.get(index).copied(),
        tokens: sums.tokens,
        mae_logprob: sums.abs_log_ratio / sums.tokens as f64,
        log_ratio_mean: sums.log_ratio / sums.tokens as f64,
        share: (all > 0.0).then(|| sums.abs_log_ratio / all),
        tail_tokens: sums.tail_tokens,
    };
    sums.iter().enumerate().filter(|(_, sums)| sums.tokens > 0).map(of_range).collect()
}

impl WorstTokenResponse {
    fn of(worst: &WorstToken, text: Option<&dyn TokenText>) -> Self {
        let TokenComparison { token_id, engine, reference, entropy, rank, .. } = worst.token;
        Self {
            sequence_id: worst.sequence.clone(),
            index: worst.index,
            id: token_id,
            text: text.and_then(|text| texts(text, worst.previous, &[token_id]).pop()),
            engine_logprob: engine,
            reference_logprob: reference,
            log_ratio: worst.token.log_ratio(),
            entropy,
            rank,
            worker: worst.worker.clone(),
            policy_version: worst.policy_version.clone(),
        }
    }
}

/// The text of each of some consecutive tokens. What comes before them decides whether the first one's begins with a space.
pub(crate) fn texts(text: &dyn TokenText, previous: Option<TokenId>, ids: &[TokenId]) -> Vec<String> {
    let all: Vec<TokenId> = previous.into_iter().chain(ids.iter().copied()).collect();
    let mut pieces = text.pieces(&all);
    // A character that the token before began is the first one's; its own text stays away.
    pieces.drain(..pieces.len().saturating_sub(ids.len()));
    pieces
}
