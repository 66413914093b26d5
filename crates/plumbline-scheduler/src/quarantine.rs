//! Sequences that made the model panic: they are not tried again for a while.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Sequences that are kept at most; the oldest go first.
const MOST: usize = 1024;

/// What made the model panic, for as long as it is refused.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    /// In the order of their release.
    held: VecDeque<(Instant, u64)>,
}

impl Quarantine {
    /// Holds a sequence for so long from now on.
    pub(crate) fn hold(&mut self, digest: u64, now: Instant, term: Duration) {
        if term.is_zero() {
            return;
        }
        self.held.retain(|(_, held)| *held != digest);
        if self.held.len() == MOST {
            self.held.pop_front();
        }
        self.held.push_back((now + term, digest));
    }

    /// The first of these that is held, and for how long it still is.
    pub(crate) fn find(&mut self, digests: &[u64], now: Instant) -> Option<(usize, Duration)> {
        self.release(now);
        if self.held.is_empty() {
            return None;
        }
        digests.iter().enumerate().find_map(|(index, digest)| {
            let (until, _) = self.held.iter().find(|(_, held)| held == digest)?;
            Some((index, until.saturating_duration_since(now)))
        })
    }

    /// Sequences that are held.
    pub(crate) fn len(&mut self, now: Instant) -> usize {
        self.release(now);
        self.held.len()
    }

    fn release(&mut self, now: Instant) {
        while self.held.front().is_some_and(|(until, _)| *until <= now) {
            self.held.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_sequence_is_held_for_its_term() {
        let (mut quarantine, now) = (Quarantine::default(), Instant::now());
        quarantine.hold(7, now, 10 * SECOND);
        assert_eq!(quarantine.find(&[1, 7], now + SECOND), Some((1, 9 * SECOND)));
        assert_eq!(quarantine.find(&[1, 2], now + SECOND), None);
        quarantine.hold(7, now + SECOND, 10 * SECOND);
        assert_eq!(quarantine.len(now + SECOND), 1, "held once, but longer");
        assert_eq!(quarantine.find(&[7], now + 10 * SECOND), Some((0, SECOND)));
        assert_eq!(quarantine.find(&[7], now + 11 * SECOND), None);
        assert_eq!(quarantine.len(now + 11 * SECOND), 0);
    }

    #[test]
    fn memory_is_bounded_and_no_term_holds_nothing() {
        let (mut quarantine, now) = (Quarantine::default(), Instant::now());
        quarantine.hold(1, now, Duration::ZERO);
        assert_eq!(quarantine.len(now), 0);
        for digest in 0..2 * MOST as u64 {
            quarantine.hold(digest, now, SECOND);
        }
        assert_eq!(quarantine.len(now), MOST);
        assert!(quarantine.find(&[0], now).is_none() && quarantine.find(&[2 * MOST as u64 - 1], now).is_some());
    }
}
