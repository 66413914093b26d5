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
use crate::shared::{Shared, Step};
use crate::{BatchObservation, SchedulerState, Scored};

/// Body of a thread. Whatever happens, it ends with a final state and nobody waiting.
pub(crate) fn run<F, E>(shared: &Arc<Shared>, thread: usize, load: F)
where
    F: FnOnce() -> Result<Box<dyn ReferenceModel>, E>,
    E: Display,
{
    let loaded = load_model(load).and_then(|(model, own)| {
        tracing::info!(model = %own.model, device = %own.device, "the reference model is resident");
        Ok((model, shared.loaded(thread, own)?))
    });
    let last = match loaded {
        Ok((model, reference)) => {
            // The model is dropped in here: once the state says so, its memory is free.
            match catch_panic(|| ModelThread::new(shared, thread, reference, model).serve()) {
                Ok(()) => SchedulerState::Stopped,
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

struct ModelThread<'a> {
    shared: &'a Shared,
    /// Which of the model threads this is.
    thread: usize,
    /// The thread's own copies.
    versions: Vec<(Arc<ReferenceInfo>, Box<dyn ReferenceModel>)>,
    backoff: Backoff,
}

impl<'a> ModelThread<'a> {
    fn new(shared: &'a Shared, thread: usize, reference: Arc<ReferenceInfo>, model: Box<dyn ReferenceModel>) -> Self {
        Self { shared, thread, versions: vec![(reference, model)], backoff: Backoff::new(shared.config()) }
    }

    fn serve(&mut self) {
        while let Some(step) = self.next_step() {
            match step {
                Step::Score(batch) => {
                    let started = Instant::now();
                    let forwarded = self.score_batch(batch);
                    self.shared.scored_for(self.thread, started.elapsed(), forwarded);
                }
                Step::Aside { job, paid } => self.run_aside(job, paid),
                Step::Install(info, model) => {
                    self.versions.push((info, model));
                    self.shared.installed();
                }
                Step::Release(info) => {
                    // A destructor that panics must not take the other versions with it.
                    let dropped = catch_panic(|| self.versions.retain(|(version, _)| !Arc::ptr_eq(version, &info)));
                    if let Err(panic) = dropped {
                        tracing::error!(%panic, policy_version = info.policy_version, "dropping old weights panicked");
                    }
                    self.shared.released(&info);
                }
            }
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

    /// Scores a batch; where that fails, its halves, down to the sequence that is to blame. The tokens of the forwards that
    /// did not fail.
    fn score_batch(&mut self, batch: Vec<Entry>) -> usize {
        let mut open = vec![batch];
        let mut forwarded = 0;
        while let Some(mut entries) = open.pop() {
            match self.forward(&entries) {
                Ok((scores, tokens)) => {
                    forwarded += tokens;
                    self.answer(entries, Ok(scores));
                }
                Err(cause) => {
                    if matches!(cause, ModelError::OutOfMemory(_)) && self.save_memory(&entries) {
                        open.push(entries);
                    } else if entries.len() > 1 {
                        tracing::warn!(sequences = entries.len(), %cause, "a batch failed, its halves are scored apart");
                        self.shared.observer.batch_split(entries.len(), &cause);
                        let second = entries.split_off(entries.len() / 2);
                        open.extend([self.still_wanted(second), self.still_wanted(entries)]);
                        open.retain(|half| !half.is_empty());
                    } else {
                        self.answer(entries, Err(cause));
                    }
                }
            }
        }
        forwarded
    }

    /// After a forward that ran out of memory: makes later batches smaller. Whether the same one may fit now because the
    /// model found something to save.
    fn save_memory(&mut self, entries: &[Entry]) -> bool {
        self.shared.observer.out_of_memory();
        let saved = catch_panic(|| self.model_of(entries).is_ok_and(ReferenceModel::save_memory)).unwrap_or(false);
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

    fn answer(&self, batch: Vec<Entry>, result: Result<Vec<TokenScores>, ModelError>) {
        let outcomes: Vec<SequenceOutcome> = match result {
            Ok(scores) => batch.iter().zip(scores).map(|(entry, scores)| scored(entry, scores)).collect(),
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

    /// Scores the entries in one forward; on success there is one [`TokenScores`] for each, and the number of its tokens.
    fn forward(&mut self, entries: &[Entry]) -> Result<(Vec<TokenScores>, usize), ModelError> {
        let started = Instant::now();
        let unshared: usize = entries.iter().map(|entry| entry.sequence.forward_tokens()).sum();
        let mut saved_tokens = 0;
        // The model stays usable after an error by contract; after a panic that is the best assumption there is, and
        // everything else in here is rebuilt for each batch.
        let result = catch_panic(|| {
            let model = self.model_of(entries)?;
            let sequences = entries.iter().map(|entry| &entry.sequence);
            let packed = match model.shares_prefixes() {
                true => PackedBatch::pack_shared(sequences),
                false => PackedBatch::pack(sequences),
            };
            saved_tokens = packed.saved_tokens();
            model.score(&packed)
        });
        let elapsed = started.elapsed();
        let result = match result {
            Ok(result) => result.and_then(|scores| check_count(scores, entries.len())),
            Err(panic) => Err(ModelError::Device(format!("the model panicked: {panic}"))),
        };
        let timing = result.as_ref().map_or(ScoreTiming::default(), |scores| scores.timing);
        if result.is_ok() {
            // As the queue counts: what is shared goes faster.
            self.shared.record(self.thread, unshared, elapsed);
            if self.backoff.scored() {
                self.model_of(entries)?.spend_memory();
            }
        }
        let (tokens, sequences) = (unshared - saved_tokens, entries.len());
        let observation =
            BatchObservation { tokens, saved_tokens, sequences, timing, elapsed, failed: result.is_err() };
        self.shared.observer.batch(&observation);
        result.map(|scores| (scores.sequences, tokens))
    }

    /// The model of the version that these entries were admitted for.
    fn model_of(&mut self, entries: &[Entry]) -> Result<&mut dyn ReferenceModel, ModelError> {
        let wanted = entries.first().map(|entry| &entry.reference);
        let found = self.versions.iter_mut().find(|(info, _)| wanted.is_some_and(|wanted| Arc::ptr_eq(info, wanted)));
        match found {
            Some((_, model)) => Ok(model.as_mut()),
            None => Err(ModelError::Device("the version of the weights is no longer in memory".into())),
        }
    }
}

fn scored(entry: &Entry, scores: TokenScores) -> SequenceOutcome {
    check_shape(&entry.sequence, &scores)?;
    Ok(Scored { scores, reference: Arc::clone(&entry.reference) })
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
