//! Tokens a minute.

use std::time::{Duration, Instant};

/// A token bucket that holds a minute's worth. What is taken beyond it is waited for before the next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MinuteBudget {
    per_minute: f64,
    /// Below 0 = taken in advance.
    tokens: f64,
    counted: Instant,
}

impl MinuteBudget {
    /// Full.
    pub(crate) fn new(per_minute: usize, now: Instant) -> Self {
        Self { per_minute: per_minute as f64, tokens: per_minute as f64, counted: now }
    }

    /// When there are `wanted` tokens, or as many as there can be: now, or at the time given.
    pub(crate) fn ready(&mut self, now: Instant, wanted: usize) -> Result<(), Instant> {
        let elapsed = now.saturating_duration_since(self.counted).as_secs_f64();
        self.tokens = (self.tokens + self.per_minute * elapsed / 60.0).min(self.per_minute);
        self.counted = self.counted.max(now);
        let missing = (wanted as f64).min(self.per_minute) - self.tokens;
        if missing <= 0.0 {
            return Ok(());
        }
        // Rounded up, so that it is really there then.
        Err(now + Duration::from_secs_f64(missing / self.per_minute * 60.0) + Duration::from_millis(1))
    }

    /// Takes tokens.
    pub(crate) fn spend(&mut self, tokens: usize) {
        self.tokens -= tokens as f64;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_minute_refills_it_and_no_more() {
        let start = Instant::now();
        let mut budget = MinuteBudget::new(600, start);
        assert_eq!(budget.ready(start, 600), Ok(()));
        budget.spend(700);
        let then = budget.ready(start, 200).unwrap_err();
        assert_eq!(then - start, Duration::from_millis(30_001));
        assert_eq!(budget.ready(then, 200), Ok(()));
        assert_eq!(budget.ready(start + Duration::from_secs(3600), 10_000), Ok(()), "as much as it holds");
        budget.spend(600);
        assert!(budget.ready(start + Duration::from_secs(3600), 1).is_err());
    }

    proptest! {
        /// Takers of any size at any times never get more than the rate, the first fill and one take.
        #[test]
        fn the_rate_is_kept(
            per_minute in 1usize..10_000,
            wanted in 1usize..5_000,
            steps in prop::collection::vec((0u64..20_000, 0usize..5_000), 1..100),
        ) {
            let start = Instant::now();
            let (mut budget, mut now, mut taken) = (MinuteBudget::new(per_minute, start), start, 0usize);
            for (pause, tokens) in steps {
                now += Duration::from_millis(pause);
                match budget.ready(now, wanted) {
                    Ok(()) => {
                        budget.spend(tokens);
                        taken += tokens;
                    }
                    Err(then) => prop_assert!(then > now && budget.ready(then, wanted).is_ok()),
                }
                now = now.max(budget.counted);
            }
            let minutes = (now - start).as_secs_f64() / 60.0;
            prop_assert!(taken as f64 <= per_minute as f64 * (1.0 + minutes) + 5_000.0);
        }
    }
}
