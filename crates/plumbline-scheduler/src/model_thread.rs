//! The threads that own the models: each loads its copy, scores batch after batch, takes new weights, ends.

use std::any::Any;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use plumbline_core::{
    BatchScores, ModelError, PackedBatch, ReferenceInfo, ReferenceModel, ScoreTiming, ScoringSequence, TokenScores,
};

use crate::aside::{Job, ResidentModels};
use crate::backoff::Backoff;
use crate::batching::BatchLimits;
use crate::entry::Entry;
use crate::reply::SequenceOutcome;
use crate::restart::{Held, Load};
use crate::shared::{Shared, Step};
use crate::{BatchObservation, Course, SchedulerState, Scored};

/// Body of a thread. Whatever happens, it ends with a final state and nobody waiting.
pub(crate) fn run<F, E>(shared: &Arc<Shared>, thread: usize, load: F, again: Option<Load>)
where
    F: FnOnce() -> Result<Box<dyn ReferenceModel>, E>,
    E: Display,
{
    let began = Instant::now();
    let loaded = load_model(load).and_then(|(model, own)| {
        tracing::info!(model = %own.model, device = %own.device, "the reference model is resident");
        Ok((Held { model, again }, shared.loaded(thread, own, began.elapsed())?))
    });
    let last = match loaded {
        Ok((model, reference)) => {
            // The model is dropped in here: once the state says so, its memory is free.
            match catch_panic(|| ModelThread::new(shared, thread, reference, model).serve()) {
                Ok(Ok(())) => SchedulerState::Stopped,
                Ok(Err(lost)) => SchedulerState::Failed { reason: lost.into() },
                Err(panic) => SchedulerState::Failed { reason: format!("the model thread panicked: {panic}").into() },
            }
        }
        Err(reason) => SchedulerState::Failed { reason: reason.into() },
    };
    if let SchedulerState::Failed { reason } = &last {
        tracing::error!(%reason, "a model thread ends");
    }
    shared.close(thread, last);
}

/// Loads a model; the reason if that fails or panics.
pub(crate) fn load_model<F, E>(load: F) -> Result<(Box<dyn ReferenceModel>, ReferenceInfo), String>
where
    F: FnOnce() -> Result<Box<dyn ReferenceModel>, E>,
    E: Display,
{
    let loaded = catch_panic(|| {
        load().map(|model| {
            let info = model.info().clone();
            (model, info)
        })
    });
    match loaded {
        Ok(Ok(model)) => Ok(model),
        // The alternate form makes error types with sources (anyhow) print all of them.
        Ok(Err(error)) => Err(format!("{error:#}")),
        Err(panic) => Err(format!("loading panicked: {panic}")),
    }
}

pub(crate) struct ModelThread<'a> {
    pub(crate) shared: &'a Shared,
    /// Which of the model threads this is.
    pub(crate) thread: usize,
    /// The thread's own copies.
    pub(crate) versions: Vec<(Arc<ReferenceInfo>, Box<dyn ReferenceModel>)>,
    /// What can load each of them again.
    pub(crate) again: Vec<Option<Load>>,
    backoff: Backoff,
    /// Batches that panicked since the weights were loaded.
    pub(crate) panics: u32,
    /// Why the thread cannot go on.
    pub(crate) lost: Option<String>,
}

/// How a forward went that has scores.
#[derive(Clone, Copy)]
struct Run {
    started: Instant,
    timing: ScoreTiming,
    tokens: usize,
    sequences: usize,
}

/// Why a forward has no scores.
struct Failure {
    cause: ModelError,
    panicked: bool,
}

impl Failure {
    /// Whether the cause may be the device's state and not the sequence.
    fn may_last(&self) -> bool {
        matches!(self.cause, ModelError::Device(_))
    }
}

