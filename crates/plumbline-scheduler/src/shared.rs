//! What the handles, the tickets and the model threads share.

mod beside;
mod versions;

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use plumbline_core::{ReferenceInfo, ReferenceModel, ScoringSequence};
use tokio::sync::watch;

pub(crate) use self::versions::Arrival;
use crate::aside::{Job, Lane, Next};
use crate::batching::BatchLimits;
use crate::entry::{Amount, Entry, cost};
use crate::group::Group;
use crate::queue::Queue;
use crate::reply::Reply;
use crate::residents::Residents;
use crate::throughput::{Throughput, retry_after, together};
use crate::{Observer, SchedulerConfig, SchedulerState, ScoreError, SubmitError, Ticket};

pub(crate) struct Shared {
    config: SchedulerConfig,
    pub(crate) observer: Arc<dyn Observer>,
    work: Mutex<Work>,
    /// Signalled to all when there may be something to do for any of the model threads.
    wake: Condvar,
    /// Written only while `work` is locked, so that whoever holds the lock sees a state that stays.
    state: watch::Sender<SchedulerState>,
    /// Written only while `work` is locked.
    residents: watch::Sender<Residents>,
    /// Held by the one update of the weights that runs.
    pub(crate) updates: Arc<tokio::sync::Mutex<()>>,
    /// Model threads that have not ended. Written only while `work` is locked, after `state`.
    alive: watch::Sender<usize>,
    /// For each model thread: sequences that it took from the queue and has not answered yet.
    running: Vec<AtomicUsize>,
}

struct Work {
    queue: Queue,
    /// Jobs beside scoring.
    aside: Lane,
    /// For each model thread.
    throughput: Vec<Throughput>,
    /// What each model thread has loaded at the start.
    loaded: Vec<Option<ReferenceInfo>>,
    /// A version whose copies the model threads have not all taken yet.
    arrival: Option<Arrival>,
    /// Leaving versions of which some model threads have dropped their copy, and how many have.
    dropped: Vec<(Arc<ReferenceInfo>, usize)>,
}

/// What a model thread does next.
pub(crate) enum Step {
    /// Score a batch, all of one version.
    Score(Vec<Entry>),
    /// Run a job beside scoring; `paid` = from the thread's budget for them.
    Aside { job: Box<dyn Job>, paid: bool },
    /// Take the thread's copy of a new version.
    Install(Arc<ReferenceInfo>, Box<dyn ReferenceModel>),
    /// Drop the thread's copy of a version that nothing waits for.
    Release(Arc<ReferenceInfo>),
}

impl Shared {
    /// For so many model threads.
    pub(crate) fn new(config: SchedulerConfig, observer: Arc<dyn Observer>, threads: usize) -> Self {
        let work = Work {
            queue: Queue::default(),
            aside: Lane::new(&config, threads),
            throughput: vec![Throughput::default(); threads],
            loaded: vec![None; threads],
            arrival: None,
            dropped: Vec::new(),
        };
        Self {
            config,
            observer,
            work: Mutex::new(work),
            wake: Condvar::new(),
            state: watch::Sender::new(SchedulerState::Loading),
            residents: watch::Sender::default(),
            updates: Arc::default(),
            alive: watch::Sender::new(threads),
            running: (0..threads).map(|_| AtomicUsize::new(0)).collect(),
        }
    }

    /// Number of model threads.
    pub(crate) fn threads(&self) -> usize {
        self.running.len()
    }

