//! NeMo-RL's `train_data_step{N}.jsonl`: a training sample a record, its columns as a batch of one.
//!
//! All columns are padded to the longest sample of the step; index `t` holds the logprob of token `t`, 0.0 for the prompt.

use plumbline_core::{LogprobsMode, Rollout};
use serde::Deserialize;

use super::aligned::{Cut, same_length};
use super::error::Fault;
use super::meaning::{Said, settle};
use super::plumbline::check;
use super::values::{Column, Kept, Name, OneOrMany, plain};
use super::{DumpRollout, Place, Rollouts, TrainerLogprobs, json};
use crate::Logprob;

#[derive(Debug, Deserialize)]
#[serde(remote = "Self")]
struct Record {
    token_ids: Column<u32>,
    token_loss_mask: Column<Kept>,
    sample_loss_mask: Option<OneOrMany<Kept>>,
    generation_logprobs: Column<Logprob>,
    prev_logprobs: Option<Column<Logprob>>,
    input_lengths: Option<OneOrMany<usize>>,
    idx: Option<Name>,
}

plumbline_core::objects_only!(Record);

/// One sample of a record.
struct Sample {
    token_ids: Vec<u32>,
    mask: Vec<Kept>,
    kept: bool,
    generation_logprobs: Vec<Logprob>,
    prev_logprobs: Option<Vec<Logprob>>,
    length: Option<usize>,
}

pub(super) fn read(record: &[u8], place: &Place<'_>) -> Result<Rollouts, Fault> {
    let record: Record = json::parse(record)?;
    let of = record.token_ids.0.len();
    let idx = record.idx.as_ref().map(|idx| idx.0.clone());
    let samples = record.samples()?;
    let mut rollouts = Vec::with_capacity(of);
    for (number, sample) in samples.into_iter().enumerate() {
        let id = match &idx {
            Some(idx) if of == 1 => format!("{}:{idx}", place.file),
            Some(idx) => format!("{}:{idx}.{number}", place.file),
            None => place.id(number, of),
        };
        rollouts.extend(sample.resolve(place, id).transpose());
    }
    Ok(rollouts)
}

impl Record {
    fn samples(self) -> Result<Vec<Sample>, Fault> {
        let of = self.token_ids.0.len();
        let mut masks = column("token_loss_mask", self.token_loss_mask.0, of)?;
        let mut generation = column("generation_logprobs", self.generation_logprobs.0, of)?;
        let mut prev = self.prev_logprobs.map(|prev| column("prev_logprobs", prev.0, of)).transpose()?;
        let kept = self.sample_loss_mask.map(|kept| column("sample_loss_mask", kept.into_vec(), of)).transpose()?;
        let lengths = self.input_lengths.map(|own| column("input_lengths", own.into_vec(), of)).transpose()?;
        let take = |columns: &mut Vec<Vec<Logprob>>, index: usize| std::mem::take(&mut columns[index]);
        let sample = |(index, token_ids): (usize, Vec<u32>)| Sample {
            token_ids,
            mask: std::mem::take(&mut masks[index]),
            kept: kept.as_ref().is_none_or(|kept| kept[index].into()),
            generation_logprobs: take(&mut generation, index),
            prev_logprobs: prev.as_mut().map(|prev| take(prev, index)),
            length: lengths.as_ref().map(|lengths| lengths[index]),
        };
        Ok(self.token_ids.0.into_iter().enumerate().map(sample).collect())
    }
}

fn column<T>(field: &str, values: Vec<T>, samples: usize) -> Result<Vec<T>, Fault> {
    if values.len() == samples {
        return Ok(values);
    }
    Err(Fault::of(field, format!("is of {} samples, token_ids of {samples}", values.len())))
}

impl Sample {
    /// `None` for a sample that has no part in the loss.
    fn resolve(mut self, place: &Place<'_>, id: String) -> Result<Option<DumpRollout>, Fault> {
        let padded = self.token_ids.len();
        let length = self.length.unwrap_or(padded);
        if length > padded {
            return Err(Fault::of("input_lengths", format!("is {length}, token_ids has {padded}")));
        }
        same_length("token_loss_mask", self.mask.len(), padded)?;
        same_length("generation_logprobs", self.generation_logprobs.len(), padded)?;
        self.token_ids.truncate(length);
        self.mask.truncate(length);
        let mask: Vec<bool> = self.mask.into_iter().map(|kept| self.kept && bool::from(kept)).collect();
        let Some(cut) = Cut::at_mask(self.token_ids, &mask)? else { return Ok(None) };
        let logprobs = cut.completion("generation_logprobs", &self.generation_logprobs[..length])?;
        let trainer = match self.prev_logprobs {
            Some(prev) => {
                same_length("prev_logprobs", prev.len(), padded)?;
                Some(plain(cut.completion("prev_logprobs", &prev[..length])?))
            }
            None => None,
        };
        let engine = place.engine(None, "vllm");
        // Its vLLM is told to report what it sampled from; the policy's logits are divided by the temperature too.
        let of_format = Some(LogprobsMode::Processed);
        let (sampling, logprobs_mode) = settle(&engine, Said::default(), place.options, of_format)?;
        let rollout = Rollout {
            id,
            prompt_token_ids: cut.prompt_token_ids,
            completion_token_ids: cut.completion_token_ids,
            logprobs: plain(logprobs),
            loss_mask: Some(cut.loss_mask),
            sampling,
            logprobs_mode,
            finish_reason: None,
            policy_version: place.step.map(str::to_owned),
            weight_versions: Vec::new(),
        };
        let trainer = trainer.map(|logprobs| TrainerLogprobs { logprobs, mode: LogprobsMode::Temperature });
        check(&rollout, trainer.as_ref())?;
        let (run, worker, group, cached_tokens) = (None, None, None, None);
        Ok(Some(DumpRollout { run, engine, worker, group, rollout, cached_tokens, trainer }))
    }
}
