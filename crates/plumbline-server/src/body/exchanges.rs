//! From an engine's bodies to rollouts.

use plumbline_engines::{EngineKind, Exchange, ExchangeRollout, read_exchange};

use super::findings::Findings;
use super::origin::{ExchangePlace, Origin};
use super::resolve::{Read, RequestLimits, Shared};
use super::wire::ExchangeRequest;
use crate::problem::{Code, Problem};

/// Reads all exchanges. What is wrong with them goes to `findings`.
///
/// # Errors
/// More rollouts than the limit: the rest is not looked at.
pub(super) fn read(
    exchanges: Vec<ExchangeRequest>,
    shared: &Shared,
    limits: &RequestLimits,
    findings: &mut Findings,
) -> Result<Vec<Read>, Problem> {
    let mut rollouts = Vec::with_capacity(exchanges.len());
    for (index, exchange) in exchanges.into_iter().enumerate() {
        let place = ExchangePlace {
            index,
            own_id: exchange.id.is_some(),
            shared_sampling: exchange.sampling.is_none() && shared.sampling.is_some(),
            shared_mode: exchange.logprobs_mode.is_none() && shared.mode.is_some(),
            shared_engine: exchange.engine.is_none(),
            shared_version: false,
        };
        findings.check_name(&place.pointer("/id"), exchange.id.as_deref());
        findings.check_name(&place.pointer("/policy_version"), exchange.policy_version.as_deref());
        let has_id = exchange.id.is_some();
        let Some(exchange) = named(exchange, &place, shared, findings) else { continue };
        match read_exchange(&exchange) {
            Ok(read) => {
                rollouts.extend(read.rollouts.into_iter().map(|own| with_origin(own, has_id, place, shared, findings)))
            }
            Err(errors) => errors
                .into_iter()
                .for_each(|error| findings.report(error.code.into(), place.pointer(&error.pointer), error.detail)),
        }
        if rollouts.len() > limits.max_sequences {
            let detail = format!("hold more than {} completions, which is the limit", limits.max_sequences);
            return Err(Problem::field(Code::TooManySequences, "/exchanges", detail));
        }
    }
    Ok(rollouts)
}

/// The exchange with what the request states for all; `None` = its engine is none that is known.
fn named(
    exchange: ExchangeRequest,
    place: &ExchangePlace,
    shared: &Shared,
    findings: &mut Findings,
) -> Option<Exchange> {
    let engine = match &exchange.engine {
        None => EngineKind::of_name(&shared.engine),
        Some(name) => {
            let engine = EngineKind::of_name(name);
            if engine.is_none() {
                let known = EngineKind::ALL.map(EngineKind::as_str).join(", ");
                findings.report(Code::UnknownEngine, place.pointer("/engine"), format!("is none of {known}"));
                return None;
            }
            engine
        }
    };
    Some(Exchange {
        id: exchange.id.unwrap_or_else(|| place.index.to_string()),
        path: exchange.path,
        engine,
        logprobs_mode: exchange.logprobs_mode.or(shared.mode),
        sampling: exchange.sampling.or(shared.sampling),
        policy_version: exchange.policy_version,
        request: exchange.request,
        response: exchange.response,
    })
}

/// A rollout with its place, and the request's version of the weights if the body names none.
fn with_origin(
    own: ExchangeRollout,
    named: bool,
    place: ExchangePlace,
    shared: &Shared,
    findings: &mut Findings,
) -> Read {
    let ExchangeRollout { mut rollout, places, cached_tokens, .. } = own;
    let mut exchange = place;
    if rollout.policy_version.is_none() && rollout.weight_versions.is_empty() {
        rollout.policy_version.clone_from(&shared.policy_version);
        exchange.shared_version = rollout.policy_version.is_some();
    } else {
        let at = exchange.pointer(&places.locate("/policy_version"));
        let versions = rollout.policy_version.iter().chain(rollout.weight_versions.iter().map(|span| &span.version));
        for version in versions {
            findings.check_name(&at, Some(version));
        }
    }
    Read { rollout, named, origin: Origin::Exchange { exchange, places: Box::new(places) }, cached_tokens }
}
