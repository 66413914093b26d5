//! How much of a model thread's time jobs beside scoring get.

use std::time::{Duration, Instant};

use crate::throughput::Throughput;

/// A thread is idle when nothing has waited for this long after its last batch. Callers who send their next sequences as
/// soon as they have their answers leave gaps between batches that are no idle time: a job in each would cost as much as a
/// job before each.
pub(crate) const SETTLING: Duration = Duration::from_millis(100);

/// Seconds that are saved up at most beyond what the next job needs: what jobs can take in one go later on.
const MOST_SAVED: f64 = 0.1;

/// A token bucket of one thread's time. Scoring earns, jobs that run while there is scoring to do spend. A job begins when
/// what it will probably take is there: whoever sends for a minute only must not pay for more than this minute's share. What
/// it takes beyond that is a debt, earned before the next one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// Seconds earned by a second of scoring.
    rate: f64,
    /// Seconds; below 0 = debt.
    credit: f64,
    last_scored: Option<Instant>,
    /// Of batches.
    speed: Throughput,
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
        Self { rate: share / (1.0 - share), credit: 0.0, last_scored: None, speed: Throughput::default() }
    }

    /// A batch took so long for so many tokens and ended at `now`; the next job has `due` tokens.
    pub(crate) fn scored(&mut self, now: Instant, elapsed: Duration, tokens: usize, due: usize) {
        self.speed.record(tokens, elapsed);
        // The limit is for what was saved before: one long batch earns its jobs whole.
        self.credit = self.credit.min(MOST_SAVED + self.price(due)) + elapsed.as_secs_f64() * self.rate;
        self.last_scored = Some(now);
    }

    /// Seconds that so many tokens of a forward take.
    fn price(&self, tokens: usize) -> f64 {
        self.speed.tokens_per_second().map_or(0.0, |speed| tokens as f64 / speed)
    }

    /// A paid job took so long.
    pub(crate) fn spent(&mut self, elapsed: Duration) {
        self.credit -= elapsed.as_secs_f64();
    }

    /// Whether a job of `due` tokens may run at `now`; `waiting` says whether something waits to be scored.
    pub(crate) fn leave(&self, now: Instant, waiting: bool, due: usize) -> Leave {
        let settled = self.last_scored.map(|last| last + SETTLING).filter(|settled| *settled > now);
        match (waiting, settled) {
            (false, None) => Leave::Idle,
            _ if self.credit > 0.0 && self.credit >= self.price(due) => Leave::Paid,
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
        assert_eq!(budget.leave(start, false, 9), Leave::Idle);
        assert_eq!(budget.leave(start, true, 0), Leave::Later, "nothing is earned yet");
        budget.scored(start, 500 * MILLISECOND, 100, 9);
        budget.spent(MILLISECOND * 1000);
        assert_eq!(budget.leave(start, false, 9), Leave::At(start + SETTLING), "a gap is no idle time");
        assert_eq!(budget.leave(start + SETTLING, false, 9), Leave::Idle, "whatever the debt");
        assert_eq!(budget.leave(start + SETTLING, true, 0), Leave::Later);
    }

    #[test]
    fn a_share_of_nothing_leaves_idle_time_only() {
        let (mut budget, start) = (Budget::new(0.0), Instant::now());
        budget.scored(start, Duration::from_secs(3600), 1, 0);
        assert_eq!(budget.leave(start, true, 0), Leave::Later);
        assert_eq!(budget.leave(start, false, 0), Leave::At(start + SETTLING));
    }

    #[test]
    fn what_is_saved_is_bounded_and_one_long_batch_counts_whole() {
        let (mut budget, start) = (Budget::new(0.5), Instant::now());
        for _ in 0..1000 {
            budget.scored(start, 10 * MILLISECOND, 10, 0);
        }
        budget.spent(111 * MILLISECOND);
        assert_eq!(budget.leave(start, true, 0), Leave::Later);
        budget.scored(start, Duration::from_secs(9), 9000, 0);
        budget.spent(Duration::from_secs(8));
        assert_eq!(budget.leave(start, true, 0), Leave::Paid);
    }

    #[test]
    fn a_job_waits_until_its_price_is_earned_however_high() {
        let (mut budget, start) = (Budget::new(0.5), Instant::now());
        for earned in 1..=30 {
            // 100 tokens a second, so that the job takes 3 seconds.
            budget.scored(start, 100 * MILLISECOND, 10, 300);
            let expected = if earned < 30 { Leave::Later } else { Leave::Paid };
            assert_eq!(budget.leave(start + MILLISECOND, true, 299), expected, "{earned}");
        }
    }

    proptest! {
        /// Batches and jobs of any length, always both waiting: jobs get their share, never more, and less by no more than
        /// what is saved for the next one.
        #[test]
        fn constant_load_keeps_its_part_of_the_time_and_jobs_get_theirs(
            share in 0.001f64..0.5,
            batches in prop::collection::vec(1u64..5000, 1..200),
            jobs in prop::collection::vec(1u64..3000, 1..20),
        ) {
            let (mut budget, start) = (Budget::new(share), Instant::now());
            let mut jobs = jobs.into_iter().cycle().peekable();
            let (mut scoring, mut beside) = (0.0, 0.0);
            for batch in batches {
                // A token takes a millisecond.
                let due = *jobs.peek().unwrap() as usize;
                budget.scored(start, Duration::from_millis(batch), batch as usize, due);
                scoring += batch as f64 / 1e3;
                while budget.leave(start, true, *jobs.peek().unwrap() as usize) == Leave::Paid {
                    let job = jobs.next().unwrap();
                    budget.spent(Duration::from_millis(job));
                    beside += job as f64 / 1e3;
                }
            }
            let due = scoring * share / (1.0 - share);
            let saved = *jobs.peek().unwrap() as f64 / 1e3;
            prop_assert!(beside <= due + 1e-6, "{beside} of {due} s");
            prop_assert!(beside > due - saved - 1e-6, "{beside} of {due} s");
        }
    }
}