impl<'a> ModelThread<'a> {
    fn new(shared: &'a Shared, thread: usize, reference: Arc<ReferenceInfo>, held: Held) -> Self {
        Self {
            shared,
            thread,
            versions: vec![(reference, held.model)],
            again: vec![held.again],
            backoff: Backoff::new(shared.config()),
            panics: 0,
            lost: None,
        }
    }

    /// # Errors
    /// The weights are lost.
    fn serve(&mut self) -> Result<(), String> {
        while let Some(step) = self.next_step() {
            match step {
                Step::Score(batch) => {
                    let started = Instant::now();
                    let forwarded = self.score_batch(batch);
                    self.shared.scored_for(self.thread, started.elapsed(), forwarded);
                    self.restart_if_due();
                    if let Some(reason) = self.lost.take() {
                        return Err(reason);
                    }
                }
                Step::Aside { job, paid } => self.run_aside(job, paid),
                Step::Install(info, Held { model, again }) => {
                    self.versions.push((info, model));
                    self.again.push(again);
                    self.shared.installed();
                }
                Step::Release(info) => {
                    self.release(&info);
                    self.shared.released(&info);
                }
            }
        }
        Ok(())
    }

    fn release(&mut self, info: &Arc<ReferenceInfo>) {
        let Some(index) = self.versions.iter().position(|(version, _)| Arc::ptr_eq(version, info)) else { return };
        self.again.remove(index);
        let version = self.versions.remove(index);
        // A destructor that panics must not take the other versions with it.
        if let Err(panic) = catch_panic(|| drop(version)) {
            tracing::error!(%panic, policy_version = info.policy_version, "dropping old weights panicked");
        }
    }

    fn next_step(&self) -> Option<Step> {
        let holds = |info: &Arc<ReferenceInfo>| self.versions.iter().any(|(version, _)| Arc::ptr_eq(version, info));
        self.shared.next_step(self.thread, &self.limits(), holds)
    }

    fn limits(&self) -> BatchLimits {
        BatchLimits {
            tokens: self.backoff.batch_tokens(),
            sequences: self.shared.config().max_batch_sequences,
            share_prefixes: self.versions.iter().all(|(_, model)| model.shares_prefixes()),
        }
    }

    fn run_aside(&mut self, job: Box<dyn Job>, paid: bool) {
        let started = Instant::now();
        let mut models = ResidentModels::new(self.shared.residents(), &mut self.versions);
        // The job reports its own panics; what is left is the destructor of a result that nobody wants.
        if let Err(panic) = catch_panic(|| job.run(&mut models)) {
            tracing::error!(%panic, "dropping the result of a job beside scoring panicked");
        }
        let elapsed = started.elapsed();
        if paid {
            self.shared.spent_aside(self.thread, elapsed);
        }
        self.shared.observer.aside(elapsed);
    }

    /// Scores a batch; where that fails, its halves, down to the sequence that is to blame. If the model fails everything
    /// from there on, its weights are loaded again first. The tokens of the forwards that did not fail.
    fn score_batch(&mut self, batch: Vec<Entry>) -> usize {
        let mut open = vec![batch];
        let mut forwarded = 0;
        let mut panicked = false;
        // What was alone when the weights were loaded again because of it.
        let mut tried_again = None;
        while let Some(mut entries) = open.pop() {
            match self.forward(&entries) {
                Ok((scores, run)) => {
                    forwarded += run.tokens;
                    self.answer(entries, Ok((scores, run)));
                }
                Err(failure) => {
                    // What is said of it is said in the name of the request whose sequences they are, if it is one.
                    let _whose = span_of(&entries).entered();
                    panicked |= failure.panicked;
                    let cause = &failure.cause;
                    if matches!(cause, ModelError::OutOfMemory(_)) && self.save_memory(&entries) {
                        open.push(entries);
                    } else if entries.len() > 1 {
                        tracing::warn!(sequences = entries.len(), %cause, "a batch failed, its halves are scored apart");
                        self.shared.observer.batch_split(entries.len(), cause);
                        let second = entries.split_off(entries.len() / 2);
                        open.extend([self.still_wanted(second), self.still_wanted(entries)]);
                        open.retain(|half| !half.is_empty());
                    } else if tried_again != alone(&entries) && self.is_the_models_fault(&entries, &failure) {
                        tried_again = alone(&entries);
                        open.push(entries);
                    } else {
                        if let Some(entry) = entries.first().filter(|_| failure.panicked) {
                            self.shared.quarantine(entry.digest);
                        }
                        self.answer(entries, Err(failure.cause));
                    }
                }
            }
        }
        self.panics += u32::from(panicked);
        forwarded
    }

