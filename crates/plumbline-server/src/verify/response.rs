//! The answer on the wire.

use std::borrow::Cow;

use plumbline_core::{LogprobsMode, SkipCounts};
use plumbline_divergence::{Finding, ImportanceWeights, Metrics, SequenceComparison, TokenComparison};
use serde::Serialize;
use utoipa::ToSchema;

use crate::body::LogprobsModeName;
use crate::openapi::{MetricsDocument, SkippedDocument};

/// Printed beside signed numbers.
pub(crate) const SIGN: &str = "reference_logprob - engine_logprob, in nats";

/// Result of a verification.
#[derive(Serialize, ToSchema)]
pub(crate) struct VerificationResponse<'a> {
    /// Id of the verification.
    #[schema(example = "ver_0197f3c5c8d87e6fa6a1c3e1f0c0a001")]
    pub(super) id: &'a str,
    /// The run, as sent.
    pub(super) run: &'a str,
    /// The engine, as sent.
    pub(super) engine: &'a str,
    /// What scored.
    pub(super) reference: ReferenceSummary<'a>,
    /// The meaning of all logprobs in this answer; null if it differs between sequences.
    #[schema(value_type = Option<LogprobsModeName>)]
    pub(super) logprobs_mode: Option<LogprobsMode>,
    /// The sign convention of every log ratio.
    #[schema(example = "reference_logprob - engine_logprob, in nats")]
    pub(super) log_ratio_sign: &'static str,
    /// Pooled over the compared tokens of all sequences.
    #[schema(value_type = MetricsDocument)]
    pub(super) metrics: Metrics,
    /// Tokens that enter no sum, by reason.
    #[schema(value_type = SkippedDocument)]
    pub(super) skipped: SkipCounts,
    /// One per sequence, in the order of the request.
    pub(super) sequences: Vec<SequenceResponse<'a>>,
    // The two last ones are as the ledger expects them (`ledger::seal`): only it knows their values.
    /// Indices of sequences that an earlier request has counted: the same run, engine, id and content. They were scored again, but
    /// enter no counter again.
    pub(super) already_counted: &'a [usize],
    /// Whether the answer and its sequences are in the store. False without a data dir, and while the store is in trouble.
    pub(super) stored: bool,
}

/// The resident model that scored.
#[derive(Serialize, ToSchema)]
pub(crate) struct ReferenceSummary<'a> {
    /// Its name.
    pub(super) model: &'a str,
    /// Version of its weights; null if the sequences were scored with different ones.
    #[schema(required = true)]
    pub(super) policy_version: Option<&'a str>,
    /// dtype of the decoder body.
    pub(super) dtype: &'a str,
    /// dtype in which the lm_head multiplies.
    pub(super) head_dtype: &'a str,
    /// Where it runs.
    pub(super) device: &'a str,
}

/// Result of one sequence.
#[derive(Serialize, ToSchema)]
pub(crate) struct SequenceResponse<'a> {
    /// Its id, as sent, or its index.
    pub(super) id: &'a str,
    /// `consistent`, `suspect`, `divergent`, or `insufficient` where too few tokens were compared.
    #[schema(example = "consistent")]
    pub(super) verdict: &'static str,
    /// What the verdict rests on, for people.
    #[schema(example = "mean |d| is 1.043 times the noise floor; suspect above 2.5, divergent above 5")]
    pub(super) verdict_reason: String,
    /// Over its compared tokens.
    #[schema(value_type = MetricsDocument)]
    pub(super) metrics: &'a Metrics,
    /// Tokens that enter no sum, by reason.
    #[schema(value_type = SkippedDocument)]
    pub(super) skipped: SkipCounts,
    /// What its logprobs mean.
    #[schema(value_type = LogprobsModeName)]
    pub(super) logprobs_mode: LogprobsMode,
    /// Version of the weights that scored it; null if several did, each its own tokens.
    #[schema(required = true)]
    pub(super) policy_version: Option<&'a str>,
    /// With `include: ["tokens"]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) tokens: Option<TokensResponse>,
    /// With `include: ["importance_weights"]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ImportanceWeightsDocument>, nullable = false)]
    pub(super) importance_weights: Option<ImportanceWeights>,
    /// With `include: ["diagnosis"]`: causes, the likeliest first. Empty for a consistent sequence, and where nothing beyond
    /// noise was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) diagnosis: Option<Vec<FindingResponse<'a>>>,
}

/// A cause that would explain a divergence.
#[derive(Serialize, ToSchema)]
#[schema(as = Finding)]
pub(crate) struct FindingResponse<'a> {
    /// Its code.
    #[schema(example = "temperature_not_applied")]
    pub(super) cause: &'a str,
    /// Part of the mean |d| that is gone under this hypothesis, 1 = all; null for causes that cannot be tried out.
    #[schema(required = true, example = 0.98)]
    pub(super) explained: Option<f64>,
    /// What speaks for it.
    pub(super) evidence: Cow<'a, str>,
}

impl From<Finding> for FindingResponse<'static> {
    fn from(finding: Finding) -> Self {
        Self { cause: finding.cause.as_str(), explained: finding.explained, evidence: Cow::Owned(finding.evidence) }
    }
}

impl<'a> FindingResponse<'a> {
    pub(super) fn of(finding: &'a Finding) -> Self {
        Self { cause: finding.cause.as_str(), explained: finding.explained, evidence: Cow::Borrowed(&finding.evidence) }
    }
}

/// Per-token numbers, one per completion token; null where there is none.
#[derive(Serialize, ToSchema)]
pub(crate) struct TokensResponse {
    /// In the mode of the engine's; null for a token without context.
    pub(super) reference_logprobs: Vec<Option<f64>>,
    /// Reference minus engine; null where either is missing or no logprob. Present for masked tokens.
    pub(super) log_ratio: Vec<Option<f64>>,
    /// Of the reference's next-token distribution at temperature 1, in nats.
    pub(super) entropy: Vec<Option<f64>>,
    /// Number of tokens that the reference prefers; 0 = its own first choice.
    pub(super) rank: Vec<Option<u32>>,
}

/// Importance weights, untruncated; exponents are limited to +-20.
#[derive(ToSchema)]
#[schema(as = ImportanceWeights)]
#[expect(dead_code, reason = "describes plumbline_divergence::ImportanceWeights in the OpenAPI document")]
pub(crate) struct ImportanceWeightsDocument {
    /// exp(log ratio) of each completion token; null where there is none.
    token: Vec<Option<f64>>,
    /// exp(sum of log ratios) over the compared tokens.
    #[schema(required = true)]
    sequence: Option<f64>,
    /// exp(mean of log ratios) over the compared tokens.
    #[schema(required = true)]
    geometric: Option<f64>,
}

impl TokensResponse {
    pub(super) fn of(comparison: &SequenceComparison) -> Self {
        fn each<T>(comparison: &SequenceComparison, value: impl Fn(&TokenComparison) -> Option<T>) -> Vec<Option<T>> {
            comparison.tokens.iter().map(value).collect()
        }
        Self {
            reference_logprobs: each(comparison, |token| token.reference),
            log_ratio: each(comparison, TokenComparison::log_ratio),
            entropy: each(comparison, |token| token.entropy),
            rank: each(comparison, |token| token.rank),
        }
    }
}
