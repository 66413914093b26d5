//! Which runs have changed, for those who watch.
//!
//! Changes are numbered. Who watches remembers the last number that it has seen and asks now and then what came after: so
//! however fast sequences come, a watcher is told of a run once, and one that is slow costs nothing.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Runs whose last change is known apart; beyond them the oldest are forgotten, and whoever is that far behind looks at everything.
const MOST: usize = 1024;

/// The changes.
#[derive(Debug, Default)]
pub(crate) struct Live {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Of the latest change.
    number: u64,
    /// Of each run's last change.
    runs: HashMap<String, u64>,
    /// Changes up to this one may be of runs that are forgotten.
    forgotten: u64,
}

/// What changed after some number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// The number to ask with next.
    pub(crate) number: u64,
    /// Runs by name.
    pub(crate) runs: Vec<String>,
    /// There may be further ones.
    pub(crate) more: bool,
}

impl Live {
    /// Something of a run, under the name it is kept by, is new.
    pub(crate) fn touch(&self, run: &str) {
        let mut inner = self.lock();
        inner.number += 1;
        let number = inner.number;
        match inner.runs.get_mut(run) {
            Some(last) => *last = number,
            None => drop(inner.runs.insert(run.to_owned(), number)),
        }
        if inner.runs.len() > MOST {
            let mut numbers: Vec<_> = inner.runs.values().copied().collect();
            numbers.sort_unstable();
            let forgotten = numbers[numbers.len() / 2];
            inner.runs.retain(|_, last| *last > forgotten);
            inner.forgotten = forgotten;
        }
    }

    /// The number of the latest change.
    pub(crate) fn now(&self) -> u64 {
        self.lock().number
    }

    /// What changed since a number, at most `most` names.
    pub(crate) fn since(&self, number: u64, most: usize) -> Changes {
        let inner = self.lock();
        let mut runs: Vec<_> =
            inner.runs.iter().filter(|(_, last)| **last > number).map(|(run, _)| run.clone()).collect();
        runs.sort_unstable();
        let more = runs.len() > most || number < inner.forgotten;
        runs.truncate(most);
        Changes { number: inner.number, runs, more }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_told_once_however_often_it_changed() {
        let live = Live::default();
        let start = live.now();
        (0..1000).for_each(|_| live.touch("a"));
        live.touch("b");
        let changes = live.since(start, 9);
        assert_eq!((changes.runs, changes.more), (vec!["a".to_owned(), "b".to_owned()], false));
        assert_eq!(live.since(changes.number, 9), Changes { number: changes.number, ..Changes::default() });
        live.touch("a");
        assert_eq!(live.since(changes.number, 9).runs, ["a"]);
        assert!(live.since(start, 1).more);
    }

    #[test]
    fn names_are_bounded_and_who_is_too_far_behind_is_told_so() {
        let live = Live::default();
        (0..10 * MOST).for_each(|number| live.touch(&number.to_string()));
        assert!(live.lock().runs.len() <= MOST);
        assert!(live.since(0, usize::MAX).more);
        let now = live.now();
        live.touch("a");
        assert!(!live.since(now, usize::MAX).more);
    }
}
