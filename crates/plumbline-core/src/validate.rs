//! What makes a rollout unusable. Found before anything is queued; nothing is repaired.

use crate::{ModelLimits, Processing, Rollout, VersionSpan};

/// One reason why a rollout cannot be scored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// JSON pointer (RFC 6901) to the offending field, relative to the sequence.
    pub pointer: String,
    /// Stable, machine-readable kind.
    pub code: ViolationCode,
    /// Names the field's value and the reason.
    pub detail: String,
}

/// Kinds of violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ViolationCode {
    /// `completion_token_ids` is empty.
    EmptyCompletion,
    /// Two arrays that must be parallel are not.
    LengthMismatch,
    /// An id at or above the model's vocabulary.
    TokenOutOfVocabulary,
    /// More tokens than the limit.
    SequenceTooLong,
    /// A sampling parameter out of its range.
    InvalidSampling,
    /// A logprobs mode that the reference cannot reproduce.
    IrreproducibleMode,
    /// Spans of weight versions that are not consecutive or do not cover the completion.
    InvalidWeightVersions,
}

impl ViolationCode {
    /// The code used in problem documents.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EmptyCompletion => "empty_completion",
            Self::LengthMismatch => "length_mismatch",
            Self::TokenOutOfVocabulary => "token_out_of_vocabulary",
            Self::SequenceTooLong => "sequence_too_long",
            Self::InvalidSampling => "invalid_sampling",
            Self::IrreproducibleMode => "irreproducible_logprobs_mode",
            Self::InvalidWeightVersions => "invalid_weight_versions",
        }
    }
}

impl Rollout {
    /// Everything that makes this rollout unusable for a model with `limits`; empty = it can be scored.
    ///
    /// Only the first out-of-vocabulary id of an array is reported, the rest would repeat it.
    #[must_use]
    pub fn violations(&self, limits: &ModelLimits) -> Vec<Violation> {
        let mut found = Vec::new();
        let mut report = |pointer: &str, code, detail| found.push(Violation { pointer: pointer.into(), code, detail });
        let completion = self.completion_token_ids.len();
        if completion == 0 {
            report("/completion_token_ids", ViolationCode::EmptyCompletion, "must have at least one token id".into());
        }
        if self.logprobs.len() != completion {
            let detail = format!("has {} values for {completion} completion tokens", self.logprobs.len());
            report("/logprobs", ViolationCode::LengthMismatch, detail);
        }
        if let Some(mask) = &self.loss_mask
            && mask.len() != completion
        {
            let detail = format!("has {} values for {completion} completion tokens", mask.len());
            report("/loss_mask", ViolationCode::LengthMismatch, detail);
        }
        let total = self.prompt_token_ids.len() + completion;
        if total > limits.max_positions {
            let detail = format!(
                "prompt and completion have {total} tokens, the limit is {} (sequences are never truncated)",
                limits.max_positions
            );
            report("/completion_token_ids", ViolationCode::SequenceTooLong, detail);
        }
        for (field, ids) in
            [("prompt_token_ids", &self.prompt_token_ids), ("completion_token_ids", &self.completion_token_ids)]
        {
            if let Some((index, id)) = ids.iter().enumerate().find(|(_, id)| **id as usize >= limits.vocab_size) {
                let detail = format!("id {id} is not below the vocabulary size {}", limits.vocab_size);
                report(&format!("/{field}/{index}"), ViolationCode::TokenOutOfVocabulary, detail);
            }
        }
        if let Some((place, detail)) = broken_spans(&self.weight_versions, completion) {
            report(&format!("/weight_versions{place}"), ViolationCode::InvalidWeightVersions, detail);
        }
        for (field, value, reason) in self.sampling.violations() {
            report(&format!("/sampling/{field}"), ViolationCode::InvalidSampling, format!("{value}: {reason}"));
        }
        if let Err(error) = Processing::of(self.logprobs_mode, &self.sampling) {
            report("/logprobs_mode", ViolationCode::IrreproducibleMode, error.to_string());
        }
        found
    }
}

/// Spans of one sequence at most: each version among them costs a forward.
const MAX_SPANS: usize = 256;

