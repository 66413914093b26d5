//! Waits for the versions of the weights that a verification asks for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::Terms;
use super::admission::deadline_exceeded;
use crate::metrics::ServiceMetrics;
use crate::problem::{Code, Problem};
use crate::state::{AppState, draining};
use crate::weights::{Availability, Wanted, available};

/// Waits for versions that the policy has and the reference does not have yet.
///
/// # Errors
/// 409 for one that is gone or did not come, 429 where too much waits already, 503 when the server drains, 504 past the
/// deadline.
pub(super) async fn wait_for_versions(
    state: &AppState,
    wanted: &[Wanted],
    tokens: usize,
    terms: &Terms,
) -> Result<(), Problem> {
    let patience = state.version_patience();
    let residents = state.scheduler.residents();
    let ahead = wanted.iter().any(|wanted| Availability::of(&wanted.version, &residents) == Availability::Ahead);
    let left = terms.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    let _place = match ahead && !patience.is_zero() {
        true => Some(state.versions_waited_for.enter(tokens, state.config.max_queue_tokens, patience)?),
        false => None,
    };
    let mut drain = state.drain.clone();
    let found = tokio::select! {
        found = available(&state.scheduler, wanted, left.map_or(patience, |left| left.min(patience))) => found,
        _ = drain.wait_for(|draining| *draining) => return Err(draining()),
    };
    let Err((Wanted { version, pointer }, why)) = found else { return Ok(()) };
    if why == Availability::Ahead && left.is_some_and(|left| left < patience) {
        return Err(deadline_exceeded());
    }
    let residents = state.scheduler.residents();
    let kept: Vec<_> = residents.kept().iter().map(|info| info.policy_version.as_str()).collect();
    let detail = match why {
        Availability::Past => format!("policy version {version:?} is no longer resident, {kept:?} are"),
        _ if state.weights.can_follow() => {
            format!("policy version {version:?} did not become resident in time, {kept:?} are")
        }
        _ => format!("policy version {version:?} is not resident, {kept:?} are"),
    };
    Err(Problem::field(Code::PolicyVersionUnavailable, pointer, detail))
}

/// What waits for versions of the weights, in tokens. It is in memory and not in the queue yet, so it is bounded by itself.
#[derive(Clone, Debug)]
pub(crate) struct VersionsWaitedFor {
    tokens: Arc<AtomicUsize>,
    metrics: ServiceMetrics,
}

impl VersionsWaitedFor {
    pub(crate) fn new(metrics: ServiceMetrics) -> Self {
        Self { tokens: Arc::default(), metrics }
    }

    /// Takes up so many tokens of `most` until what is returned is dropped.
    fn enter(&self, tokens: usize, most: usize, patience: Duration) -> Result<WaitingFor, Problem> {
        let added = |waiting: usize| waiting.checked_add(tokens).filter(|all| *all <= most);
        if let Err(waiting) = self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, added) {
            let detail = format!("{waiting} of {most} tokens wait for newer weights already");
            return Err(Problem::new(Code::QueueFull, detail).retry_after(patience));
        }
        self.metrics.version_wait_tokens(tokens as i64);
        Ok(WaitingFor { tokens, all: self.clone() })
    }
}

/// A request's part of it.
#[derive(Debug)]
struct WaitingFor {
    tokens: usize,
    all: VersionsWaitedFor,
}

impl Drop for WaitingFor {
    fn drop(&mut self) {
        self.all.tokens.fetch_sub(self.tokens, Ordering::Relaxed);
        self.all.metrics.version_wait_tokens(-(self.tokens as i64));
    }
}
