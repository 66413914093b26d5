//! Scored rollouts of one engine and worker, collected until they are worth a look together.

use std::collections::BTreeMap;

use super::assess::Assessed;

/// A case is complete at so many sequences,
const CASE_SEQUENCES: usize = 64;

/// or so many tokens.
const CASE_TOKENS: usize = 1 << 14;

/// Tokens of all open cases together, beyond which all of them are closed.
const OPEN_TOKENS: usize = 1 << 17;

/// The open cases.
#[derive(Debug, Default)]
pub(super) struct Cases {
    open: BTreeMap<(String, Option<String>), Case>,
    tokens: usize,
}

#[derive(Debug, Default)]
struct Case {
    sequences: Vec<Assessed>,
    tokens: usize,
}

impl Cases {
    /// Takes a rollout in, and returns the cases that are complete with it.
    pub(super) fn add(&mut self, assessed: Assessed) -> Vec<Vec<Assessed>> {
        let key = (assessed.incoming.engine.clone(), assessed.incoming.worker.clone());
        let tokens = assessed.tokens();
        let case = self.open.entry(key.clone()).or_default();
        case.tokens += tokens;
        case.sequences.push(assessed);
        self.tokens += tokens;
        if case.sequences.len() >= CASE_SEQUENCES || case.tokens >= CASE_TOKENS {
            let complete = self.open.remove(&key);
            self.tokens -= complete.as_ref().map_or(0, |case| case.tokens);
            return complete.into_iter().map(|case| case.sequences).collect();
        }
        if self.tokens >= OPEN_TOKENS { self.close() } else { Vec::new() }
    }

    /// All open cases.
    pub(super) fn close(&mut self) -> Vec<Vec<Assessed>> {
        self.tokens = 0;
        std::mem::take(&mut self.open).into_values().map(|case| case.sequences).collect()
    }
}
