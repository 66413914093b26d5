//! What the handles, the tickets and the model thread share.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use plumbline_core::{ReferenceInfo, ReferenceModel, ScoringSequence};
use tokio::sync::{oneshot, watch};

use crate::batching::BatchLimits;
use crate::entry::{Amount, Entry, cost};
use crate::group::Group;
use crate::queue::Queue;
use crate::reply::Reply;
use crate::residents::Residents;
use crate::throughput::Throughput;
use crate::{Observer, SchedulerConfig, SchedulerState, ScoreError, SubmitError, Ticket};

pub(crate) struct Shared {
    config: SchedulerConfig,
    pub(crate) observer: Arc<dyn Observer>,
    work: Mutex<Work>,
    /// Signalled when work arrives and when draining begins.
    wake: Condvar,
    /// Written only while `work` is locked, so that whoever holds the lock sees a state that stays.
    state: watch::Sender<SchedulerState>,
    /// Written only while `work` is locked.
    residents: watch::Sender<Residents>,
    /// Held by the one update of the weights that runs.
    pub(crate) updates: Arc<tokio::sync::Mutex<()>>,
    /// Sequences taken from the queue and not answered yet.
    running: AtomicUsize,
}

#[derive(Default)]
struct Work {
    queue: Queue,
    throughput: Throughput,
    /// A loaded version that the model thread has not taken yet.
    arrival: Option<Arrival>,
}

/// A loaded version on its way to the model thread.
pub(crate) struct Arrival {
    pub(crate) model: Box<dyn ReferenceModel>,
    pub(crate) info: Arc<ReferenceInfo>,
    /// Told when new work is scored with it; dropped if it never will be.
    pub(crate) done: oneshot::Sender<()>,
}

/// What the model thread does next.
pub(crate) enum Step {
    /// Score a batch, all of one version.
    Score(Vec<Entry>),
    /// Take a new version.
    Install(Arrival),
    /// Drop a version that nothing waits for.
    Release(Arc<ReferenceInfo>),
}

impl Shared {
    pub(crate) fn new(config: SchedulerConfig, observer: Arc<dyn Observer>) -> Self {
        Self {
            config,
            observer,
            work: Mutex::default(),
            wake: Condvar::new(),
            state: watch::Sender::new(SchedulerState::Loading),
            residents: watch::Sender::default(),
            updates: Arc::default(),
            running: AtomicUsize::new(0),
        }
    }

