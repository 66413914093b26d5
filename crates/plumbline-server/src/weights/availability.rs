//! Whether the versions that a request asks for are there, will be, or never will.

use std::time::Duration;

use plumbline_scheduler::{Residents, Scheduler};

use super::version::trailing_number;

/// A version that a request asks for, and the field that does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) version: String,
    /// JSON pointer into the body.
    pub(crate) pointer: String,
}

/// What is known about a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Availability {
    /// In memory.
    Resident,
    /// It was, or is older than everything in memory.
    Past,
    /// Not seen yet: the policy may be ahead of the reference.
    Ahead,
}

impl Availability {
    /// Versions are opaque, but those that end in a number are ordered by it.
    pub(crate) fn of(version: &str, residents: &Residents) -> Self {
        if residents.get(version).is_some() {
            return Self::Resident;
        }
        let oldest = residents.kept().iter().filter_map(|info| trailing_number(&info.policy_version)).min();
        let older = trailing_number(version).zip(oldest).is_some_and(|(version, oldest)| version < oldest);
        if older || residents.is_past(version) { Self::Past } else { Self::Ahead }
    }
}

/// Waits until all of `wanted` are resident, as long as that can still happen and no longer than `patience`.
///
/// # Errors
/// The first version that is not available and why.
pub(crate) async fn available(
    scheduler: &Scheduler,
    wanted: &[Wanted],
    patience: Duration,
) -> Result<(), (Wanted, Availability)> {
    if wanted.is_empty() {
        return Ok(());
    }
    let settled = |residents: &Residents| {
        let states = wanted.iter().map(|wanted| Availability::of(&wanted.version, residents));
        let mut all_resident = true;
        for state in states {
            match state {
                Availability::Resident => {}
                Availability::Past => return true,
                Availability::Ahead => all_resident = false,
            }
        }
        all_resident
    };
    // Past its time, what is there is looked at as it is.
    let residents = match tokio::time::timeout(patience, scheduler.residents_when(settled)).await {
        Ok(Some(residents)) => residents,
        Ok(None) | Err(_) => scheduler.residents(),
    };
    let states = wanted.iter().map(|wanted| (wanted, Availability::of(&wanted.version, &residents)));
    let mut missing: Vec<_> = states.filter(|(_, state)| *state != Availability::Resident).collect();
    // What is gone for good is the reason why nothing was waited for.
    missing.sort_by_key(|(_, state)| *state != Availability::Past);
    match missing.first() {
        Some((wanted, state)) => Err(((*wanted).clone(), *state)),
        None => Ok(()),
    }
}
