//! Sliding window over anything that adds up.

use std::collections::VecDeque;
use std::time::Duration;

use crate::SufficientStatistics;

/// What adds up.
pub trait Merge: Clone + Default {
    /// Adds everything that another holds.
    fn merge(&mut self, other: &Self);
}

impl Merge for SufficientStatistics {
    fn merge(&mut self, other: &Self) {
        self.merge(other);
    }
}

/// What was observed recently, in time slices that are dropped whole.
///
/// A snapshot holds everything of the last `window - window/slices` and nothing of `window` ago or older. Time is monotone
/// time since some start; time that goes backwards is taken as standing still.
#[derive(Clone, Debug)]
pub struct SlidingWindow<T = SufficientStatistics> {
    slice_nanos: u128,
    slices: u128,
    latest: Duration,
    /// Slices that hold something, oldest first, each with its number since the start of time.
    filled: VecDeque<(u128, T)>,
}

impl<T: Merge> SlidingWindow<T> {
    /// A window of `slices` equal parts. Zero slices are taken as one, and a slice lasts at least a nanosecond.
    #[must_use]
    pub fn new(window: Duration, slices: usize) -> Self {
        let slices = slices.max(1) as u128;
        let slice_nanos = (window.as_nanos() / slices).max(1);
        Self { slice_nanos, slices, latest: Duration::ZERO, filled: VecDeque::new() }
    }

    /// Adds what was observed at `now`.
    pub fn observe(&mut self, now: Duration, statistics: &T) {
        self.latest = self.latest.max(now);
        let (slice, oldest) = self.slice_and_oldest(now);
        while self.filled.front().is_some_and(|(filled, _)| *filled < oldest) {
            self.filled.pop_front();
        }
        match self.filled.back_mut() {
            Some((filled, newest)) if *filled == slice => newest.merge(statistics),
            _ => self.filled.push_back((slice, statistics.clone())),
        }
    }

    /// Everything in the window that ends at `now`.
    #[must_use]
    pub fn snapshot(&self, now: Duration) -> T {
        let (_, oldest) = self.slice_and_oldest(now);
        let mut merged = T::default();
        for (_, statistics) in self.filled.iter().filter(|(filled, _)| *filled >= oldest) {
            merged.merge(statistics);
        }
        merged
    }

    /// The current slice and the oldest one still in the window.
    fn slice_and_oldest(&self, now: Duration) -> (u128, u128) {
        let current = self.latest.max(now).as_nanos() / self.slice_nanos;
        (current, (current + 1).saturating_sub(self.slices))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one_token() -> SufficientStatistics {
        SufficientStatistics { tokens: 1, ..SufficientStatistics::default() }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn old_slices_leave() {
        let mut window = SlidingWindow::new(10 * SECOND, 5);
        window.observe(Duration::ZERO, &one_token());
        window.observe(5 * SECOND, &one_token());
        assert_eq!(window.snapshot(9 * SECOND).tokens, 2);
        assert_eq!(window.snapshot(10 * SECOND).tokens, 1);
        assert_eq!(window.snapshot(13 * SECOND).tokens, 1);
        assert_eq!(window.snapshot(14 * SECOND).tokens, 0);
        assert_eq!(window.snapshot(Duration::MAX).tokens, 0);
    }

    #[test]
    fn time_that_goes_backwards_loses_nothing() {
        let mut window = SlidingWindow::new(10 * SECOND, 5);
        window.observe(100 * SECOND, &one_token());
        window.observe(3 * SECOND, &one_token());
        assert_eq!(window.snapshot(3 * SECOND).tokens, 2);
        assert_eq!(window.snapshot(101 * SECOND).tokens, 2);
    }

    #[test]
    fn degenerate_windows_work() {
        for mut window in [SlidingWindow::new(Duration::ZERO, 0), SlidingWindow::new(Duration::MAX, usize::MAX)] {
            window.observe(SECOND, &one_token());
            assert_eq!(window.snapshot(SECOND).tokens, 1);
        }
    }

    proptest! {
        /// A snapshot is the merge of what was observed within the window, whatever the order of times.
        #[test]
        fn a_snapshot_is_what_the_window_covers(
            times in prop::collection::vec(0u64..100_000, 0..60),
            window_millis in 1_000u64..50_000,
            slices in 1usize..20,
            ahead in 0u64..60_000,
        ) {
            let window = Duration::from_millis(window_millis);
            let mut sliding = SlidingWindow::new(window, slices);
            let mut clock = 0;
            let mut observed = Vec::new();
            for (index, time) in times.iter().enumerate() {
                clock = clock.max(*time);
                let statistics = SufficientStatistics { tokens: 1 << (index % 50), k3: 1.0, ..Default::default() };
                sliding.observe(Duration::from_millis(*time), &statistics);
                observed.push((Duration::from_millis(clock), statistics));
            }
            let now = Duration::from_millis(clock + ahead);
            let width = window / slices as u32;
            let merge = |covered: &dyn Fn(Duration) -> bool| {
                let mut merged = SufficientStatistics::default();
                observed.iter().filter(|(time, _)| covered(*time)).for_each(|(_, one)| merged.merge(one));
                merged
            };
            let number = |time: Duration| time.as_nanos() / width.as_nanos();
            let snapshot = sliding.snapshot(now);
            prop_assert_eq!(&snapshot, &merge(&|time| number(time) + slices as u128 > number(now)));
            // And the bounds that do not know of slices.
            prop_assert!(snapshot.k3 >= merge(&|time| now - time <= (window - width).saturating_sub(Duration::from_nanos(20))).k3);
            prop_assert!(snapshot.k3 <= merge(&|time| now - time < window).k3);
        }
    }
}