    pub(crate) fn state(&self) -> SchedulerState {
        self.state.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<SchedulerState> {
        self.state.subscribe()
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
        self.lock().throughput.tokens_per_second()
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
            let retry_after = work.throughput.retry_after(queued_tokens);
            return Err(SubmitError::QueueFull { queued_tokens, limit, retry_after });
        }
        let (reply, receiver) = Reply::new(count);
        if count == 0 {
            return Ok(Ticket::new(None, receiver, Arc::clone(self)));
        }
        let number = work.queue.push(sequences, &groups, &Arc::new(reply), Instant::now());
        self.observe_queue(&work);
        drop(work);
        self.wake.notify_one();
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

    /// The model is resident. Does not undo a drain that began during the load.
    pub(crate) fn open(&self, reference: Arc<ReferenceInfo>) {
        let work = self.lock();
        self.change_residents(&work, |residents| residents.add(reference, self.config.keep_versions));
        self.state.send_if_modified(|state| {
            let loading = *state == SchedulerState::Loading;
            if loading {
                *state = SchedulerState::Ready;
            }
            loading
        });
    }

    /// Waits for something to do; `None` once the scheduler drains and nothing waits.
    pub(crate) fn next_step(&self, limits: &BatchLimits) -> Option<Step> {
        let mut work = self.lock();
        loop {
            if let Some(idle) = self.residents.borrow().leaving().iter().find(|info| !work.queue.needs(info)) {
                return Some(Step::Release(Arc::clone(idle)));
            }
            if let Some(arrival) = work.arrival.take() {
                return Some(Step::Install(arrival));
            }
            if !work.queue.is_empty() {
                break;
            }
            if *self.state.borrow() == SchedulerState::Draining {
                return None;
            }
            work = self.wake.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
        let batch = work.queue.take_batch(limits);
        self.running.store(batch.len(), Ordering::Relaxed);
        self.observe_queue(&work);
        drop(work);
        for entry in &batch {
            self.observer.queue_wait(entry.since.elapsed());
        }
        Some(Step::Score(batch))
    }

    /// Gives the model thread a loaded version; it is dropped if the thread has ended.
    pub(crate) fn hand_over(&self, arrival: Arrival) {
        let mut work = self.lock();
        if matches!(*self.state.borrow(), SchedulerState::Ready | SchedulerState::Draining) {
            work.arrival = Some(arrival);
        }
        drop(work);
        self.wake.notify_all();
    }

    /// The model thread has a version, which is the current one from now on.
    pub(crate) fn installed(&self, info: &Arc<ReferenceInfo>) {
        let work = self.lock();
        self.change_residents(&work, |residents| residents.add(Arc::clone(info), self.config.keep_versions));
        drop(work);
        self.observer.swapped(info);
    }

    /// The model thread has dropped a version.
    pub(crate) fn released(&self, info: &Arc<ReferenceInfo>) {
        let work = self.lock();
        self.change_residents(&work, |residents| residents.left(info));
    }

    /// Takes out old versions until the rest has at most so many bytes, as far as that goes. What is taken out stays in
    /// memory until nothing waits for it.
    pub(crate) fn retire_until(&self, weight_bytes: u64) {
        let work = self.lock();
        self.change_residents(&work, |residents| {
            let kept = |residents: &Residents| residents.kept().iter().map(|info| info.weight_bytes).sum::<u64>();
            while kept(residents) > weight_bytes && residents.retire_oldest() {}
        });
        drop(work);
        self.wake.notify_all();
    }

    /// The lock keeps changes, and what the observer hears of them, in order.
    fn change_residents(&self, _locked: &MutexGuard<'_, Work>, change: impl FnOnce(&mut Residents)) {
        self.residents.send_modify(change);
        self.observer.residents(&self.residents.borrow());
    }

    /// One more sequence of the running batch needs nothing any more.
    pub(crate) fn finished_one(&self) {
        self.running.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn record(&self, tokens: usize, elapsed: Duration) {
        self.lock().throughput.record(tokens, elapsed);
    }

    /// From now on nothing is admitted and the model thread ends when the queue is empty.
    pub(crate) fn begin_drain(&self) {
        let work = self.lock();
        self.state.send_if_modified(|state| {
            let open = matches!(state, SchedulerState::Loading | SchedulerState::Ready);
            if open {
                *state = SchedulerState::Draining;
            }
            open
        });
        drop(work);
        self.wake.notify_all();
    }

    /// Answers everything that waits with [`ScoreError::Stopped`]; returns how many sequences stay unscored, counting those
    /// of the running batch, which cannot be interrupted.
    pub(crate) fn abandon(&self) -> usize {
        let mut work = self.lock();
        let waiting = work.queue.take_all();
        let unscored = waiting.len() + self.running.load(Ordering::Relaxed);
        if !waiting.is_empty() {
            self.observe_queue(&work);
        }
        drop(work);
        waiting.into_iter().for_each(|entry| entry.fail(ScoreError::Stopped));
        unscored
    }

    /// The model thread is at its end: nothing will be scored any more.
    pub(crate) fn close(&self, last: SchedulerState) {
        let mut work = self.lock();
        self.running.store(0, Ordering::Relaxed);
        self.state.send_replace(last);
        // Dropped without a word, which tells whoever waits for it.
        let _arrival = work.arrival.take();
        drop(work);
        self.abandon();
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
