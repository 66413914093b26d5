//! The waiting work: a line for each class, counted in tokens.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use plumbline_core::{ReferenceInfo, ScoringSequence};

use crate::batching::{BatchLimits, Budgets, choose};
use crate::entry::{Amount, Entry, cost};
use crate::group::Group;
use crate::line::{Line, Place};
use crate::reply::Reply;
use crate::{Class, Demand};

/// Part of the tokens that are scored which a class gets at least while it waits, however much more urgent work there is.
const SHARES: [f64; 3] = [0.0, 0.2, 0.1];

/// All waiting sequences.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    lines: [Line; 3],
    /// Tokens by which each class is behind its share.
    owed: [f64; 3],
    /// Where the sequences of each ticket were put, until it is dropped.
    tickets: HashMap<u64, Vec<(Class, Place)>>,
    /// What has a deadline.
    deadlines: BTreeSet<(Instant, Class, Place)>,
    next_ticket: u64,
    next_number: u64,
}

/// A sequence on its way into the queue.
#[derive(Debug)]
pub(crate) struct Arriving {
    pub(crate) sequence: ScoringSequence,
    pub(crate) reference: Arc<ReferenceInfo>,
    pub(crate) group: Option<Group>,
    pub(crate) digest: u64,
}

impl Queue {
    pub(crate) fn amount(&self) -> Amount {
        let amounts = self.lines.each_ref().map(Line::amount);
        Amount {
            tokens: amounts.iter().map(|amount| amount.tokens).sum(),
            sequences: amounts.iter().map(|amount| amount.sequences).sum(),
        }
    }

    pub(crate) fn amount_of(&self, class: Class) -> Amount {
        self.lines[class.index()].amount()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lines.iter().all(Line::is_empty)
    }

    /// Takes in the sequences of one submit and returns the number of its ticket.
    pub(crate) fn push(
        &mut self,
        sequences: Vec<Arriving>,
        demand: &Demand,
        reply: &Arc<Reply>,
        since: Instant,
    ) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let Demand { class, deadline, .. } = *demand;
        let mut places = Vec::with_capacity(sequences.len());
        for (index, Arriving { sequence, reference, group, digest }) in sequences.into_iter().enumerate() {
            let (tokens, run, reply) = (cost(&sequence), Arc::clone(&demand.run), Arc::clone(reply));
            let entry = Entry { sequence, reference, since, class, run, deadline, tokens, group, digest, index, reply };
            let place = self.lines[class.index()].push(self.next_number, entry);
            self.next_number += 1;
            places.push((class, place));
            self.deadlines.extend(deadline.map(|deadline| (deadline, class, place)));
        }
        self.tickets.insert(ticket, places);
        ticket
    }

    /// Whether something waits for this version.
    pub(crate) fn needs(&self, reference: &Arc<ReferenceInfo>) -> bool {
        let mut entries = self.lines.iter().flat_map(Line::iter);
        entries.any(|(_, entry)| Arc::ptr_eq(&entry.reference, reference))
    }

    /// Takes the next batch, see [`choose`]. The most urgent class leads it, unless a less urgent one is behind its share.
    pub(crate) fn take_batch(&mut self, limits: &BatchLimits, budgets: &Budgets) -> Vec<Entry> {
        let Some(lead) = self.lead() else { return Vec::new() };
        let chosen = choose(&self.lines, lead, limits, budgets);
        let waiting = self.lines.each_ref().map(|line| !line.is_empty());
        let mut batch = Vec::with_capacity(chosen.len());
        for (class, place) in chosen {
            if let Some(entry) = self.lines[class.index()].take(place) {
                forget(&mut self.deadlines, &entry, place);
                batch.push(entry);
            }
        }
        self.settle(&batch, waiting);
        batch
    }

    /// Whose front entry leads the next batch.
    fn lead(&self) -> Option<Class> {
        let front = |class: Class| self.lines[class.index()].front().map(|(_, entry)| entry.tokens as f64);
        let behind = |class: &Class| front(*class).is_some_and(|tokens| self.owed[class.index()] >= tokens);
        let most_urgent = Class::ALL.into_iter().find(|class| front(*class).is_some())?;
        // With two behind, the less urgent one has the smaller share and has waited longer for it.
        Some(Class::ALL.into_iter().rev().find(behind).unwrap_or(most_urgent))
    }

    /// Keeps the account of the classes' shares.
    fn settle(&mut self, batch: &[Entry], waiting: [bool; 3]) {
        let total: usize = batch.iter().map(|entry| entry.tokens).sum();
        for class in Class::ALL {
            let index = class.index();
            let behind_others = waiting[..index].iter().any(|waits| *waits);
            let own: usize = batch.iter().filter(|entry| entry.class == class).map(|entry| entry.tokens).sum();
            let owed = if waiting[index] && behind_others { SHARES[index] * total as f64 } else { 0.0 };
            self.owed[index] =
                if self.lines[index].is_empty() { 0.0 } else { (self.owed[index] + owed - own as f64).max(0.0) };
        }
    }

    /// Removes what still waits of a ticket, which is gone.
    pub(crate) fn cancel(&mut self, ticket: u64) -> Amount {
        let mut cancelled = Amount::default();
        // The last first: a run gets back what it did not use.
        for (class, place) in self.tickets.remove(&ticket).unwrap_or_default().into_iter().rev() {
            if let Some(entry) = self.lines[class.index()].withdraw(place) {
                forget(&mut self.deadlines, &entry, place);
                cancelled.add(&entry);
            }
        }
        cancelled
    }

    /// Removes what is past its deadline.
    pub(crate) fn take_expired(&mut self, now: Instant) -> Vec<Entry> {
        let mut expired = Vec::new();
        while let Some((deadline, class, place)) = self.deadlines.first().copied().filter(|(at, ..)| *at <= now) {
            self.deadlines.remove(&(deadline, class, place));
            expired.extend(self.lines[class.index()].withdraw(place));
        }
        expired
    }

    /// Removes everything.
    pub(crate) fn take_all(&mut self) -> Vec<Entry> {
        self.deadlines.clear();
        self.owed = [0.0; 3];
        self.lines.iter_mut().flat_map(Line::take_all).collect()
    }
}

/// An entry is leaving the queue.
fn forget(deadlines: &mut BTreeSet<(Instant, Class, Place)>, entry: &Entry, place: Place) {
    if let Some(deadline) = entry.deadline {
        deadlines.remove(&(deadline, entry.class, place));
    }
}

#[cfg(test)]
mod tests;
