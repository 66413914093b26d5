//! `engine_outputs.jsonl` of the script that Plumbline grew from: raw logprobs at temperature 1.

use plumbline_core::Rollout;
use serde::Deserialize;

use super::error::Fault;
use super::meaning::{Said, settle};
use super::plumbline::check;
use super::values::{Name, plain};
use super::{DumpRollout, Place, Rollouts, UNNAMED_ENGINE, json};
use crate::Logprob;

#[derive(Debug, Deserialize)]
#[serde(remote = "Self")]
struct Record {
    prompt_ids: Vec<u32>,
    gen_ids: Vec<u32>,
    gen_logprobs: Vec<Logprob>,
    idx: Option<Name>,
}

plumbline_core::objects_only!(Record);

pub(super) fn read(record: &[u8], place: &Place<'_>) -> Result<Rollouts, Fault> {
    let record: Record = json::parse(record)?;
    Ok(vec![record.resolve(place)])
}

impl Record {
    fn resolve(self, place: &Place<'_>) -> Result<DumpRollout, Fault> {
        let engine = place.engine(None, UNNAMED_ENGINE);
        let (sampling, logprobs_mode) = settle(&engine, Said::default(), place.options, None)?;
        let rollout = Rollout {
            id: self.idx.map_or_else(|| place.id(0, 1), |idx| format!("{}:{}", place.file, idx.0)),
            prompt_token_ids: self.prompt_ids,
            completion_token_ids: self.gen_ids,
            logprobs: plain(self.gen_logprobs),
            loss_mask: None,
            sampling,
            logprobs_mode,
            finish_reason: None,
            policy_version: None,
            weight_versions: Vec::new(),
        };
        check(&rollout, None).map_err(|fault| match fault.field.as_deref() {
            Some("completion_token_ids") => Fault { field: Some("gen_ids".into()), ..fault },
            Some("logprobs") => Fault { field: Some("gen_logprobs".into()), ..fault },
            _ => fault,
        })?;
        let (run, worker, group, cached_tokens, trainer) = (None, None, None, None, None);
        Ok(DumpRollout { run, engine, worker, group, rollout, cached_tokens, trainer })
    }
}
