//! How much of a model thread's time jobs beside scoring get.

use std::time::{Duration, Instant};

/// A thread is idle when nothing has waited for this long after its last batch. Callers who send their next sequences as
/// soon as they have their answers leave gaps between batches that are no idle time: a job in each would cost as much as a
/// job before each.
pub(crate) const SETTLING: Duration = Duration::from_millis(100);

/// Seconds that are saved up at most while no job waits: what jobs can take in one go later on.
const MOST_SAVED: f64 = 0.1;

/// A token bucket of one thread's time. Scoring earns, jobs that run while there is scoring to do spend. A job may spend
/// more than there is: the debt is earned before the next one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// Seconds earned by a second of scoring.
    rate: f64,
    /// Seconds; below 0 = debt.
    credit: f64,
    last_scored: Option<Instant>,
}

/// Whether a thread may run a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// It has nothing else to do.
    Idle,
    /// Yes, and the budget pays for it.
    Paid,
    /// It will be idle at this time unless something comes before.
    At(Instant),
    /// Not before it has scored more.
    Later,
}

impl Budget {
    /// For a share of the time of scoring and jobs together, at least 0 and below 1.
    pub(crate) fn new(share: f64) -> Self {
        Self { rate: share / (1.0 - share), credit: 0.0, last_scored: None }
    }

    /// A batch took so long and ended at `now`.
    pub(crate) fn scored(&mut self, now: Instant, elapsed: Duration) {
        // The limit is for what was saved before: one long batch earns its jobs whole.
        self.credit = self.credit.min(MOST_SAVED) + elapsed.as_secs_f64() * self.rate;
        self.last_scored = Some(now);
    }

    /// A paid job took so long.
    pub(crate) fn spent(&mut self, elapsed: Duration) {
        self.credit -= elapsed.as_secs_f64();
    }

    /// Whether a job may run at `now`; `waiting` says whether something waits to be scored.
    pub(crate) fn leave(&self, now: Instant, waiting: bool) -> Leave {
        let settled = self.last_scored.map(|last| last + SETTLING).filter(|settled| *settled > now);
        match (waiting, settled) {
            (false, None) => Leave::Idle,
            _ if self.credit > 0.0 => Leave::Paid,
            (false, Some(settled)) => Leave::At(settled),
            (true, _) => Leave::Later,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[test]
    fn an_idle_thread_takes_jobs_at_once_and_for_nothing() {
        let (mut budget, start) = (Budget::new(0.02), Instant::now());
        assert_eq!(budget.leave(start, false), Leave::Idle);
        assert_eq!(budget.leave(start, true), Leave::Later, "nothing is earned yet");
        budget.scored(start, 500 * MILLISECOND);
        budget.spent(MILLISECOND * 1000);
        assert_eq!(budget.leave(start, false), Leave::At(start + SETTLING), "a gap is no idle time");
        assert_eq!(budget.leave(start + SETTLING, false), Leave::Idle, "whatever the debt");
        assert_eq!(budget.leave(start + SETTLING, true), Leave::Later);
    }

    #[test]
    fn a_share_of_nothing_leaves_idle_time_only() {
        let (mut budget, start) = (Budget::new(0.0), Instant::now());
        budget.scored(start, Duration::from_secs(3600));
        assert_eq!(budget.leave(start, true), Leave::Later);
        assert_eq!(budget.leave(start, false), Leave::At(start + SETTLING));
    }

    #[test]
    fn what_is_saved_is_bounded_and_one_long_batch_counts_whole() {
        let (mut budget, start) = (Budget::new(0.5), Instant::now());
        for _ in 0..1000 {
            budget.scored(start, 10 * MILLISECOND);
        }
        budget.spent(111 * MILLISECOND);
        assert_eq!(budget.leave(start, true), Leave::Later);
        budget.scored(start, Duration::from_secs(9));
        budget.spent(Duration::from_secs(8));
        assert_eq!(budget.leave(start, true), Leave::Paid);
    }

    proptest! {
        /// Batches and jobs of any length, always both waiting: jobs get their share, neither more nor less, but for one
        /// job and what one batch earns.
        #[test]
        fn constant_load_keeps_its_part_of_the_time_and_jobs_get_theirs(
            share in 0.001f64..0.5,
            batches in prop::collection::vec(1u64..5000, 1..200),
            jobs in prop::collection::vec(1u64..3000, 1..20),
        ) {
            let (mut budget, start) = (Budget::new(share), Instant::now());
            let mut jobs = jobs.into_iter().cycle();
            let (mut scoring, mut beside) = (0.0, 0.0);
            for batch in batches {
                budget.scored(start, Duration::from_millis(batch));
                scoring += batch as f64 / 1e3;
                while budget.leave(start, true) == Leave::Paid {
                    let job = jobs.next().unwrap();
                    budget.spent(Duration::from_millis(job));
                    beside += job as f64 / 1e3;
                }
            }
            let due = scoring * share / (1.0 - share);
            prop_assert!(beside <= due + 3.0 + 1e-6, "{beside} of {due} s");
            prop_assert!(beside >= due - 1e-6, "{beside} of {due} s");
        }
    }
}
