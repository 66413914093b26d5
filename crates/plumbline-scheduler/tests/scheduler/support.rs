//! A reference model under the test's control, an observer that keeps everything, and short forms.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use plumbline_core::{
    BatchScores, ModelError, ModelLimits, PackedBatch, Processing, ReferenceInfo, ReferenceModel, ScoreTiming,
    ScoringSequence, TokenScores,
};
use plumbline_scheduler::{
    BatchObservation, Class, DropReason, NullObserver, Observer, Scheduler, SchedulerConfig, ScoreError,
    SequenceOutcome, Ticket,
};

pub(crate) const MAX_POSITIONS: usize = 1000;

/// Turns a deadlock into a failed test. Nothing waits this long when it works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const WIDE: SchedulerConfig = SchedulerConfig {
    max_queue_tokens: 1_000_000,
    max_batch_tokens: 1000,
    max_batch_sequences: 100,
    keep_versions: 2,
    max_weight_bytes: 0,
    aside_share: 0.02,
    max_aside_jobs: 16,
    interactive_stretch: 2.5,
    quarantine: Duration::from_secs(600),
    restart_after_panics: 0,
};

/// What a fake forward does instead of answering; `None` = answer.
pub(crate) type Fault = Box<dyn FnMut(&PackedBatch) -> Option<Result<BatchScores, ModelError>> + Send>;

/// Scores by [`expected`].
pub(crate) struct FakeModel {
    info: ReferenceInfo,
    started: Sender<Vec<usize>>,
    /// `None` = forwards end at once.
    release: Option<Receiver<()>>,
    fault: Fault,
}

/// The test's end of a [`FakeModel`].
pub(crate) struct Control {
    started: Receiver<Vec<usize>>,
    release: Sender<()>,
}

impl FakeModel {
    pub(crate) fn new(gated: bool, fault: Fault) -> (Self, Control) {
        let (started, seen) = channel();
        let (release, released) = channel();
        let model = Self { info: info(), started, release: gated.then_some(released), fault };
        (model, Control { started: seen, release })
    }
}

impl FakeModel {
    /// The same model with other weights.
    pub(crate) fn with_version(self, policy_version: &str) -> Self {
        Self { info: ReferenceInfo { policy_version: policy_version.into(), ..self.info }, ..self }
    }

    /// Another model in one field.
    pub(crate) fn with_info(self, change: impl FnOnce(&mut ReferenceInfo)) -> Self {
        let mut info = self.info;
        change(&mut info);
        Self { info, ..self }
    }
}

impl ReferenceModel for FakeModel {
    fn info(&self) -> &ReferenceInfo {
        &self.info
    }

    fn score(&mut self, batch: &PackedBatch) -> Result<BatchScores, ModelError> {
        // The test may have ended and dropped its ends: then there is nobody to tell or to wait for.
        drop(self.started.send(lengths(batch)));
        if let Some(release) = &self.release {
            let _ = release.recv();
        }
        (self.fault)(batch).unwrap_or_else(|| Ok(score(batch)))
    }
}

impl Control {
    /// Waits for the next forward to start; the number of scored tokens of each of its sequences.
    pub(crate) fn started(&self) -> Vec<usize> {
        self.started.recv_timeout(PATIENCE).expect("a forward starts")
    }

    /// Forwards that have started and were not asked for yet.
    pub(crate) fn others(&self) -> Vec<Vec<usize>> {
        self.started.try_iter().collect()
    }

    /// Lets one forward end.
    pub(crate) fn release(&self) {
        self.release.send(()).expect("the model waits");
    }

    /// Lets the running forward and all later ones end.
    pub(crate) fn open(self) -> Receiver<Vec<usize>> {
        self.started
    }
}

/// The forwards that start until the thread drops the model.
pub(crate) fn until_dropped(started: &Receiver<Vec<usize>>) -> Vec<Vec<usize>> {
    let mut forwards = Vec::new();
    loop {
        match started.recv_timeout(PATIENCE) {
            Ok(forward) => forwards.push(forward),
            Err(RecvTimeoutError::Disconnected) => return forwards,
            Err(RecvTimeoutError::Timeout) => panic!("the model is still there after {forwards:?}"),
        }
    }
}

