//! One sequence a record, prompt and completion in one array.

use plumbline_core::{Rollout, Sampling, VersionSpan};
use serde::Deserialize;

use super::aligned::same_length;
use super::error::Fault;
use super::meaning::{Said, mode_named, settle};
use super::plumbline::{Span, check};
use super::values::{Kept, Name, plain};
use super::{DumpRollout, Place, Rollouts, UNNAMED_ENGINE, json};
use crate::Logprob;

#[derive(Debug, Deserialize)]
#[serde(remote = "Self")]
struct Record {
    token_ids: Vec<u32>,
    prompt_len: usize,
    /// Of all tokens, or of the completion alone.
    logprobs: Vec<Logprob>,
    /// Of all tokens, or of the completion alone.
    loss_mask: Option<Vec<Kept>>,
    temperature: Option<f64>,
    sampling: Option<Sampling>,
    logprobs_mode: Option<String>,
    weight_version: Option<Versions>,
    engine: Option<String>,
    worker: Option<Name>,
    run: Option<String>,
    group: Option<Name>,
    sequence_id: Option<Name>,
    finish_reason: Option<String>,
}

plumbline_core::objects_only!(Record);

/// A version of the weights, or which version sampled which completion tokens.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Versions {
    One(Name),
    Spans(Vec<Span>),
}

pub(super) fn read(record: &[u8], place: &Place<'_>) -> Result<Rollouts, Fault> {
    let record: Record = json::parse(record)?;
    Ok(vec![record.resolve(place)])
}

impl Record {
    fn resolve(self, place: &Place<'_>) -> Result<DumpRollout, Fault> {
        let mut prompt_token_ids = self.token_ids;
        let tokens = prompt_token_ids.len();
        if self.prompt_len > tokens {
            return Err(Fault::of("prompt_len", format!("is {}, above the {tokens} token ids", self.prompt_len)));
        }
        let completion_token_ids = prompt_token_ids.split_off(self.prompt_len);
        let completion = completion_token_ids.len();
        let logprobs = of_completion("logprobs", plain(self.logprobs), tokens, completion)?;
        let mask =
            self.loss_mask.map(|mask| of_completion("loss_mask", plain(mask), tokens, completion)).transpose()?;
        let sampling = match (self.sampling, self.temperature) {
            (Some(_), Some(_)) => {
                return Err(Fault::of("temperature", "stands beside sampling, which has a temperature of its own"));
            }
            (sampling, None) => sampling,
            (None, Some(temperature)) => Some(Sampling { temperature, ..place.options.sampling.unwrap_or_default() }),
        };
        let said = Said { sampling, mode: self.logprobs_mode.map(|name| mode_named(&name)).transpose()? };
        let engine = place.engine(self.engine, UNNAMED_ENGINE);
        let (sampling, logprobs_mode) = settle(&engine, said, place.options, None)?;
        let (policy_version, weight_versions): (Option<String>, Vec<VersionSpan>) = match self.weight_version {
            None => (None, Vec::new()),
            Some(Versions::One(version)) => (Some(version.0), Vec::new()),
            Some(Versions::Spans(spans)) => (None, plain(spans)),
        };
        let rollout = Rollout {
            id: self.sequence_id.map_or_else(|| place.id(0, 1), |id| id.0),
            prompt_token_ids,
            completion_token_ids,
            logprobs,
            loss_mask: mask,
            sampling,
            logprobs_mode,
            finish_reason: self.finish_reason,
            policy_version,
            weight_versions,
        };
        check(&rollout, None)?;
        Ok(DumpRollout {
            run: self.run,
            engine,
            worker: self.worker.map(|worker| worker.0),
            group: self.group.map(|group| group.0),
            rollout,
            cached_tokens: None,
            trainer: None,
        })
    }
}

/// The part of the completion of an array that may have the prompt in front.
fn of_completion<T>(field: &str, mut values: Vec<T>, tokens: usize, completion: usize) -> Result<Vec<T>, Fault> {
    if values.len() == completion {
        return Ok(values);
    }
    if values.len() != tokens {
        let reason = format!("has {} values for {tokens} tokens, {completion} of them the completion", values.len());
        return Err(Fault::of(field, reason));
    }
    let own = values.split_off(tokens - completion);
    same_length(field, own.len(), completion)?;
    Ok(own)
}
