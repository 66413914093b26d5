//! Bodies of `POST /v1/verifications`, one a record.

use plumbline_core::Sampling;
use serde::Deserialize;

use super::error::Fault;
use super::exchanges::Exchanged;
use super::plumbline::{Around, Sequence};
use super::values::Name;
use super::{Place, Rollouts, json};

#[derive(Debug, Deserialize)]
#[serde(remote = "Self")]
struct Body {
    run: Option<String>,
    engine: Option<String>,
    worker: Option<Name>,
    policy_version: Option<Name>,
    sampling: Option<Sampling>,
    logprobs_mode: Option<String>,
    #[serde(default)]
    sequences: Vec<Sequence>,
    #[serde(default)]
    exchanges: Vec<Exchanged>,
}

plumbline_core::objects_only!(Body);

pub(super) fn read(record: &[u8], place: &Place<'_>) -> Result<Rollouts, Fault> {
    let body: Body = json::parse(record)?;
    let around = Around {
        run: body.run,
        engine: body.engine,
        worker: body.worker.map(|worker| worker.0),
        policy_version: body.policy_version.map(|version| version.0),
        sampling: body.sampling,
        logprobs_mode: body.logprobs_mode,
    };
    let of = body.sequences.len();
    let mut rollouts: Rollouts = Vec::with_capacity(of);
    for (number, sequence) in body.sequences.into_iter().enumerate() {
        let rollout = sequence.resolve(&around, place, place.id(number, of));
        rollouts.push(rollout.map_err(|fault| fault.within(&format!("sequences[{number}]"))));
    }
    let of = body.exchanges.len();
    for (number, exchange) in body.exchanges.into_iter().enumerate() {
        match exchange.resolve(&around, place, place.id(number, of)) {
            Ok(own) => rollouts.extend(own.into_iter().map(Ok)),
            Err(fault) => rollouts.push(Err(fault.within(&format!("exchanges[{number}]")))),
        }
    }
    if rollouts.is_empty() {
        return Err(Fault::record("has neither sequences nor exchanges"));
    }
    Ok(rollouts)
}
