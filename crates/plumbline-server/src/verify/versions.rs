//! Waits for the versions of the weights that a verification asks for.

use crate::problem::{Code, Problem};
use crate::state::{AppState, draining};
use crate::weights::{Availability, Wanted, available};

/// Waits for versions that the policy has and the reference does not have yet.
///
/// # Errors
/// 409 for one that is gone or did not come, 503 when the server drains.
pub(super) async fn wait_for_versions(state: &AppState, wanted: &[Wanted]) -> Result<(), Problem> {
    let mut drain = state.drain.clone();
    let found = tokio::select! {
        found = available(&state.scheduler, wanted, state.version_patience()) => found,
        _ = drain.wait_for(|draining| *draining) => return Err(draining()),
    };
    let Err((Wanted { version, pointer }, why)) = found else { return Ok(()) };
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
