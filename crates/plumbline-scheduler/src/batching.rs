//! Which of the waiting sequences make the next batch.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::entry::{Amount, Entry};

/// Entries from the front of the queue among which group mates are looked for: bounds the work of one choice.
const LOOKAHEAD: usize = 4096;

/// Limits of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchLimits {
    /// Rows of a batch of several sequences.
    pub(crate) tokens: usize,
    /// Sequences of a batch.
    pub(crate) sequences: usize,
    /// Whether sequences with the same beginning share rows.
    pub(crate) share_prefixes: bool,
}

/// Chooses the next batch, all of one version: indices in the order of packing. Empty only if nothing waits.
///
/// The front entry always goes, even above the budget. It brings its group mates from further back as far as they fit, then
/// the next entry in line does the same, and so on until one in line does not fit. So each batch has the oldest entry, and
/// none waits for more batches than there are entries before it.
pub(crate) fn choose(entries: &VecDeque<Entry>, limits: &BatchLimits) -> Vec<usize> {
    let Some(front) = entries.front() else { return Vec::new() };
    let of_version = |entry: &Entry| Arc::ptr_eq(&entry.reference, &front.reference);
    let mut mates: HashMap<u64, Vec<usize>> = HashMap::new();
    if limits.share_prefixes {
        for (index, entry) in entries.iter().enumerate().take(LOOKAHEAD).filter(|(_, entry)| of_version(entry)) {
            if let Some(group) = entry.group {
                mates.entry(group.hash).or_default().push(index);
            }
        }
    }
    let mut batch = Batch { limits, chosen: Vec::new(), is_chosen: Vec::new(), amount: Amount::default() };
    for (index, entry) in entries.iter().enumerate() {
        if !of_version(entry) || batch.has(index) {
            continue;
        }
        if !batch.add(index, entry.tokens) {
            break;
        }
        let Some(group) = entry.group.filter(|_| limits.share_prefixes) else { continue };
        for mate in mates.remove(&group.hash).unwrap_or_default() {
            if mate > index && !batch.has(mate) {
                batch.add(mate, entries[mate].tokens.saturating_sub(group.saving()).max(1));
            }
        }
    }
    batch.chosen
}

struct Batch<'a> {
    limits: &'a BatchLimits,
    chosen: Vec<usize>,
    is_chosen: Vec<bool>,
    amount: Amount,
}

impl Batch<'_> {
    fn has(&self, index: usize) -> bool {
        self.is_chosen.get(index).copied().unwrap_or(false)
    }

    /// Adds an entry that takes so many more rows, if it fits.
    fn add(&mut self, index: usize, rows: usize) -> bool {
        let full = self.amount.sequences >= self.limits.sequences
            || self.amount.tokens.saturating_add(rows) > self.limits.tokens;
        if full && self.amount.sequences > 0 {
            return false;
        }
        self.amount.tokens += rows;
        self.amount.sequences += 1;
        self.chosen.push(index);
        if self.is_chosen.len() <= index {
            self.is_chosen.resize(index + 1, false);
        }
        self.is_chosen[index] = true;
        true
    }
}