    pub(crate) fn state(&self) -> SchedulerState {
        self.state.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<SchedulerState> {
        self.state.subscribe()
    }

    /// The number of model threads that have not ended.
    pub(crate) fn watch_alive(&self) -> watch::Receiver<usize> {
        self.alive.subscribe()
    }

    pub(crate) fn config(&self) -> &SchedulerConfig {
        &self.config
    }

    pub(crate) fn reference(&self) -> Option<Arc<ReferenceInfo>> {
        self.residents.borrow().current().cloned()
    }

    pub(crate) fn residents(&self) -> Residents {
        self.residents.borrow().clone()
    }

    pub(crate) fn watch_residents(&self) -> watch::Receiver<Residents> {
        self.residents.subscribe()
    }

    pub(crate) fn queued(&self) -> Amount {
        self.lock().queue.amount()
    }

    pub(crate) fn tokens_per_second(&self) -> Option<f64> {
        together(&self.lock().throughput)
    }

    /// Admits all sequences or none.
    pub(crate) fn submit(self: &Arc<Self>, sequences: Vec<ScoringSequence>) -> Result<Ticket, SubmitError> {
        let cost = sequences.iter().map(cost).fold(0, usize::saturating_add);
        let count = sequences.len();
        // Before the lock: it looks at every token.
        let groups: Vec<_> = sequences.iter().map(Group::of).collect();
        let mut work = self.lock();
        self.check_open()?;
        let sequences = self.with_versions(sequences)?;
        let limit = self.config.max_queue_tokens;
        if cost > limit {
            return Err(SubmitError::TooLarge { tokens: cost, limit });
        }
        let queued_tokens = work.queue.amount().tokens;
        if cost > limit - queued_tokens {
            let retry_after = retry_after(queued_tokens, together(&work.throughput));
            return Err(SubmitError::QueueFull { queued_tokens, limit, retry_after });
        }
        let (reply, receiver) = Reply::new(count);
        if count == 0 {
            return Ok(Ticket::new(None, receiver, Arc::clone(self)));
        }
        let number = work.queue.push(sequences, &groups, &Arc::new(reply), Instant::now());
        self.observe_queue(&work);
        drop(work);
        // All: there may be a batch for each.
        self.wake.notify_all();
        Ok(Ticket::new(Some(number), receiver, Arc::clone(self)))
    }

    /// Removes what still waits of a ticket whose caller left.
    pub(crate) fn cancel(&self, ticket: u64) {
        let mut work = self.lock();
        let cancelled = work.queue.cancel(ticket);
        if cancelled.sequences > 0 {
            self.observe_queue(&work);
            drop(work);
            self.observer.cancelled(cancelled.sequences, cancelled.tokens);
        }
    }

    /// Waits for something to do; `None` once the scheduler drains and nothing waits, or has failed. `holds` says which
    /// versions the thread has a copy of.
    ///
    /// Every model thread holds every version that the queue asks for: one takes work only when all have it, and is dropped
    /// only when it takes no more and nothing waits for it.
    pub(crate) fn next_step(
        &self,
        thread: usize,
        limits: &BatchLimits,
        holds: impl Fn(&Arc<ReferenceInfo>) -> bool,
    ) -> Option<Step> {
        let mut work = self.lock();
        loop {
            if matches!(*self.state.borrow(), SchedulerState::Failed { .. }) {
                return None;
            }
            if let Some(step) = self.change_of_versions(&mut work, thread, &holds) {
                return Some(step);
            }
            let now = Instant::now();
            let waiting = !work.queue.is_empty();
            let next = work.aside.next(thread, now, waiting);
            if let Next::Run { job, paid } = next {
                return Some(Step::Aside { job, paid });
            }
            if waiting {
                break;
            }
            if *self.state.borrow() == SchedulerState::Draining {
                return None;
            }
            work = match next {
                Next::At(then) => self.wake.wait_timeout(work, then - now).unwrap_or_else(PoisonError::into_inner).0,
                _ => self.wake.wait(work).unwrap_or_else(PoisonError::into_inner),
            };
        }
        let batch = work.queue.take_batch(limits);
        self.running[thread].store(batch.len(), Ordering::Relaxed);
        self.observe_queue(&work);
        drop(work);
        for entry in &batch {
            self.observer.queue_wait(entry.since.elapsed());
        }
        Some(Step::Score(batch))
    }

    /// One more sequence of a thread's running batch needs nothing any more.
    pub(crate) fn finished_one(&self, thread: usize) {
        self.running[thread].fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn record(&self, thread: usize, tokens: usize, elapsed: Duration) {
        self.lock().throughput[thread].record(tokens, elapsed);
    }

    /// From now on nothing is admitted and the model threads end when the queue is empty. Jobs beside scoring are dropped.
    pub(crate) fn begin_drain(&self) {
        let mut work = self.lock();
        self.state.send_if_modified(|state| {
            let open = matches!(state, SchedulerState::Loading | SchedulerState::Ready);
            if open {
                *state = SchedulerState::Draining;
            }
            open
        });
        // Dropped when the lock is free again, which tells their callers.
        let _jobs = work.aside.take_all();
        drop(work);
        self.wake.notify_all();
    }

    /// Answers everything that waits with [`ScoreError::Stopped`]; returns how many sequences stay unscored, counting those
    /// of running batches, which cannot be interrupted.
    pub(crate) fn abandon(&self) -> usize {
        let mut work = self.lock();
        let waiting = work.queue.take_all();
        let running: usize = self.running.iter().map(|running| running.load(Ordering::Relaxed)).sum();
        if !waiting.is_empty() {
            self.observe_queue(&work);
        }
        drop(work);
        let unscored = waiting.len() + running;
        waiting.into_iter().for_each(|entry| entry.fail(ScoreError::Stopped));
        unscored
    }

    /// A model thread is at its end. If it is the last one, or one that failed, nothing more will be taken from the queue;
    /// the other threads finish the batches that they have.
    pub(crate) fn close(&self, thread: usize, last: SchedulerState) {
        let mut work = self.lock();
        self.running[thread].store(0, Ordering::Relaxed);
        let alive = *self.alive.borrow() - 1;
        let over = alive == 0 || matches!(last, SchedulerState::Failed { .. });
        self.state.send_if_modified(|state| {
            // What went wrong first stays the reason.
            let ends = over && !matches!(state, SchedulerState::Failed { .. });
            if ends {
                *state = last;
            }
            ends
        });
        self.alive.send_replace(alive);
        // Dropped without a word, which tells whoever waits for it.
        let _ended = over.then(|| (work.arrival.take(), work.aside.take_all()));
        drop(work);
        self.wake.notify_all();
        if over {
            self.abandon();
        }
    }

    fn check_open(&self) -> Result<(), SubmitError> {
        match &*self.state.borrow() {
            SchedulerState::Ready => Ok(()),
            SchedulerState::Loading => Err(SubmitError::Loading),
            SchedulerState::Draining | SchedulerState::Stopped => Err(SubmitError::Draining),
            SchedulerState::Failed { reason } => Err(SubmitError::Failed { reason: Arc::clone(reason) }),
        }
    }

    /// Finds each sequence's version.
    fn with_versions(
        &self,
        sequences: Vec<ScoringSequence>,
    ) -> Result<Vec<(ScoringSequence, Arc<ReferenceInfo>)>, SubmitError> {
        let residents = self.residents.borrow();
        let current = residents.current().ok_or(SubmitError::Loading)?;
        let with_version = |(index, sequence): (usize, ScoringSequence)| {
            let reference = match &sequence.policy_version {
                None => current,
                Some(version) => residents
                    .get(version)
                    .ok_or_else(|| SubmitError::VersionUnavailable { index, policy_version: version.clone() })?,
            };
            let (tokens, limit) = (sequence.token_ids.len(), reference.limits.max_positions);
            if tokens > limit {
                return Err(SubmitError::SequenceTooLong { index, tokens, limit });
            }
            Ok((sequence, Arc::clone(reference)))
        };
        sequences.into_iter().enumerate().map(with_version).collect()
    }

    fn observe_queue(&self, work: &Work) {
        let amount = work.queue.amount();
        self.observer.queue(amount.tokens, amount.sequences);
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("config", &self.config).field("state", &self.state()).finish_non_exhaustive()
    }
}
