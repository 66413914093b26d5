//! What an Alertmanager is shown. Pure: time is passed in.
//!
//! It forgets an alert at its `endsAt`, and an Alertmanager that restarts may know nothing: so everything that fires is shown again
//! and again, each time with an end a while ahead, and what is resolved for a while after. It de-duplicates by labels itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::alert::{Alert, Moment};

/// How long a resolved alert is shown, as Prometheus does.
const RESOLVED_SHOWN: Duration = Duration::from_secs(15 * 60);
/// Intervals for which a shown alert holds: so many may fail before Alertmanager takes it for resolved.
const HOLDS: u32 = 4;
/// Alerts of one request.
const BATCH: usize = 64;

/// When an Alertmanager was shown what.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Relay {
    /// By episode and status.
    shown: BTreeMap<(String, &'static str), Moment>,
    failures: u32,
    not_before: Option<Moment>,
}

/// What is next.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Batch {
    /// With the end of each, as it is to be said.
    Send(Vec<(Alert, Moment)>),
    /// Nothing before then.
    Wait(Moment),
}

impl Relay {
    /// What is due, of what fires and of what was resolved lately.
    pub(crate) fn next<'a>(
        &mut self,
        now: Moment,
        alerts: impl Iterator<Item = &'a Alert>,
        interval: Duration,
    ) -> Batch {
        let mut wait = now.plus(interval);
        let mut due = Vec::new();
        let mut known = BTreeMap::new();
        for alert in wanted(now, alerts) {
            let key = (alert.episode(), alert.status());
            let next = self.shown.get(&key).map_or(now, |at| at.plus(interval));
            if let Some(at) = self.shown.get(&key) {
                known.insert(key, *at);
            }
            if next <= now {
                due.push((alert.clone(), alert.ends_at.unwrap_or_else(|| now.plus(interval * HOLDS))));
            } else {
                wait = wait.min(next);
            }
        }
        // What is over for long is forgotten.
        self.shown = known;
        match self.not_before {
            Some(at) if at > now && !due.is_empty() => Batch::Wait(at),
            _ if due.is_empty() => Batch::Wait(wait),
            _ => {
                // What is new to it first, the longest ago next.
                due.sort_by_key(|(alert, _)| self.shown.get(&(alert.episode(), alert.status())).copied());
                due.truncate(BATCH);
                Batch::Send(due)
            }
        }
    }

    /// It was shown these, at a look that began then.
    pub(crate) fn delivered(&mut self, at: Moment, batch: &[(Alert, Moment)]) {
        (self.failures, self.not_before) = (0, None);
        self.shown.extend(batch.iter().map(|(alert, _)| ((alert.episode(), alert.status()), at)));
    }

    /// It could not be shown anything; the next try is not before then.
    pub(crate) fn failed(&mut self, not_before: Moment) {
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(not_before);
    }

    /// The next try need not wait any longer.
    pub(crate) fn hurry(&mut self) {
        self.not_before = None;
    }

    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// How many of these it has not been shown yet.
    pub(crate) fn waiting<'a>(&self, now: Moment, alerts: impl Iterator<Item = &'a Alert>) -> usize {
        wanted(now, alerts).filter(|alert| !self.shown.contains_key(&(alert.episode(), alert.status()))).count()
    }
}

/// What is to be shown, of what fires and then of what was resolved, the latest first: of each alert the latest episode only, because to
/// an Alertmanager they are one.
fn wanted<'a>(now: Moment, alerts: impl Iterator<Item = &'a Alert>) -> impl Iterator<Item = &'a Alert> {
    let mut seen = BTreeSet::new();
    alerts.filter(move |alert| {
        seen.insert(alert.fingerprint()) && alert.ends_at.is_none_or(|end| now.since(end) <= RESOLVED_SHOWN)
    })
}
