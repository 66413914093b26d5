//! What the handles, the tickets and the model threads share.

mod beside;
mod intake;
mod restarts;
mod versions;

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use plumbline_core::ReferenceInfo;
use tokio::sync::watch;

pub(crate) use self::versions::Arrival;
use crate::admission::Admission;
use crate::aside::{Job, Lane, Next};
use crate::batching::BatchLimits;
use crate::digest::Digests;
use crate::entry::{Amount, Entry};
use crate::quarantine::Quarantine;
use crate::queue::Queue;
use crate::residents::Residents;
use crate::restart::Held;
use crate::throughput::{Throughput, together};
use crate::{Class, DropReason, Observer, SchedulerConfig, SchedulerState, ScoreError};

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
    digests: Digests,
}

struct Work {
    queue: Queue,
    admission: Admission,
    quarantine: Quarantine,
    /// How long the last load of the weights took.
    load_time: Duration,
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
    Install(Arc<ReferenceInfo>, Held),
    /// Drop the thread's copy of a version that nothing waits for.
    Release(Arc<ReferenceInfo>),
}

impl Shared {
    /// For so many model threads.
    pub(crate) fn new(config: SchedulerConfig, observer: Arc<dyn Observer>, threads: usize) -> Self {
        let work = Work {
            queue: Queue::default(),
            admission: Admission::new(&config, threads),
            quarantine: Quarantine::default(),
            load_time: Duration::ZERO,
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
            digests: Digests::default(),
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
        work.admission.idle(thread);
        loop {
            if matches!(*self.state.borrow(), SchedulerState::Failed { .. }) {
                return None;
            }
            if let Some(step) = self.change_of_versions(&mut work, thread, &holds) {
                return Some(step);
            }
            let now = Instant::now();
            self.drop_expired(&mut work, now);
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
        let now = Instant::now();
        let budgets = work.admission.budgets(now);
        let batch = work.queue.take_batch(limits, &budgets);
        let mut tokens = [0; 3];
        batch.iter().for_each(|entry| tokens[entry.class.index()] += entry.tokens);
        work.admission.started(thread, tokens, now);
        self.running[thread].store(batch.len(), Ordering::Relaxed);
        self.observe_queue(&work);
        drop(work);
        for entry in &batch {
            self.observer.queue_wait(entry.class, entry.since.elapsed());
        }
        Some(Step::Score(batch))
    }

    /// One more sequence of a thread's running batch needs nothing any more.
    pub(crate) fn finished_one(&self, thread: usize) {
        self.running[thread].fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn record(&self, thread: usize, tokens: usize, elapsed: Duration) {
        let mut work = self.lock();
        work.throughput[thread].record(tokens, elapsed);
        work.admission.record(tokens, elapsed);
    }

    /// From now on nothing is admitted and the model threads end when the queue is empty. Jobs beside scoring are dropped.
    pub(crate) fn begin_drain(&self) {
        let mut work = self.lock();
        self.state.send_if_modified(|state| {
            let open = matches!(state, SchedulerState::Loading | SchedulerState::Ready | SchedulerState::Restarting);
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
        if !waiting.is_empty() {
            let tokens = waiting.iter().map(|entry| entry.tokens).sum();
            self.observer.dropped(DropReason::Stopped, waiting.len(), tokens);
        }
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

    fn observe_queue(&self, work: &Work) {
        let amount = work.queue.amount();
        self.observer.queue(amount.tokens, amount.sequences);
        for class in Class::ALL {
            let amount = work.queue.amount_of(class);
            self.observer.queue_of(class, amount.tokens, amount.sequences);
        }
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
