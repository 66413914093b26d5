//! A request to an engine and its response a record, both as they went over the wire.

use plumbline_core::Sampling;
use serde::Deserialize;
use serde_json::Value;

use super::error::Fault;
use super::meaning::mode_named;
use super::plumbline::{Around, check};
use super::values::Name;
use super::{DumpRollout, Place, Rollouts, json};
use crate::{EngineKind, Exchange, ExchangeError, read_exchange};

/// An exchange. Fields that are not named here are left alone.
#[derive(Debug, Deserialize)]
#[serde(remote = "Self")]
pub(super) struct Exchanged {
    id: Option<Name>,
    path: Option<String>,
    /// A label.
    engine: Option<String>,
    /// Whose bodies these are; missing = as the label says, else by their shape.
    engine_kind: Option<String>,
    run: Option<String>,
    worker: Option<Name>,
    group: Option<Name>,
    logprobs_mode: Option<String>,
    sampling: Option<Sampling>,
    policy_version: Option<Name>,
    #[serde(default)]
    request: Value,
    response: Value,
}

plumbline_core::objects_only!(Exchanged);

pub(super) fn read(record: &[u8], place: &Place<'_>) -> Result<Rollouts, Fault> {
    let exchange: Exchanged = json::parse(record)?;
    let rollouts = exchange.resolve(&Around::default(), place, place.id(0, 1))?;
    Ok(rollouts.into_iter().map(Ok).collect())
}

impl Exchanged {
    /// The rollouts; `id` names the exchange if it has no name of its own.
    pub(super) fn resolve(self, around: &Around, place: &Place<'_>, id: String) -> Result<Vec<DumpRollout>, Fault> {
        let label = self.engine.or_else(|| around.engine.clone()).or_else(|| place.options.engine.clone());
        let kind =
            match &self.engine_kind {
                Some(name) => Some(EngineKind::of_name(name).ok_or_else(|| {
                    Fault::of("engine_kind", format!("no engine with the bodies of {name:?} is known"))
                })?),
                None => label.as_deref().and_then(EngineKind::of_name),
            };
        let mode = self.logprobs_mode.or_else(|| around.logprobs_mode.clone());
        let mode = mode.map(|name| mode_named(&name)).transpose()?;
        let id = self.id.map_or(id, |id| id.0);
        let exchange = Exchange {
            id: id.clone(),
            path: self.path,
            engine: kind,
            logprobs_mode: mode.or(place.options.logprobs_mode),
            sampling: self.sampling.or(around.sampling),
            policy_version: self.policy_version.map(|version| version.0).or_else(|| around.policy_version.clone()),
            request: self.request,
            response: self.response,
        };
        let read = read_exchange(&exchange).map_err(|errors| first(&errors))?;
        let engine = label.unwrap_or_else(|| read.engine.as_str().to_owned());
        let worker = self.worker.map(|worker| worker.0).or_else(|| around.worker.clone());
        let run = self.run.or_else(|| around.run.clone());
        let group = self.group.map(|group| group.0);
        let mut rollouts = Vec::with_capacity(read.rollouts.len());
        for own in read.rollouts {
            check(&own.rollout, None)?;
            rollouts.push(DumpRollout {
                run: run.clone(),
                engine: engine.clone(),
                worker: worker.clone(),
                group: Some(group.clone().unwrap_or_else(|| format!("{id}/{}", own.prompt))),
                rollout: own.rollout,
                cached_tokens: own.cached_tokens,
                trainer: None,
            });
        }
        Ok(rollouts)
    }
}

/// The first of what is wrong, and how many more there are.
fn first(errors: &[ExchangeError]) -> Fault {
    let Some(first) = errors.first() else { return Fault::record("cannot be read") };
    let more = match errors.len() - 1 {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    Fault::of(first.pointer.clone(), format!("{}{more}", first.detail))
}
