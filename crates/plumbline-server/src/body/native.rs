//! A verification as a native body: whatever it was read from, reading this again gives the same.

use plumbline_core::{LogprobsMode, Rollout, Sampling, TokenId};
use serde::{Serialize, Serializer};

use super::Verification;

#[derive(Serialize)]
struct Body<'a> {
    run: &'a str,
    engine: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<&'a str>,
    include: Vec<&'static str>,
    sequences: Vec<Sequence<'a>>,
}

#[derive(Serialize)]
struct Sequence<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    prompt_token_ids: &'a [TokenId],
    completion_token_ids: &'a [TokenId],
    logprobs: Vec<Logprob>,
    #[serde(skip_serializing_if = "Option::is_none")]
    loss_mask: Option<&'a [bool]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cached_tokens: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finish_reason: Option<&'a str>,
    sampling: Sampling,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    weight_versions: Vec<Span<'a>>,
    logprobs_mode: LogprobsMode,
}

#[derive(Serialize)]
struct Span<'a> {
    version: &'a str,
    start: usize,
    end: usize,
}

/// JSON has no number for what is not finite: it goes by its name.
struct Logprob(Option<f64>);

impl Serialize for Logprob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            None => serializer.serialize_none(),
            Some(value) if value.is_finite() => serializer.serialize_f64(value),
            Some(value) if value.is_nan() => serializer.serialize_str("NaN"),
            Some(value) if value > 0.0 => serializer.serialize_str("Infinity"),
            Some(_) => serializer.serialize_str("-Infinity"),
        }
    }
}

/// Writes a verification. CPU-bound.
///
/// # Errors
/// It cannot be serialised: a defect.
pub(crate) fn native_body(verification: &Verification) -> serde_json::Result<Vec<u8>> {
    let rollouts = verification.rollouts.iter().zip(&verification.cached_tokens).zip(&verification.named);
    let include = [
        (verification.include_tokens, "tokens"),
        (verification.include_importance_weights, "importance_weights"),
        (verification.include_diagnosis, "diagnosis"),
    ];
    serde_json::to_vec(&Body {
        run: &verification.run,
        engine: &verification.engine,
        worker: verification.worker.as_deref(),
        include: include.into_iter().filter_map(|(included, name)| included.then_some(name)).collect(),
        sequences: rollouts.map(|((rollout, cached), named)| Sequence::of(rollout, *cached, *named)).collect(),
    })
}

impl<'a> Sequence<'a> {
    fn of(rollout: &'a Rollout, cached_tokens: Option<usize>, named: bool) -> Self {
        let spans = rollout.weight_versions.iter();
        Self {
            id: named.then_some(&rollout.id),
            prompt_token_ids: &rollout.prompt_token_ids,
            completion_token_ids: &rollout.completion_token_ids,
            logprobs: rollout.logprobs.iter().map(|value| Logprob(*value)).collect(),
            loss_mask: rollout.loss_mask.as_deref(),
            cached_tokens,
            finish_reason: rollout.finish_reason.as_deref(),
            sampling: rollout.sampling,
            policy_version: rollout.policy_version.as_deref(),
            weight_versions: spans
                .map(|span| Span { version: &span.version, start: span.start, end: span.end })
                .collect(),
            logprobs_mode: rollout.logprobs_mode,
        }
    }
}