    /// After so many batches that panicked the weights are loaded again, as a precaution.
    fn restart_if_due(&mut self) {
        let limit = self.shared.config().restart_after_panics;
        if self.lost.is_none() && limit > 0 && self.panics >= limit {
            // One that cannot be loaded again is not tried at every batch from now on.
            self.panics = 0;
            self.restart();
        }
    }

    /// Whether a forward failed because the model fails everything by now; then its weights have been loaded again.
    fn is_the_models_fault(&mut self, entries: &[Entry], failure: &Failure) -> bool {
        let Some(entry) = entries.first() else { return false };
        // What is gone is not there after another load either.
        let held = self.model_of(&entry.reference).is_ok();
        failure.may_last() && held && !self.is_healthy(&entry.reference) && self.restart()
    }

    /// After a forward that ran out of memory: makes later batches smaller. Whether the same one may fit now because the
    /// model found something to save.
    fn save_memory(&mut self, entries: &[Entry]) -> bool {
        self.shared.observer.out_of_memory();
        let saved = catch_panic(|| self.model_for(entries).is_ok_and(|model| model.save_memory())).unwrap_or(false);
        if saved {
            tracing::warn!("out of memory: the model saves memory and tries again");
        } else {
            self.backoff.out_of_memory(entries.iter().map(|entry| entry.tokens).sum());
        }
        saved
    }

    /// Leaves out those whose caller left.
    fn still_wanted(&self, entries: Vec<Entry>) -> Vec<Entry> {
        let (abandoned, wanted): (Vec<_>, Vec<_>) = entries.into_iter().partition(Entry::is_abandoned);
        abandoned.iter().for_each(|_| self.shared.finished_one(self.thread));
        wanted
    }

    fn answer(&self, batch: Vec<Entry>, result: Result<(Vec<TokenScores>, Run), ModelError>) {
        let outcomes: Vec<SequenceOutcome> = match result {
            Ok((scores, run)) => batch.iter().zip(scores).map(|(entry, scores)| scored(entry, scores, run)).collect(),
            Err(error) => {
                tracing::error!(sequences = batch.len(), %error, "a forward failed");
                vec![Err(error); batch.len()]
            }
        };
        for (entry, outcome) in batch.into_iter().zip(outcomes) {
            entry.answer(outcome);
            self.shared.finished_one(self.thread);
        }
    }

