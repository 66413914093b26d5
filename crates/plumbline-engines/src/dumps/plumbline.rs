//! Plumbline's own form: one sequence of `POST /v1/verifications` a record, with the labels that the request would have.

use plumbline_core::{Rollout, Sampling, VersionSpan};
use serde::Deserialize;

use super::aligned::same_length;
use super::error::Fault;
use super::meaning::{Said, mode_named, settle};
use super::values::{Kept, Name, plain};
use super::{DumpRollout, Place, Rollouts, TrainerLogprobs, UNNAMED_ENGINE, json};
use crate::Logprob;

/// A sequence. Fields that are not named here are left alone: dumps carry texts and rewards beside what is verified.
#[derive(Debug, Deserialize)]
#[serde(remote = "Self")]
pub(super) struct Sequence {
    id: Option<Name>,
    group: Option<Name>,
    run: Option<String>,
    engine: Option<String>,
    worker: Option<Name>,
    prompt_token_ids: Vec<u32>,
    completion_token_ids: Vec<u32>,
    logprobs: Vec<Logprob>,
    loss_mask: Option<Vec<Kept>>,
    finish_reason: Option<String>,
    sampling: Option<Sampling>,
    logprobs_mode: Option<String>,
    policy_version: Option<Name>,
    weight_versions: Option<Vec<Span>>,
    cached_tokens: Option<usize>,
    trainer_logprobs: Option<Vec<Logprob>>,
}

plumbline_core::objects_only!(Sequence);

/// Completion tokens that one version of the weights sampled.
#[derive(Clone, Debug, Deserialize)]
#[serde(remote = "Self")]
pub(super) struct Span {
    version: Name,
    start: usize,
    end: usize,
}

plumbline_core::objects_only!(Span);

impl From<Span> for VersionSpan {
    fn from(span: Span) -> Self {
        Self { version: span.version.0, start: span.start, end: span.end }
    }
}

/// What stands around a sequence and counts where it says nothing itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Around {
    pub(super) run: Option<String>,
    pub(super) engine: Option<String>,
    pub(super) worker: Option<String>,
    pub(super) policy_version: Option<String>,
    pub(super) sampling: Option<Sampling>,
    pub(super) logprobs_mode: Option<String>,
}

pub(super) fn read(record: &[u8], place: &Place<'_>) -> Result<Rollouts, Fault> {
    let sequence: Sequence = json::parse(record)?;
    Ok(vec![sequence.resolve(&Around::default(), place, place.id(0, 1))])
}

impl Sequence {
    /// The rollout; `id` names it if it has no name of its own.
    pub(super) fn resolve(self, around: &Around, place: &Place<'_>, id: String) -> Result<DumpRollout, Fault> {
        let engine = place.engine(self.engine.or_else(|| around.engine.clone()), UNNAMED_ENGINE);
        let mode = self.logprobs_mode.or_else(|| around.logprobs_mode.clone());
        let said =
            Said { sampling: self.sampling.or(around.sampling), mode: mode.map(|name| mode_named(&name)).transpose()? };
        let (sampling, logprobs_mode) = settle(&engine, said, place.options, None)?;
        let rollout = Rollout {
            id: self.id.map_or(id, |id| id.0),
            prompt_token_ids: self.prompt_token_ids,
            completion_token_ids: self.completion_token_ids,
            logprobs: plain(self.logprobs),
            loss_mask: self.loss_mask.map(plain),
            sampling,
            logprobs_mode,
            finish_reason: self.finish_reason,
            policy_version: self.policy_version.map(|version| version.0).or_else(|| around.policy_version.clone()),
            weight_versions: self.weight_versions.map(plain).unwrap_or_default(),
        };
        let trainer =
            self.trainer_logprobs.map(|logprobs| TrainerLogprobs { logprobs: plain(logprobs), mode: logprobs_mode });
        check(&rollout, trainer.as_ref())?;
        Ok(DumpRollout {
            run: self.run.or_else(|| around.run.clone()),
            engine,
            worker: self.worker.map(|worker| worker.0).or_else(|| around.worker.clone()),
            group: self.group.map(|group| group.0),
            rollout,
            cached_tokens: self.cached_tokens,
            trainer,
        })
    }
}

/// What makes a rollout unusable for any model.
pub(super) fn check(rollout: &Rollout, trainer: Option<&TrainerLogprobs>) -> Result<(), Fault> {
    let tokens = rollout.completion_token_ids.len();
    if tokens == 0 {
        return Err(Fault::of("completion_token_ids", "must have at least one token id"));
    }
    same_length("logprobs", rollout.logprobs.len(), tokens)?;
    if let Some(mask) = &rollout.loss_mask {
        same_length("loss_mask", mask.len(), tokens)?;
    }
    if let Some(trainer) = trainer {
        same_length("trainer_logprobs", trainer.logprobs.len(), tokens)?;
    }
    Ok(())
}
