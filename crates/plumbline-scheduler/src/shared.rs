//! What the handles, the tickets and the model thread share.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use plumbline_core::{ReferenceInfo, ScoringSequence};
use tokio::sync::watch;

use crate::queue::{Amount, Entry, Queue, cost};
use crate::reply::Reply;
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
    reference: OnceLock<Arc<ReferenceInfo>>,
    /// Sequences taken from the queue and not answered yet.
    running: AtomicUsize,
}

#[derive(Default)]
struct Work {
    queue: Queue,
    throughput: Throughput,
}

impl Shared {
    pub(crate) fn new(config: SchedulerConfig, observer: Arc<dyn Observer>) -> Self {
        Self {
            config,
            observer,
            work: Mutex::default(),
            wake: Condvar::new(),
            state: watch::Sender::new(SchedulerState::Loading),
            reference: OnceLock::new(),
            running: AtomicUsize::new(0),
        }
    }

    pub(crate) fn state(&self) -> SchedulerState {
        self.state.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<SchedulerState> {
        self.state.subscribe()
    }

    pub(crate) fn reference(&self) -> Option<&Arc<ReferenceInfo>> {
        self.reference.get()
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
        let mut work = self.lock();
        self.check_open()?;
        self.check_length(&sequences)?;
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
        let number = work.queue.push(sequences, &Arc::new(reply), Instant::now());
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
        let _work = self.lock();
        self.reference.get_or_init(|| reference);
        self.state.send_if_modified(|state| {
            let loading = *state == SchedulerState::Loading;
            if loading {
                *state = SchedulerState::Ready;
            }
            loading
        });
    }

    /// Waits for work and takes the next batch; `None` once the scheduler drains and nothing waits.
    pub(crate) fn next_batch(&self) -> Option<Vec<Entry>> {
        let mut work = self.lock();
        while work.queue.is_empty() {
            if *self.state.borrow() == SchedulerState::Draining {
                return None;
            }
            work = self.wake.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
        let batch = work.queue.take_batch(&self.config);
        self.running.store(batch.len(), Ordering::Relaxed);
        self.observe_queue(&work);
        drop(work);
        for entry in &batch {
            self.observer.queue_wait(entry.since.elapsed());
        }
        Some(batch)
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
        let work = self.lock();
        self.running.store(0, Ordering::Relaxed);
        self.state.send_replace(last);
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

    fn check_length(&self, sequences: &[ScoringSequence]) -> Result<(), SubmitError> {
        let Some(reference) = self.reference() else { return Err(SubmitError::Loading) };
        let limit = reference.limits.max_positions;
        match sequences.iter().position(|sequence| sequence.token_ids.len() > limit) {
            Some(index) => {
                let tokens = sequences[index].token_ids.len();
                Err(SubmitError::SequenceTooLong { index, tokens, limit })
            }
            None => Ok(()),
        }
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
