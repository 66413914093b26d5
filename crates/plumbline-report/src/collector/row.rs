//! One line about a sequence.

use plumbline_core::SkipCounts;
use serde::Serialize;

use super::observed::Observed;

/// Characters of an id or a label that are kept; a longer one ends in an ellipsis.
const MAX_NAME_CHARS: usize = 200;

/// A sequence without its tokens.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct SequenceRow {
    pub(crate) id: String,
    /// The id under which a server keeps it, if one does.
    pub(crate) stored_id: Option<String>,
    pub(crate) group: Option<String>,
    pub(crate) worker: Option<String>,
    pub(crate) policy_version: Option<String>,
    pub(crate) prompt_tokens: Option<usize>,
    pub(crate) completion_tokens: usize,
    /// Compared tokens.
    pub(crate) tokens: u64,
    pub(crate) skipped: SkipCounts,
    pub(crate) log_ratio_mean: Option<f64>,
    pub(crate) mae_logprob: Option<f64>,
    pub(crate) rmse_logprob: Option<f64>,
    pub(crate) max_abs_logprob: Option<f64>,
    pub(crate) kl_k3: Option<f64>,
    pub(crate) noise_floor_multiple: Option<f64>,
    pub(crate) verdict: &'static str,
    pub(crate) verdict_reason: String,
    /// The likeliest cause, if it was diagnosed.
    pub(crate) cause: Option<&'static str>,
    pub(crate) explained: Option<f64>,
    pub(crate) finish_reason: Option<String>,
    pub(crate) logprobs_mode: Option<&'static str>,
    pub(crate) temperature: Option<f64>,
}

impl SequenceRow {
    pub(crate) fn of(observed: &Observed<'_>) -> Self {
        let (statistics, rollout) = (observed.statistics, observed.rollout);
        let first = observed.findings.first();
        Self {
            id: clipped(&observed.comparison.id),
            stored_id: observed.stored_id.map(clipped),
            group: observed.group.map(clipped),
            worker: observed.worker.map(clipped),
            policy_version: observed.policy_version.map(clipped),
            prompt_tokens: rollout.map(|rollout| rollout.prompt_token_ids.len()),
            completion_tokens: observed.comparison.tokens.len(),
            tokens: statistics.tokens,
            skipped: observed.comparison.skipped,
            log_ratio_mean: statistics.log_ratio_mean(),
            mae_logprob: statistics.mae(),
            rmse_logprob: statistics.rmse(),
            max_abs_logprob: statistics.max_abs(),
            kl_k3: statistics.kl_k3(),
            noise_floor_multiple: statistics.noise_floor_multiple(),
            verdict: observed.judgement.verdict.as_str(),
            verdict_reason: observed.judgement.reason.clone(),
            cause: first.map(|finding| finding.cause.as_str()),
            explained: first.and_then(|finding| finding.explained),
            finish_reason: rollout.and_then(|rollout| rollout.finish_reason.as_deref()).map(clipped),
            logprobs_mode: rollout.map(|rollout| rollout.logprobs_mode.as_str()),
            temperature: rollout.map(|rollout| rollout.sampling.temperature),
        }
    }
}

/// A name as it is kept: names are the sender's and may be of any length.
pub(crate) fn clipped(name: &str) -> String {
    match name.char_indices().nth(MAX_NAME_CHARS) {
        None => name.to_owned(),
        Some((end, _)) => format!("{}…", &name[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_it_shows() {
        assert_eq!(clipped(&"é".repeat(200)), "é".repeat(200));
        assert_eq!(clipped(&"é".repeat(201)), format!("{}…", "é".repeat(200)));
    }
}
