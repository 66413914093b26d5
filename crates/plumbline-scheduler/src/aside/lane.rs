//! Jobs that wait for a model thread.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Job;
use super::budget::{Budget, Leave};
use crate::SchedulerConfig;

/// The waiting jobs, and each model thread's budget for them.
pub(crate) struct Lane {
    jobs: VecDeque<Box<dyn Job>>,
    limit: usize,
    budgets: Vec<Budget>,
}

/// What a thread does about jobs.
pub(crate) enum Next {
    /// Runs this one; `paid` = from its budget.
    Run { job: Box<dyn Job>, paid: bool },
    /// Looks again at this time.
    At(Instant),
    /// Nothing.
    Nothing,
}

impl Lane {
    pub(crate) fn new(config: &SchedulerConfig, threads: usize) -> Self {
        let budgets = vec![Budget::new(config.aside_share); threads];
        Self { jobs: VecDeque::new(), limit: config.max_aside_jobs, budgets }
    }

    /// Adds a job if there is room for it. In any case returns jobs to be dropped, without a lock held: those whose callers
    /// left, and the new one if it was refused.
    pub(crate) fn push(&mut self, job: Box<dyn Job>) -> (Result<(), usize>, Vec<Box<dyn Job>>) {
        let mut dropped = Vec::new();
        if self.jobs.len() >= self.limit {
            let (wanted, abandoned) = self.jobs.drain(..).partition(|job| job.is_wanted());
            self.jobs = wanted;
            dropped = Vec::from(abandoned);
        }
        if self.jobs.len() >= self.limit {
            dropped.push(job);
            return (Err(self.limit), dropped);
        }
        self.jobs.push_back(job);
        (Ok(()), dropped)
    }

    /// What a thread does at `now`; `waiting` says whether something waits to be scored.
    pub(crate) fn next(&mut self, thread: usize, now: Instant, waiting: bool) -> Next {
        if self.jobs.is_empty() {
            return Next::Nothing;
        }
        let leave = self.budgets[thread].leave(now, waiting, self.due());
        match leave {
            Leave::Idle | Leave::Paid => match self.jobs.pop_front() {
                Some(job) => Next::Run { job, paid: leave == Leave::Paid },
                None => Next::Nothing,
            },
            Leave::At(then) => Next::At(then),
            Leave::Later => Next::Nothing,
        }
    }

    /// A thread's batch took so long for so many tokens and ended at `now`.
    pub(crate) fn scored(&mut self, thread: usize, now: Instant, elapsed: Duration, tokens: usize) {
        let due = self.due();
        self.budgets[thread].scored(now, elapsed, tokens, due);
    }

    /// A thread's paid job took so long.
    pub(crate) fn spent(&mut self, thread: usize, elapsed: Duration) {
        self.budgets[thread].spent(elapsed);
    }

    /// Tokens of the job that is next.
    fn due(&self) -> usize {
        self.jobs.front().map_or(0, |job| job.tokens())
    }

    /// Removes all jobs.
    pub(crate) fn take_all(&mut self) -> VecDeque<Box<dyn Job>> {
        std::mem::take(&mut self.jobs)
    }
}
