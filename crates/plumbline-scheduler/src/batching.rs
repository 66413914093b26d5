//! Which of the waiting sequences make the next batch.

use std::collections::HashMap;
use std::sync::Arc;

use crate::Class;
use crate::entry::{Amount, Entry};
use crate::line::{Line, Place};

/// Entries from the front of each line that one choice looks at: bounds its work.
const LOOKAHEAD: usize = 4096;

/// Entries from the front of each line among which those of the batch's version are looked for.
const VERSION_LOOKAHEAD: usize = 4 * LOOKAHEAD;

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

/// Rows up to which each class may fill a batch, at most [`BatchLimits::tokens`].
pub(crate) type Budgets = [usize; 3];

/// Chooses the next batch, all of one version, led by the front entry of the line of `lead`: places in the order of packing.
/// Empty only if nothing waits there.
///
/// The leading entry always goes, even above the budget. Then the lines are gone through, the most urgent class first. Each
/// entry brings its group mates from further back as far as they fit, then the next one in line does the same, and so on
/// until one in line does not fit. So each batch has the front entry of a line, and none waits for more batches than there
/// are entries before it.
pub(crate) fn choose(lines: &[Line; 3], lead: Class, limits: &BatchLimits, budgets: &Budgets) -> Vec<(Class, Place)> {
    let Some((_, front)) = lines[lead.index()].front() else { return Vec::new() };
    let of_version = |entry: &Entry| Arc::ptr_eq(&entry.reference, &front.reference);
    let looked_at = Class::ALL.map(|class| {
        let line = lines[class.index()].iter().take(VERSION_LOOKAHEAD);
        line.filter(|(_, entry)| of_version(entry)).take(LOOKAHEAD).collect::<Vec<_>>()
    });
    let mut mates: HashMap<u64, Vec<(Class, usize)>> = HashMap::new();
    if limits.share_prefixes {
        for class in Class::ALL {
            for (index, (_, entry)) in looked_at[class.index()].iter().enumerate() {
                if let Some(group) = entry.group {
                    mates.entry(group.hash).or_default().push((class, index));
                }
            }
        }
    }
    let is_chosen = looked_at.each_ref().map(|line| vec![false; line.len()]);
    let mut batch =
        Batch { limits, budgets, looked_at: &looked_at, mates, is_chosen, chosen: vec![], amount: Amount::default() };
    batch.add_with_mates(lead, 0);
    for class in Class::ALL {
        for index in 0..looked_at[class.index()].len() {
            if !batch.has(class, index) && !batch.add_with_mates(class, index) {
                break;
            }
        }
    }
    batch.chosen
}

struct Batch<'a> {
    limits: &'a BatchLimits,
    budgets: &'a Budgets,
    looked_at: &'a [Vec<(Place, &'a Entry)>; 3],
    mates: HashMap<u64, Vec<(Class, usize)>>,
    is_chosen: [Vec<bool>; 3],
    chosen: Vec<(Class, Place)>,
    amount: Amount,
}

impl Batch<'_> {
    fn has(&self, class: Class, index: usize) -> bool {
        self.is_chosen[class.index()][index]
    }

    /// Adds an entry, if it fits, and then what shares its prompt.
    fn add_with_mates(&mut self, class: Class, index: usize) -> bool {
        let entry = self.looked_at[class.index()][index].1;
        if !self.add(class, index, entry.tokens) {
            return false;
        }
        let Some(group) = entry.group.filter(|_| self.limits.share_prefixes) else { return true };
        for (class, index) in self.mates.remove(&group.hash).unwrap_or_default() {
            if !self.has(class, index) {
                let tokens = self.looked_at[class.index()][index].1.tokens;
                self.add(class, index, tokens.saturating_sub(group.saving()).max(1));
            }
        }
        true
    }

    /// Adds an entry that takes so many more rows, if it fits.
    fn add(&mut self, class: Class, index: usize, rows: usize) -> bool {
        let budget = self.budgets[class.index()].min(self.limits.tokens);
        let full = self.amount.sequences >= self.limits.sequences || self.amount.tokens.saturating_add(rows) > budget;
        if full && self.amount.sequences > 0 {
            return false;
        }
        self.amount.tokens += rows;
        self.amount.sequences += 1;
        self.chosen.push((class, self.looked_at[class.index()][index].0));
        self.is_chosen[class.index()][index] = true;
        true
    }
}
