//! When an alert begins and when it is over. Pure: time is passed in.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::alert::{Alert, Labels, Moment};
use super::signals::{Look, Sign, Signal, Trouble};

/// Resolved alerts that are remembered: the latest.
const RECENT: usize = 256;

/// The annotation of a resolved alert that says why it is over.
pub(crate) const RESOLUTION: &str = "resolution";

/// From when something is worth telling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rules {
    /// How long something must be wrong before its alert fires.
    pub(crate) hold: Duration,
    /// How long it must be well again before its alert is over.
    pub(crate) keep: Duration,
    /// Compared tokens below which nothing begins.
    pub(crate) min_tokens: u64,
}

/// What begins and what ends. Every alert that fires is resolved once, and fires again only after that.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Episodes {
    firing: BTreeMap<String, Firing>,
    /// Since when something is wrong that does not fire yet. Not remembered: nobody was told.
    #[serde(skip)]
    pending: BTreeMap<String, Moment>,
    /// Resolved, the latest last.
    recent: VecDeque<Alert>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Firing {
    alert: Alert,
    /// Since when it is well again.
    well_since: Option<Moment>,
}

impl Episodes {
    /// Takes in a look, and says what began to fire and what is resolved.
    pub(crate) fn observe(&mut self, now: Moment, look: &Look, rules: &Rules) -> Vec<Alert> {
        let mut changes = Vec::new();
        let mut seen = BTreeSet::new();
        for signal in &look.signals {
            let fingerprint = signal.fingerprint();
            changes.extend(self.take(now, &fingerprint, signal, rules));
            seen.insert(fingerprint);
        }
        if look.whole {
            self.pending.retain(|fingerprint, _| seen.contains(fingerprint));
            let gone: Vec<_> = self.firing.keys().filter(|own| !seen.contains(*own)).cloned().collect();
            let why =
                "it is not watched any more: nothing of it was received for a long time, or the configuration changed";
            changes.extend(gone.into_iter().filter_map(|fingerprint| self.resolve(now, &fingerprint, why)));
        }
        changes
    }

    /// Resolves everything, for this reason.
    pub(crate) fn resolve_all(&mut self, now: Moment, why: &str) -> Vec<Alert> {
        self.pending.clear();
        let all: Vec<_> = self.firing.keys().cloned().collect();
        all.into_iter().filter_map(|fingerprint| self.resolve(now, &fingerprint, why)).collect()
    }

    /// What fires.
    pub(crate) fn firing(&self) -> impl Iterator<Item = &Alert> {
        self.firing.values().map(|firing| &firing.alert)
    }

    /// What was resolved lately, the latest last.
    pub(crate) fn recent(&self) -> impl DoubleEndedIterator<Item = &Alert> {
        self.recent.iter()
    }

    fn take(&mut self, now: Moment, fingerprint: &str, signal: &Signal, rules: &Rules) -> Option<Alert> {
        match &signal.sign {
            Sign::Bad(trouble) => self.trouble(now, fingerprint, &signal.labels, trouble, rules),
            Sign::Good(why) => {
                self.pending.remove(fingerprint);
                let firing = self.firing.get_mut(fingerprint)?;
                let since = *firing.well_since.get_or_insert(now);
                if now.since(since) < rules.keep {
                    return None;
                }
                self.resolve(now, fingerprint, why)
            }
            Sign::Unknown => {
                // What was wrong for a while before nothing could be said was not wrong all the time.
                self.pending.remove(fingerprint);
                None
            }
        }
    }

    fn trouble(
        &mut self,
        now: Moment,
        fingerprint: &str,
        labels: &Labels,
        trouble: &Trouble,
        rules: &Rules,
    ) -> Option<Alert> {
        if let Some(firing) = self.firing.get_mut(fingerprint) {
            firing.well_since = None;
            firing.alert.annotations.clone_from(&trouble.annotations);
            firing.alert.generator_url.clone_from(&trouble.generator_url);
            return None;
        }
        if trouble.tokens.is_some_and(|tokens| tokens < rules.min_tokens) {
            self.pending.remove(fingerprint);
            return None;
        }
        let since = *self.pending.entry(fingerprint.to_owned()).or_insert(now);
        if !trouble.certain && now.since(since) < rules.hold {
            return None;
        }
        self.pending.remove(fingerprint);
        let alert = Alert {
            labels: labels.clone(),
            annotations: trouble.annotations.clone(),
            generator_url: trouble.generator_url.clone(),
            starts_at: now,
            ends_at: None,
        };
        self.firing.insert(fingerprint.to_owned(), Firing { alert: alert.clone(), well_since: None });
        Some(alert)
    }

    fn resolve(&mut self, now: Moment, fingerprint: &str, why: &str) -> Option<Alert> {
        let Firing { mut alert, .. } = self.firing.remove(fingerprint)?;
        // Not before it began: the time of day may have been set back.
        alert.ends_at = Some(now.max(alert.starts_at));
        alert.annotations.insert(RESOLUTION.into(), why.to_owned());
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(alert.clone());
        Some(alert)
    }
}
