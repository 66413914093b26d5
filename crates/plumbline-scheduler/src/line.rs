//! The waiting work of one class, in an order that is fair to the runs.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::entry::{Amount, Entry};

/// Place in a line: where the entry starts in virtual time, then its number.
pub(crate) type Place = (u64, u64);

/// Runs beyond which those that are owed nothing are forgotten.
const REMEMBERED_RUNS: usize = 64;

/// Start-time fair queueing (Goyal, Vin and Cheng 1996), which is deficit round robin as a sort key: virtual time counts
/// tokens, an entry starts where its run's last one ended, and a run that had nothing waiting starts where the line is now.
/// So runs with work waiting get equal numbers of tokens, to within a sequence each, and one run is first in, first out.
///
/// What a sequence counts is what it would cost alone. A run whose sequences share prompts therefore gets more done with
/// its share, which costs the others nothing.
#[derive(Debug, Default)]
pub(crate) struct Line {
    entries: BTreeMap<Place, Entry>,
    tokens: usize,
    /// Where the next entry of each run starts, unless that is before the front.
    ends: HashMap<Arc<str>, u64>,
}

impl Line {
    pub(crate) fn amount(&self) -> Amount {
        Amount { tokens: self.tokens, sequences: self.entries.len() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn front(&self) -> Option<(Place, &Entry)> {
        self.entries.first_key_value().map(|(place, entry)| (*place, entry))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Place, &Entry)> {
        self.entries.iter().map(|(place, entry)| (*place, entry))
    }

    /// Adds an entry with a number above those of all before; its place.
    pub(crate) fn push(&mut self, number: u64, entry: Entry) -> Place {
        let front = self.front().map(|((start, _), _)| start);
        if front.is_none() {
            self.ends.clear();
        }
        let front = front.unwrap_or(0);
        if self.ends.len() > REMEMBERED_RUNS.max(self.entries.len()) {
            self.ends.retain(|_, end| *end > front);
        }
        let start = self.ends.get(&entry.run).copied().unwrap_or(0).max(front);
        self.ends.insert(Arc::clone(&entry.run), start.saturating_add(entry.tokens as u64));
        self.tokens += entry.tokens;
        self.entries.insert((start, number), entry);
        (start, number)
    }

    /// Takes an entry out to be scored.
    pub(crate) fn take(&mut self, place: Place) -> Option<Entry> {
        let entry = self.entries.remove(&place)?;
        self.tokens -= entry.tokens;
        Some(entry)
    }

    /// Takes an entry out that will not be scored. Its run gets its share back if nothing came after it: take the last first.
    pub(crate) fn withdraw(&mut self, place: Place) -> Option<Entry> {
        let entry = self.take(place)?;
        if let Some(end) = self.ends.get_mut(&entry.run).filter(|end| **end == place.0 + entry.tokens as u64) {
            *end = place.0;
        }
        Some(entry)
    }

    /// Removes everything.
    pub(crate) fn take_all(&mut self) -> Vec<Entry> {
        self.tokens = 0;
        self.ends.clear();
        std::mem::take(&mut self.entries).into_values().collect()
    }
}