/// Where and why spans do not cover `completion` tokens one after the other.
fn broken_spans(spans: &[VersionSpan], completion: usize) -> Option<(String, String)> {
    if spans.len() > MAX_SPANS {
        return Some((String::new(), format!("has {} spans, the limit is {MAX_SPANS}", spans.len())));
    }
    let mut covered = 0;
    for (index, span) in spans.iter().enumerate() {
        if span.start != covered {
            return Some((format!("/{index}/start"), format!("is {}, the span must start at {covered}", span.start)));
        }
        if span.end <= span.start {
            return Some((format!("/{index}/end"), format!("is {}, must be above start {}", span.end, span.start)));
        }
        covered = span.end;
    }
    let complete = spans.is_empty() || covered == completion;
    (!complete).then(|| (String::new(), format!("cover {covered} of {completion} completion tokens")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LogprobsMode, ProcessingOrder, Sampling};

    const LIMITS: ModelLimits = ModelLimits { vocab_size: 10, max_positions: 4 };

    fn good() -> Rollout {
        Rollout {
            id: "s".into(),
            prompt_token_ids: vec![1],
            completion_token_ids: vec![2, 3],
            logprobs: vec![Some(-1.0), None],
            loss_mask: Some(vec![true, false]),
            sampling: Sampling::default(),
            logprobs_mode: LogprobsMode::Raw,
            finish_reason: None,
            policy_version: None,
            weight_versions: Vec::new(),
        }
    }

    fn codes(rollout: &Rollout) -> Vec<(String, ViolationCode)> {
        rollout.violations(&LIMITS).into_iter().map(|v| (v.pointer, v.code)).collect()
    }

    #[test]
    fn a_good_rollout_has_none() {
        assert_eq!(codes(&good()), []);
    }

    #[test]
    fn each_kind_points_at_its_field() {
        use ViolationCode as C;
        let with = |change: fn(&mut Rollout)| {
            let mut rollout = good();
            change(&mut rollout);
            codes(&rollout)
        };
        let one = |pointer: &str, code| vec![(pointer.to_owned(), code)];
        assert_eq!(with(|r| r.logprobs.truncate(1)), one("/logprobs", C::LengthMismatch));
        assert_eq!(with(|r| r.loss_mask = Some(vec![])), one("/loss_mask", C::LengthMismatch));
        assert_eq!(with(|r| r.completion_token_ids[1] = 10), one("/completion_token_ids/1", C::TokenOutOfVocabulary));
        assert_eq!(with(|r| r.prompt_token_ids[0] = 99), one("/prompt_token_ids/0", C::TokenOutOfVocabulary));
        assert_eq!(with(|r| r.prompt_token_ids = vec![1; 3]), one("/completion_token_ids", C::SequenceTooLong));
        assert_eq!(with(|r| r.sampling.top_p = 2.0), one("/sampling/top_p", C::InvalidSampling));
        let irreproducible = with(|r| {
            r.logprobs_mode = LogprobsMode::Processed;
            r.sampling.order = Some(ProcessingOrder::Tgi);
            r.sampling.frequency_penalty = 0.5;
        });
        assert_eq!(irreproducible, one("/logprobs_mode", C::IrreproducibleMode));
        let span = |start, end| VersionSpan { version: "v".into(), start, end };
        for (spans, pointer) in [
            (vec![span(1, 2)], "/weight_versions/0/start"),
            (vec![span(0, 1), span(1, 1)], "/weight_versions/1/end"),
            (vec![span(0, 1)], "/weight_versions"),
            (vec![span(0, 1), span(1, 3)], "/weight_versions"),
        ] {
            let rollout = Rollout { weight_versions: spans, ..good() };
            assert_eq!(codes(&rollout), one(pointer, C::InvalidWeightVersions));
        }
        let many = Rollout { weight_versions: vec![span(0, 1); MAX_SPANS + 1], ..good() };
        assert_eq!(codes(&many), one("/weight_versions", C::InvalidWeightVersions));
        assert_eq!(codes(&Rollout { weight_versions: vec![span(0, 1), span(1, 2)], ..good() }), []);
        let empty = with(|r| {
            r.completion_token_ids.clear();
            r.logprobs.clear();
            r.loss_mask = None;
        });
        assert_eq!(empty, one("/completion_token_ids", C::EmptyCompletion));
    }
}
