//! What a webhook is still to be told, in order. Pure: time is passed in.
//!
//! An episode is told as its beginning and its end, each once; a beginning is repeated if it lasts very long. What cannot be told is
//! left out as a whole: no end without its beginning, and a beginning that was told always has its end in here.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::alert::{Alert, Moment};

/// A webhook's queue and what it was told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outbox {
    queue: VecDeque<Notification>,
    /// By episode: those that fire, and those whose end waits.
    told: BTreeMap<String, Told>,
    /// Tries of the first in the queue that failed in a row.
    #[serde(skip)]
    failures: u32,
    /// Not before then.
    #[serde(skip)]
    not_before: Option<Moment>,
}

/// Something to be told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Notification {
    /// The same at every try, so that a receiver can tell them.
    pub(crate) id: String,
    pub(crate) alert: Alert,
}

/// What a webhook knows of an episode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Told {
    /// Its beginning waits in the queue, and was not told yet.
    Waits,
    /// It knows of the beginning, since then.
    Beginning(Moment),
    /// There was no room for the beginning. It is told if it still fires when there is.
    NoRoom,
    /// The receiver did not want the beginning.
    Refused,
}

/// What is next.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Next {
    Send(Box<Notification>),
    /// There is something, but not before then.
    Wait(Moment),
    Nothing,
}

impl Outbox {
    /// Takes in what changed. The number of notifications that are left out by that.
    pub(crate) fn change(&mut self, alert: &Alert, room: usize) -> u64 {
        let episode = alert.episode();
        match (alert.ends_at, self.told.get(&episode)) {
            (None, None) if self.queue.len() >= room => {
                self.told.insert(episode, Told::NoRoom);
                0
            }
            (None, None) => {
                self.told.insert(episode, Told::Waits);
                self.push(alert, 0);
                0
            }
            (None, Some(_)) => 0,
            // A beginning that was told or will be has its end told too, whether or not there is room: their number is bounded by
            // what fires and by the queue.
            (Some(_), Some(Told::Waits | Told::Beginning(_))) => {
                self.push(alert, 0);
                0
            }
            (Some(_), Some(Told::NoRoom)) => {
                self.told.remove(&episode);
                2
            }
            // The beginning was counted when it was refused.
            (Some(_), Some(Told::Refused)) => {
                self.told.remove(&episode);
                1
            }
            // Before this receiver was there: it knows of no beginning.
            (Some(_), None) => 0,
        }
    }

    /// Looks at what fires: tells what there was no room for, or what began before this receiver was there; and repeats what it was
    /// told longer ago than `repeat`.
    pub(crate) fn refresh<'a>(
        &mut self,
        now: Moment,
        firing: impl Iterator<Item = &'a Alert>,
        repeat: Duration,
        room: usize,
    ) {
        for alert in firing.filter(|alert| alert.ends_at.is_none()) {
            if self.queue.len() >= room {
                return;
            }
            let episode = alert.episode();
            match self.told.get(&episode) {
                None | Some(Told::NoRoom) => {
                    self.told.insert(episode, Told::Waits);
                    self.push(alert, 0);
                }
                Some(Told::Beginning(at)) if now.since(*at) >= repeat && !self.has(&episode) => self.push(alert, now.0),
                Some(_) => {}
            }
        }
    }

    /// The next try need not wait any longer.
    pub(crate) fn hurry(&mut self) {
        self.not_before = None;
    }

    pub(crate) fn next(&self, now: Moment) -> Next {
        match (self.queue.front(), self.not_before) {
            (None, _) => Next::Nothing,
            (Some(_), Some(at)) if at > now => Next::Wait(at),
            (Some(first), _) => Next::Send(Box::new(first.clone())),
        }
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Tries of the next one that failed in a row.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// This one arrived.
    pub(crate) fn delivered(&mut self, now: Moment, id: &str) {
        let Some(alert) = self.done(id) else { return };
        let episode = alert.episode();
        if alert.ends_at.is_some() {
            self.told.remove(&episode);
        } else {
            self.told.insert(episode, Told::Beginning(now));
        }
    }

    /// This one did not; it is tried again, not before then.
    pub(crate) fn failed(&mut self, id: &str, not_before: Moment) {
        if self.queue.front().is_some_and(|first| first.id == id) {
            self.failures = self.failures.saturating_add(1);
            self.not_before = Some(not_before);
        }
    }

    /// The receiver does not want this one. The number of notifications that are left out: with a beginning that it never took, its end.
    pub(crate) fn refused(&mut self, now: Moment, id: &str) -> u64 {
        let Some(alert) = self.done(id) else { return 0 };
        let episode = alert.episode();
        match (alert.ends_at, self.told.get(&episode)) {
            (Some(_), _) => {
                self.told.remove(&episode);
                1
            }
            // Of a repetition: it knows of the beginning all the same, and is not asked again at once.
            (None, Some(Told::Beginning(_))) => {
                self.told.insert(episode, Told::Beginning(now));
                1
            }
            (None, _) => {
                let before = self.queue.len();
                self.queue.retain(|other| other.alert.episode() != episode);
                let ends = before - self.queue.len();
                if ends > 0 {
                    self.told.remove(&episode);
                } else {
                    self.told.insert(episode, Told::Refused);
                }
                1 + ends as u64
            }
        }
    }

    fn push(&mut self, alert: &Alert, repetition: u64) {
        let id = format!("{}-{}-{repetition}", alert.episode(), alert.status());
        self.queue.push_back(Notification { id, alert: alert.clone() });
    }

    fn has(&self, episode: &str) -> bool {
        self.queue.iter().any(|own| own.alert.episode() == episode)
    }

    /// Takes out the first of the queue, if it is this one.
    fn done(&mut self, id: &str) -> Option<Alert> {
        self.queue.front().filter(|first| first.id == id)?;
        (self.failures, self.not_before) = (0, None);
        self.queue.pop_front().map(|notification| notification.alert)
    }
}
