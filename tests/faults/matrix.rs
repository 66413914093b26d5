//! The confusion matrix, as Markdown.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use plumbline_divergence::Cause;

use crate::cases::Outcome;

/// Planted causes as rows, named ones as columns; only what occurs. Columns have numbers, which a list below explains.
pub(crate) fn matrix(outcomes: &[Outcome]) -> String {
    let mut cells: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    for outcome in outcomes {
        *cells.entry(planted(outcome)).or_default().entry(outcome.named()).or_default() += 1;
    }
    let mut text = String::from("| planted | cases | named right | named instead |\n|---|---|---|---|\n");
    for (planted, named) in &cells {
        let of_row: Vec<&Outcome> = outcomes.iter().filter(|outcome| self::planted(outcome) == *planted).collect();
        let right = of_row.iter().filter(|outcome| outcome.is_right()).count();
        let rights: BTreeSet<&str> =
            of_row.iter().filter(|outcome| outcome.is_right()).map(|outcome| outcome.named()).collect();
        let wrong = named.iter().filter(|(name, _)| !rights.contains(*name));
        let wrong: Vec<String> = wrong.map(|(name, count)| format!("`{name}` {count}")).collect();
        let _ = writeln!(text, "| `{planted}` | {} | {right} | {} |", of_row.len(), wrong.join(", "));
    }
    text
}

/// Cases that were named wrong, one a line, for whoever looks for the reason.
pub(crate) fn mistakes(outcomes: &[Outcome]) -> String {
    outcomes.iter().filter(|outcome| !outcome.is_right()).map(|outcome| line(outcome) + "\n").collect()
}

/// One case on one line.
pub(crate) fn line(outcome: &Outcome) -> String {
    let mut sequences: BTreeMap<&str, usize> = BTreeMap::new();
    let name = |cause: &Option<Cause>| cause.map_or("nothing", Cause::as_str);
    for sequence in &outcome.sequences {
        *sequences.entry(name(sequence)).or_default() += 1;
    }
    let requests: Vec<&str> = outcome.requests.iter().map(name).collect();
    format!(
        "{}: {} ({}, seed {}): run {}, requests {requests:?}, sequences {sequences:?}, {:.2} floors, {} tokens probed, \
         {:.1?} to sample and {:.1?} to diagnose: {}",
        if outcome.is_right() { "right" } else { "WRONG" },
        planted(outcome),
        outcome.plant,
        outcome.seed,
        outcome.named(),
        outcome.multiple,
        outcome.probed_tokens,
        outcome.took[0],
        outcome.took[1],
        outcome.evidence
    )
}

fn planted(outcome: &Outcome) -> &'static str {
    outcome.expected.first().copied().unwrap_or("healthy")
}
