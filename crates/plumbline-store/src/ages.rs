//! When the time of day may be trusted to call something old.
//!
//! A clock that was set years ahead by mistake makes everything old at once, and what is removed is gone when the mistake is
//! found. So nothing goes for its age until the clock has run in step with the monotonic one for a while.

use std::time::{Duration, Instant, SystemTime};

/// Clocks that are slewed drift apart by less between two looks.
const IN_STEP: Duration = Duration::from_secs(10);

/// The time of day, watched.
#[derive(Debug)]
pub(crate) struct Ages {
    settle: Duration,
    last: (SystemTime, Instant),
    trusted_from: Instant,
}

impl Ages {
    /// The clock of a start is as unknown as one that was just set.
    pub(crate) fn new(settle: Duration, time: SystemTime, now: Instant) -> Self {
        Self { settle, last: (time, now), trusted_from: now + settle }
    }

    /// What was before it is older than `max_age`; `None` while the clock is not trusted.
    pub(crate) fn cutoff(&mut self, max_age: Duration, time: SystemTime, now: Instant) -> Option<SystemTime> {
        let (last_time, last_now) = self.last;
        let expected = last_time + now.saturating_duration_since(last_now);
        let apart = time.duration_since(expected).unwrap_or_else(|behind| behind.duration());
        self.last = (time, now);
        if apart > IN_STEP {
            self.trusted_from = now + self.settle;
            tracing::warn!(
                jumped_seconds = apart.as_secs(),
                ahead = time > expected,
                settle_seconds = self.settle.as_secs(),
                "the clock was set: nothing is removed for its age until it has run steadily"
            );
        }
        if now < self.trusted_from { None } else { time.checked_sub(max_age) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const SETTLE: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn a_clock_is_trusted_when_it_has_run_steadily() {
        let (time, now) = (SystemTime::UNIX_EPOCH + 20_000 * DAY, Instant::now());
        let mut ages = Ages::new(SETTLE, time, now);
        assert_eq!(ages.cutoff(DAY, time + SETTLE / 2, now + SETTLE / 2), None, "just started");
        assert_eq!(ages.cutoff(DAY, time + SETTLE, now + SETTLE), Some(time + SETTLE - DAY));
        // Slewed a little, as time services do.
        let later = (time + SETTLE + 61 * SECOND, now + SETTLE + 60 * SECOND);
        assert_eq!(ages.cutoff(DAY, later.0, later.1), Some(later.0 - DAY));
    }

    #[test]
    fn after_a_jump_nothing_is_old_for_a_while() {
        let (time, now) = (SystemTime::UNIX_EPOCH + 20_000 * DAY, Instant::now());
        for (jumped, name) in [(time + 3650 * DAY, "ahead"), (time - 3650 * DAY, "back"), (time + 3650 * DAY, "ahead")]
        {
            let mut ages = Ages::new(Duration::ZERO, time, now);
            assert_eq!(ages.cutoff(DAY, time, now), Some(time - DAY));
            ages.settle = SETTLE;
            assert_eq!(ages.cutoff(DAY, jumped, now + SECOND), None, "{name}");
            assert_eq!(ages.cutoff(DAY, jumped + SETTLE / 2, now + SECOND + SETTLE / 2), None, "{name}");
            // Set right again: that is a jump, too.
            let right = (time + SETTLE, now + SETTLE);
            assert_eq!(ages.cutoff(DAY, right.0, right.1), None, "{name}");
            let steady = (right.0 + SETTLE, right.1 + SETTLE);
            assert_eq!(ages.cutoff(DAY, steady.0, steady.1), Some(steady.0 - DAY), "{name}");
        }
    }

    #[test]
    fn a_time_before_all_times_makes_nothing_old() {
        let (time, now) = (SystemTime::UNIX_EPOCH, Instant::now());
        let mut ages = Ages::new(Duration::ZERO, time, now);
        let forever = Duration::MAX;
        assert_eq!(ages.cutoff(forever, time, now), None);
    }
}