    /// Scores the entries in one forward; on success there is one [`TokenScores`] for each.
    fn forward(&mut self, entries: &[Entry]) -> Result<(Vec<TokenScores>, Run), Failure> {
        let started = Instant::now();
        let unshared: usize = entries.iter().map(|entry| entry.sequence.forward_tokens()).sum();
        let mut saved_tokens = 0;
        // The model stays usable after an error by contract; after a panic that is the best assumption there is, and
        // everything else in here is rebuilt for each batch.
        let result = catch_panic(|| {
            let model = self.model_for(entries)?;
            let sequences = entries.iter().map(|entry| &entry.sequence);
            let packed = match model.shares_prefixes() {
                true => PackedBatch::pack_shared(sequences),
                false => PackedBatch::pack(sequences),
            };
            saved_tokens = packed.saved_tokens();
            model.score(&packed)
        });
        let elapsed = started.elapsed();
        let panicked = result.is_err();
        let result = match result {
            Ok(result) => result.and_then(|scores| check_count(scores, entries.len())),
            Err(panic) => Err(ModelError::Device(format!("the model panicked: {panic}"))),
        };
        let timing = result.as_ref().map_or(ScoreTiming::default(), |scores| scores.timing);
        if result.is_ok() {
            // As the queue counts: what is shared goes faster.
            self.shared.record(self.thread, unshared, elapsed);
            if self.backoff.scored()
                && let Ok(model) = self.model_for(entries)
            {
                model.spend_memory();
            }
        }
        let (tokens, sequences) = (unshared - saved_tokens, entries.len());
        let observation =
            BatchObservation { tokens, saved_tokens, sequences, timing, elapsed, failed: result.is_err() };
        self.shared.observer.batch(&observation);
        let run = Run { started, timing, tokens, sequences };
        result.map(|scores| (scores.sequences, run)).map_err(|cause| Failure { cause, panicked })
    }

    /// The model of the version that these entries were admitted for.
    fn model_for(&mut self, entries: &[Entry]) -> Result<&mut (dyn ReferenceModel + 'static), ModelError> {
        match entries.first() {
            Some(entry) => self.model_of(&entry.reference),
            None => Err(ModelError::InvalidInput("a batch without sequences".into())),
        }
    }

    /// The thread's copy of a version.
    pub(crate) fn model_of(
        &mut self,
        wanted: &Arc<ReferenceInfo>,
    ) -> Result<&mut (dyn ReferenceModel + 'static), ModelError> {
        match self.versions.iter_mut().find(|(info, _)| Arc::ptr_eq(info, wanted)) {
            Some((_, model)) => Ok(model.as_mut()),
            None => Err(ModelError::Device("the version of the weights is no longer in memory".into())),
        }
    }
}

/// What a batch of one is recognised by.
fn alone(entries: &[Entry]) -> Option<u64> {
    entries.first().map(|entry| entry.digest)
}

/// Whose the entries are in the log; nobody's if they are of several.
fn span_of(entries: &[Entry]) -> tracing::Span {
    match entries {
        [first, rest @ ..] if rest.iter().all(|entry| Arc::ptr_eq(&entry.reply, &first.reply)) => {
            first.reply.span().clone()
        }
        _ => tracing::Span::none(),
    }
}

fn scored(entry: &Entry, scores: TokenScores, run: Run) -> SequenceOutcome {
    check_shape(&entry.sequence, &scores)?;
    let Run { started, timing, tokens, sequences } = run;
    let course = Course { admitted: entry.since, started, timing, tokens, sequences };
    Ok(Scored { scores, reference: Arc::clone(&entry.reference), course })
}

fn check_count(scores: BatchScores, expected: usize) -> Result<BatchScores, ModelError> {
    let found = scores.sequences.len();
    if found == expected {
        Ok(scores)
    } else {
        Err(ModelError::Device(format!("the model answered {found} sequences of a batch of {expected}")))
    }
}

fn check_shape(sequence: &ScoringSequence, scores: &TokenScores) -> Result<(), ModelError> {
    let expected = sequence.scored.len();
    let lengths = [
        ("logprobs", scores.logprobs.len()),
        ("logprobs_in_mode", scores.logprobs_in_mode.len()),
        ("entropy", scores.entropy.len()),
        ("rank", scores.rank.len()),
        ("eos_probability", scores.eos_probability.len()),
    ];
    match lengths.into_iter().find(|(_, found)| *found != expected) {
        Some((name, found)) => {
            Err(ModelError::Device(format!("the model gave {found} values of {name} for {expected} scored tokens")))
        }
        None => Ok(()),
    }
}

/// Runs `f`; a panic becomes its message.
pub(crate) fn catch_panic<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|payload| panic_message(&*payload))
}

fn panic_message(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "no message".to_owned()
    }
}
