//! prime-rl's `token_exports/step_{N}/rank_{R}.jsonl`, schema version 1: a sequence a record.
//!
//! Index `t` of every column is token `t`. The trainer scores every token at the temperature that it was sampled with.

use plumbline_core::{LogprobsMode, Rollout, Sampling};
use serde::Deserialize;

use super::aligned::{Cut, same_length};
use super::error::Fault;
use super::meaning::{Said, settle};
use super::plumbline::check;
use super::values::{Kept, Name, plain};
use super::{DumpRollout, Place, Rollouts, TrainerLogprobs, json};
use crate::Logprob;

/// The schema that is read here.
const SCHEMA_VERSION: u64 = 1;

/// Temperatures of one sequence at most: each costs a forward.
const MAX_TEMPERATURES: usize = 16;

#[derive(Debug, Deserialize)]
#[serde(remote = "Self")]
struct Record {
    schema_version: Option<u64>,
    token_ids: Vec<u32>,
    loss_mask: Vec<Kept>,
    inference_logprobs: Vec<Logprob>,
    trainer_logprobs: Option<Vec<Logprob>>,
    /// One per token.
    temperatures: Option<Vec<f64>>,
    step: Option<Name>,
    rank: Option<Name>,
    export_sequence_idx: Option<Name>,
    run_id: Option<String>,
    env_name: Option<String>,
}

plumbline_core::objects_only!(Record);

pub(super) fn read(record: &[u8], place: &Place<'_>) -> Result<Rollouts, Fault> {
    let record: Record = json::parse(record)?;
    if let Some(other) = record.schema_version.filter(|version| *version != SCHEMA_VERSION) {
        return Err(Fault::of("schema_version", format!("is {other}, only {SCHEMA_VERSION} is known")));
    }
    Ok(record.resolve(place)?.into_iter().map(Ok).collect())
}

impl Record {
    fn resolve(self, place: &Place<'_>) -> Result<Vec<DumpRollout>, Fault> {
        let Some(cut) = Cut::at_mask(self.token_ids, &plain(self.loss_mask))? else { return Ok(Vec::new()) };
        let logprobs = plain(cut.completion("inference_logprobs", &self.inference_logprobs)?);
        let trainer = self.trainer_logprobs.map(|all| cut.completion("trainer_logprobs", &all)).transpose()?;
        let trainer = trainer.map(|own| TrainerLogprobs { logprobs: plain(own), mode: LogprobsMode::Temperature });
        let step = self.step.map(|step| step.0).or_else(|| place.step.map(str::to_owned));
        let id = match (&step, &self.rank, &self.export_sequence_idx) {
            (Some(step), Some(rank), Some(index)) => format!("step_{step}/rank_{}:{}", rank.0, index.0),
            _ => place.id(0, 1),
        };
        let engine = place.engine(None, "vllm");
        let temperatures = match &self.temperatures {
            Some(all) => Some(cut.completion("temperatures", all)?),
            None => None,
        };
        let mut rollouts = Vec::new();
        for (temperature, loss_mask) in by_temperature(temperatures.as_deref(), &cut.loss_mask)? {
            let base = place.options.sampling.unwrap_or_default();
            let sampling = temperature.map(|temperature| Sampling { temperature, ..base });
            let said = Said { sampling, mode: None };
            let (sampling, logprobs_mode) = settle(&engine, said, place.options, Some(LogprobsMode::Processed))?;
            let rollout = Rollout {
                id: id.clone(),
                prompt_token_ids: cut.prompt_token_ids.clone(),
                completion_token_ids: cut.completion_token_ids.clone(),
                logprobs: logprobs.clone(),
                loss_mask: Some(loss_mask),
                sampling,
                logprobs_mode,
                finish_reason: None,
                policy_version: step.clone(),
                weight_versions: Vec::new(),
            };
            check(&rollout, trainer.as_ref())?;
            rollouts.push(DumpRollout {
                run: self.run_id.clone(),
                engine: engine.clone(),
                worker: self.env_name.clone(),
                group: None,
                rollout,
                cached_tokens: None,
                trainer: trainer.clone(),
            });
        }
        if rollouts.len() > 1 {
            for own in &mut rollouts {
                own.rollout.id = format!("{id}@{}", own.rollout.sampling.temperature);
            }
        }
        Ok(rollouts)
    }
}

/// A temperature, if it is known, and the mask of its tokens.
type Part = (Option<f64>, Vec<bool>);

/// The temperatures of the tokens in the mask, each with the mask of its own tokens: a rollout has one temperature, so that a
/// sequence with several (turns that were sampled differently) becomes several, each of which masks the tokens of the others.
fn by_temperature(temperatures: Option<&[f64]>, mask: &[bool]) -> Result<Vec<Part>, Fault> {
    let Some(temperatures) = temperatures else { return Ok(vec![(None, mask.to_vec())]) };
    same_length("temperatures", temperatures.len(), mask.len())?;
    let mut distinct: Vec<f64> = Vec::new();
    for (temperature, _) in temperatures.iter().zip(mask).filter(|(_, kept)| **kept) {
        if !distinct.contains(temperature) {
            distinct.push(*temperature);
        }
        if distinct.len() > MAX_TEMPERATURES {
            return Err(Fault::of("temperatures", format!("has more than {MAX_TEMPERATURES} different values")));
        }
    }
    let own = |temperature: f64| {
        temperatures.iter().zip(mask).map(|(other, kept)| *kept && *other == temperature).collect::<Vec<_>>()
    };
    Ok(distinct.into_iter().map(|temperature| (Some(temperature), own(temperature))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_temperature_keeps_its_own_tokens() {
        let mask = [true, true, false, true];
        assert_eq!(by_temperature(None, &mask).unwrap(), [(None, mask.to_vec())]);
        assert_eq!(
            by_temperature(Some(&[0.7, 1.0, 0.2, 0.7]), &mask).unwrap(),
            [(Some(0.7), vec![true, false, false, true]), (Some(1.0), vec![false, true, false, false])]
        );
        let many: Vec<f64> = (0..20).map(f64::from).collect();
        assert!(by_temperature(Some(&many), &[true; 20]).is_err());
    }
}
