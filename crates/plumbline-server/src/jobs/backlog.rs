//! Jobs that wait for their turn, fair between runs.

use std::collections::{HashMap, VecDeque};

use plumbline_store::Job;

/// Jobs by run, in the order of acceptance; runs take turns.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    runs: HashMap<String, VecDeque<Job>>,
    /// Runs with jobs, the next one first.
    turns: VecDeque<String>,
    /// The last job that was taken in.
    last: u64,
}

impl Backlog {
    /// Number of the last job that was taken in from the store; those after it are new.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Takes in a job of the store.
    pub(super) fn push(&mut self, job: Job) {
        self.last = self.last.max(job.number);
        if !self.runs.contains_key(&job.run) {
            self.turns.push_back(job.run.clone());
        }
        self.runs.entry(job.run.clone()).or_default().push_back(job);
    }

    /// The next job, without taking it.
    pub(super) fn next(&self) -> Option<&Job> {
        self.runs.get(self.turns.front()?)?.front()
    }

    /// Takes the next job.
    pub(super) fn pop(&mut self) -> Option<Job> {
        let run = self.turns.pop_front()?;
        let jobs = self.runs.get_mut(&run)?;
        let job = jobs.pop_front();
        if jobs.is_empty() {
            self.runs.remove(&run);
        } else {
            self.turns.push_back(run);
        }
        job
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use plumbline_store::Class;
    use proptest::prelude::*;

    use super::*;

    fn job(number: u64, run: &str) -> Job {
        Job {
            number,
            id: format!("ver_{number}"),
            run: run.into(),
            engine: "vllm".into(),
            class: Class::Bulk,
            attempts: 0,
            created_at: SystemTime::UNIX_EPOCH,
            request_bytes: 10,
        }
    }

    #[test]
    fn runs_take_turns() {
        let mut backlog = Backlog::default();
        [(1, "a"), (2, "a"), (3, "a"), (4, "b"), (5, "c"), (6, "b")]
            .into_iter()
            .for_each(|(number, run)| backlog.push(job(number, run)));
        assert_eq!((backlog.last(), backlog.next().map(|job| job.number)), (6, Some(1)));
        let order: Vec<_> = std::iter::from_fn(|| backlog.pop()).map(|job| job.number).collect();
        assert_eq!(order, [1, 4, 5, 2, 6, 3]);
        backlog.push(job(7, "b"));
        assert_eq!(backlog.pop().map(|job| job.number), Some(7));
        assert!(backlog.next().is_none() && backlog.runs.is_empty() && backlog.turns.is_empty());
    }

    proptest! {
        /// Every job comes out once, those of a run in their order, and no run waits for more than one job of each other run.
        #[test]
        fn nothing_is_lost_and_nobody_starves(runs in prop::collection::vec(0u8..4, 0..60)) {
            let mut backlog = Backlog::default();
            for (number, run) in runs.iter().enumerate() {
                backlog.push(job(number as u64, &run.to_string()));
            }
            let order: Vec<_> = std::iter::from_fn(|| backlog.pop()).collect();
            let mut numbers: Vec<_> = order.iter().map(|job| job.number).collect();
            for run in 0..4u8 {
                let own = |job: &&Job| job.run == run.to_string();
                let places: Vec<_> = order.iter().enumerate().filter(|(_, job)| own(job)).collect();
                prop_assert!(places.windows(2).all(|pair| pair[0].1.number < pair[1].1.number));
                prop_assert!(places.windows(2).all(|pair| pair[1].0 - pair[0].0 <= 4));
            }
            numbers.sort_unstable();
            prop_assert_eq!(numbers, (0..runs.len() as u64).collect::<Vec<_>>());
        }
    }
}