pub(crate) fn info() -> ReferenceInfo {
    ReferenceInfo {
        model: "fake".into(),
        family: "fake".into(),
        policy_version: "1".into(),
        dtype: "f32".into(),
        head_dtype: "f32".into(),
        device: "cpu".into(),
        parameters: 1,
        weight_bytes: 4,
        eos_token_ids: vec![0],
        limits: ModelLimits { vocab_size: 1_000_000, max_positions: MAX_POSITIONS },
    }
}

/// Starts a scheduler on a model that answers at once, and waits until it is ready.
pub(crate) fn start(config: SchedulerConfig) -> (Scheduler, Control) {
    start_with(config, Arc::new(NullObserver), false, |_| None)
}

/// The same with a model whose forwards wait for [`Control::release`].
pub(crate) fn start_gated(config: SchedulerConfig) -> (Scheduler, Control) {
    start_with(config, Arc::new(NullObserver), true, |_| None)
}

pub(crate) fn start_with(
    config: SchedulerConfig,
    observer: Arc<dyn Observer>,
    gated: bool,
    fault: impl FnMut(&PackedBatch) -> Option<Result<BatchScores, ModelError>> + Send + 'static,
) -> (Scheduler, Control) {
    let (model, control) = FakeModel::new(gated, Box::new(fault));
    let load = move || Ok::<Box<dyn ReferenceModel>, Infallible>(Box::new(model));
    let scheduler = Scheduler::start(config, observer, load).unwrap();
    block_on(scheduler.ready()).unwrap();
    (scheduler, control)
}

/// Starts a scheduler on several copies of a model, on devices `cuda:0` and so on, and waits until it is ready.
pub(crate) fn start_copies(
    config: SchedulerConfig,
    observer: Arc<dyn Observer>,
    copies: usize,
    gated: bool,
) -> (Scheduler, Vec<Control>) {
    let (loads, controls): (Vec<_>, Vec<_>) = copies_of("1", copies, gated).into_iter().unzip();
    let scheduler = Scheduler::start_copies(config, observer, loads).unwrap();
    block_on(scheduler.ready()).unwrap();
    (scheduler, controls)
}

/// What loads the copies of a version.
pub(crate) fn copies_of(version: &str, copies: usize, gated: bool) -> Vec<(LoadCopy, Control)> {
    (0..copies)
        .map(|index| {
            let (model, control) = FakeModel::new(gated, Box::new(|_| None));
            let model = model.with_version(version).with_info(|info| info.device = format!("cuda:{index}"));
            (load_of(model), control)
        })
        .collect()
}

/// A load of one copy.
pub(crate) type LoadCopy = Box<dyn FnOnce() -> Result<Box<dyn ReferenceModel>, String> + Send>;

pub(crate) fn load_of(model: impl ReferenceModel + 'static) -> LoadCopy {
    Box::new(move || Ok(Box::new(model)))
}

/// Waits for the next forward on any copy; which one, and what is in it.
pub(crate) fn first_started(controls: &[Control]) -> (usize, Vec<usize>) {
    let patience = std::time::Instant::now() + PATIENCE;
    loop {
        for (index, control) in controls.iter().enumerate() {
            if let Ok(forward) = control.started.try_recv() {
                return (index, forward);
            }
        }
        assert!(std::time::Instant::now() < patience, "a forward starts");
        std::thread::yield_now();
    }
}

/// A sequence with `tokens` tokens to score, recognisable by `seed`.
pub(crate) fn sequence(seed: u32, tokens: usize) -> ScoringSequence {
    let token_ids = (0..=tokens as u32).map(|position| seed * 1000 + position * 7 % 13).collect();
    ScoringSequence { processing: Processing::at_temperature(0.5), ..ScoringSequence::all_tokens(token_ids) }
}

pub(crate) fn sequences(tokens: &[usize]) -> Vec<ScoringSequence> {
    tokens.iter().enumerate().map(|(seed, tokens)| sequence(seed as u32, *tokens)).collect()
}

