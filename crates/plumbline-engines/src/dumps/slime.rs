//! slime's `Sample` as JSON: a sample a record, or an object whose `samples` are many.
//!
//! `tokens` are prompt and response; logprobs and mask are of the response alone. Tokens of tools carry 0.0 and are masked.

use plumbline_core::{LogprobsMode, Rollout};
use serde::Deserialize;

use super::aligned::same_length;
use super::error::Fault;
use super::meaning::{Said, settle};
use super::plumbline::check;
use super::values::{Kept, Name, plain};
use super::{DumpRollout, Place, Rollouts, json};
use crate::Logprob;

#[derive(Debug, Deserialize)]
#[serde(remote = "Self")]
struct Sample {
    tokens: Vec<u32>,
    response_length: usize,
    rollout_log_probs: Option<Vec<Logprob>>,
    loss_mask: Option<Vec<Kept>>,
    #[serde(default)]
    weight_versions: Option<Vec<Name>>,
    status: Option<String>,
    index: Option<Name>,
    group_index: Option<Name>,
}

plumbline_core::objects_only!(Sample);

pub(super) fn read(record: &[u8], place: &Place<'_>) -> Result<Rollouts, Fault> {
    #[derive(Deserialize)]
    #[serde(remote = "Self")]
    struct Samples {
        samples: Vec<Sample>,
    }
    plumbline_core::objects_only!(Samples);
    // Typed as what it is, so that errors name the field.
    let is_many = json::parse::<IsMany>(record)?.samples.is_some();
    let samples = if is_many { json::parse::<Samples>(record)?.samples } else { vec![json::parse(record)?] };
    let of = samples.len();
    let resolve = |(number, sample): (usize, Sample)| {
        let rollout = sample.resolve(place, place.id(number, of));
        rollout.map_err(|fault| if is_many { fault.within(&format!("samples[{number}]")) } else { fault })
    };
    Ok(samples.into_iter().enumerate().map(resolve).filter_map(Result::transpose).collect())
}

/// Whether a record holds many samples.
#[derive(Deserialize)]
#[serde(remote = "Self")]
struct IsMany {
    samples: Option<serde::de::IgnoredAny>,
}

plumbline_core::objects_only!(IsMany);

impl Sample {
    /// `None` for a sample that has no part in the loss.
    fn resolve(self, place: &Place<'_>, id: String) -> Result<Option<DumpRollout>, Fault> {
        let mut prompt_token_ids = self.tokens;
        let Some(prompt) = prompt_token_ids.len().checked_sub(self.response_length) else {
            let reason = format!("is {}, tokens has {}", self.response_length, prompt_token_ids.len());
            return Err(Fault::of("response_length", reason));
        };
        let completion_token_ids = prompt_token_ids.split_off(prompt);
        let loss_mask: Option<Vec<bool>> = self.loss_mask.map(plain);
        if let Some(mask) = &loss_mask {
            same_length("loss_mask", mask.len(), completion_token_ids.len())?;
        }
        if completion_token_ids.is_empty() || loss_mask.as_ref().is_some_and(|mask| !mask.contains(&true)) {
            return Ok(None);
        }
        let Some(logprobs) = self.rollout_log_probs else {
            return Err(Fault::of(
                "rollout_log_probs",
                "is missing: slime keeps the engine's logprobs only if it is told to",
            ));
        };
        same_length("rollout_log_probs", logprobs.len(), completion_token_ids.len())?;
        let engine = place.engine(None, "sglang");
        let (sampling, logprobs_mode) =
            settle(&engine, Said::default(), place.options, Some(LogprobsMode::Temperature))?;
        let id = match self.index {
            Some(index) => format!("{}:{}", place.file, index.0),
            None => id,
        };
        let rollout = Rollout {
            id,
            prompt_token_ids,
            completion_token_ids,
            logprobs: plain(logprobs),
            loss_mask,
            sampling,
            logprobs_mode,
            finish_reason: self.status.map(finish_reason),
            policy_version: version(self.weight_versions.unwrap_or_default()),
            weight_versions: Vec::new(),
        };
        check(&rollout, None)?;
        let group = self.group_index.map(|group| group.0);
        let (run, worker, cached_tokens, trainer) = (None, None, None, None);
        Ok(Some(DumpRollout { run, engine, worker, group, rollout, cached_tokens, trainer }))
    }
}

/// One version for each turn, without where the turns begin: all of them, each once.
fn version(versions: Vec<Name>) -> Option<String> {
    let mut distinct: Vec<String> = versions.into_iter().map(|version| version.0).collect();
    distinct.dedup();
    (!distinct.is_empty()).then(|| distinct.join(","))
}

fn finish_reason(status: String) -> String {
    match status.as_str() {
        "completed" => "stop".into(),
        "truncated" => "length".into(),
        _ => status,
    }
}
