//! Everything that is known of alerts, and the part of it that outlives a restart.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::alert::{Alert, Moment};
use super::episodes::{Episodes, Rules};
use super::outbox::Outbox;
use super::receiver::{Kind, Receiver};
use super::relay::Relay;
use super::signals::Look;

/// The document's form. One of another form is not read.
const FORM: u32 = 1;

/// Everything that is known of alerts.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pub(crate) episodes: Episodes,
    /// By receiver.
    pub(crate) outboxes: BTreeMap<String, Outbox>,
    /// By receiver.
    pub(crate) relays: BTreeMap<String, Relay>,
}

/// What is kept of it.
#[derive(Serialize)]
struct Kept<'a> {
    form: u32,
    episodes: &'a Episodes,
    outboxes: &'a BTreeMap<String, Outbox>,
}

#[derive(Deserialize)]
struct Read {
    form: u32,
    episodes: Episodes,
    outboxes: BTreeMap<String, Outbox>,
}

impl Book {
    /// One that knows of nothing but its receivers.
    pub(crate) fn new(receivers: &[Receiver]) -> Self {
        let of = |kind: Kind| receivers.iter().filter(move |own| own.kind == kind).map(|own| own.name.clone());
        Self {
            episodes: Episodes::default(),
            outboxes: of(Kind::Webhook).map(|name| (name, Outbox::default())).collect(),
            relays: of(Kind::Alertmanager).map(|name| (name, Relay::default())).collect(),
        }
    }

    /// What is to be kept, as JSON.
    pub(crate) fn document(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&Kept { form: FORM, episodes: &self.episodes, outboxes: &self.outboxes })
    }

    /// Takes over what was kept. The names of receivers that are not there any more, with how many notifications waited for them.
    ///
    /// # Errors
    /// What is wrong with the document; nothing is taken over then.
    pub(crate) fn restore(&mut self, document: &[u8]) -> Result<Vec<(String, usize)>, String> {
        let Read { form, episodes, outboxes } = serde_json::from_slice(document).map_err(|error| error.to_string())?;
        if form != FORM {
            return Err(format!("it has form {form}, not {FORM}"));
        }
        self.episodes = episodes;
        let mut gone = Vec::new();
        for (name, outbox) in outboxes {
            match self.outboxes.get_mut(&name) {
                Some(own) => *own = outbox,
                None => gone.push((name, outbox.waiting())),
            }
        }
        Ok(gone)
    }

    /// Takes in a look. What changed, and by receiver how many notifications are left out.
    pub(crate) fn look(
        &mut self,
        now: Moment,
        look: &Look,
        rules: &Rules,
        room: usize,
    ) -> (Vec<Alert>, BTreeMap<String, u64>) {
        let changes = self.episodes.observe(now, look, rules);
        let dropped = self.change(&changes, room);
        (changes, dropped)
    }

    /// Looks at what fires: see [`Outbox::refresh`]. Whether there is more to be told than before.
    pub(crate) fn refresh(&mut self, now: Moment, repeat: Duration, room: usize) -> bool {
        let Self { episodes, outboxes, .. } = self;
        let mut more = false;
        for outbox in outboxes.values_mut() {
            let before = outbox.waiting();
            outbox.refresh(now, episodes.firing(), repeat, room);
            more |= outbox.waiting() > before;
        }
        more
    }

    /// Hands changes to the outboxes. By receiver, how many notifications are left out.
    pub(crate) fn change(&mut self, changes: &[Alert], room: usize) -> BTreeMap<String, u64> {
        let outboxes = self.outboxes.iter_mut();
        let dropped = outboxes
            .map(|(name, outbox)| (name.clone(), changes.iter().map(|alert| outbox.change(alert, room)).sum::<u64>()));
        dropped.filter(|(_, count)| *count > 0).collect()
    }

    /// What an Alertmanager is shown: what fires, and what was resolved, the latest first.
    pub(crate) fn shown(&self) -> impl Iterator<Item = &Alert> {
        self.episodes.firing().chain(self.episodes.recent().rev())
    }

    /// How many notifications wait for a receiver.
    pub(crate) fn waiting(&self, now: Moment, receiver: &Receiver) -> usize {
        match receiver.kind {
            Kind::Webhook => self.outboxes.get(&receiver.name).map_or(0, Outbox::waiting),
            Kind::Alertmanager => self.relays.get(&receiver.name).map_or(0, |relay| relay.waiting(now, self.shown())),
        }
    }

    /// Tries for a receiver that failed in a row.
    pub(crate) fn failures(&self, receiver: &Receiver) -> u32 {
        match receiver.kind {
            Kind::Webhook => self.outboxes.get(&receiver.name).map_or(0, Outbox::failures),
            Kind::Alertmanager => self.relays.get(&receiver.name).map_or(0, Relay::failures),
        }
    }

    /// Nothing waits after a failure any longer.
    pub(crate) fn hurry(&mut self) {
        self.outboxes.values_mut().for_each(Outbox::hurry);
        self.relays.values_mut().for_each(Relay::hurry);
    }
}