/// The fake model's answer, computed from the sequence alone.
pub(crate) fn expected(sequence: &ScoringSequence) -> TokenScores {
    let mut scores = TokenScores::default();
    for index in sequence.scored.clone() {
        push(
            &mut scores,
            sequence.token_ids[index - 1],
            sequence.token_ids[index],
            index as u32 - 1,
            sequence.processing.temperature,
        );
    }
    scores
}

/// The same from a packed batch.
pub(crate) fn score(batch: &PackedBatch) -> BatchScores {
    let score_one = |range: &std::ops::Range<usize>| {
        let mut scores = TokenScores::default();
        for target in &batch.targets()[range.clone()] {
            let (previous, position) = (batch.token_ids()[target.row], batch.position_ids()[target.row]);
            push(&mut scores, previous, target.token, position, target.temperature);
        }
        scores
    };
    let timing = ScoreTiming { forward: Duration::from_millis(2), head: Duration::from_millis(1) };
    BatchScores { sequences: batch.sequence_targets().iter().map(score_one).collect(), timing }
}

fn push(scores: &mut TokenScores, previous: u32, token: u32, position: u32, temperature: f64) {
    let logprob = -f64::from(previous * 3 + token) / 7.0;
    scores.logprobs.push(logprob);
    scores.logprobs_in_mode.push(logprob / temperature);
    scores.entropy.push(f64::from(position));
    scores.rank.push(token);
    scores.eos_probability.push(0.0);
}

fn lengths(batch: &PackedBatch) -> Vec<usize> {
    batch.sequence_targets().iter().map(ExactSizeIterator::len).collect()
}

pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("the future resolves") })
}

pub(crate) fn wait(ticket: Ticket) -> Result<Vec<SequenceOutcome>, ScoreError> {
    block_on(ticket.wait())
}

/// Waits for a ticket and insists on the right numbers in the right order.
pub(crate) fn assert_scored(ticket: Ticket, sequences: &[ScoringSequence]) {
    assert_scored_by(&info(), ticket, sequences);
}

/// The same of any model.
pub(crate) fn assert_scored_by(reference: &ReferenceInfo, ticket: Ticket, sequences: &[ScoringSequence]) {
    let outcomes = wait(ticket).unwrap();
    assert_eq!(outcomes.len(), sequences.len());
    for (outcome, sequence) in outcomes.into_iter().zip(sequences) {
        let scored = outcome.unwrap();
        assert_eq!(scored.scores, expected(sequence));
        assert_eq!(*scored.reference, *reference);
    }
}

/// Keeps all that it is told.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) queue: Mutex<Vec<(usize, usize)>>,
    pub(crate) waits: Mutex<Vec<Duration>>,
    pub(crate) batches: Mutex<Vec<BatchObservation>>,
    pub(crate) cancelled: Mutex<Vec<(usize, usize)>>,
    pub(crate) late: Mutex<Vec<(usize, usize)>>,
    pub(crate) splits: Mutex<Vec<(usize, ModelError)>>,
    pub(crate) out_of_memory: AtomicUsize,
}

impl Recorder {
    /// (tokens, sequences, failed) of each forward.
    pub(crate) fn forwards(&self) -> Vec<(usize, usize, bool)> {
        self.batches.lock().unwrap().iter().map(|batch| (batch.tokens, batch.sequences, batch.failed)).collect()
    }
}

impl Observer for Recorder {
    fn queue(&self, tokens: usize, sequences: usize) {
        self.queue.lock().unwrap().push((tokens, sequences));
    }

    fn queue_wait(&self, _: Class, wait: Duration) {
        self.waits.lock().unwrap().push(wait);
    }

    fn batch(&self, batch: &BatchObservation) {
        self.batches.lock().unwrap().push(*batch);
    }

    fn out_of_memory(&self) {
        self.out_of_memory.fetch_add(1, Ordering::Relaxed);
    }

    fn dropped(&self, reason: DropReason, sequences: usize, tokens: usize) {
        match reason {
            DropReason::Disconnected => self.cancelled.lock().unwrap().push((sequences, tokens)),
            DropReason::Deadline => self.late.lock().unwrap().push((sequences, tokens)),
            DropReason::Stopped => {}
        }
    }

    fn batch_split(&self, sequences: usize, cause: &ModelError) {
        self.splits.lock().unwrap().push((sequences, cause.clone()));
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorder")
    }
}
