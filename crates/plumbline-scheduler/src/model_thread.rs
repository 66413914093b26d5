//! The one thread that owns the model: load, score batch after batch, end.

use std::any::Any;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use plumbline_core::{
    BatchScores, ModelError, PackedBatch, ReferenceInfo, ReferenceModel, ScoreTiming, ScoringSequence, TokenScores,
};

use crate::queue::Entry;
use crate::reply::SequenceOutcome;
use crate::shared::Shared;
use crate::{BatchObservation, SchedulerState, Scored};

/// Body of the thread. Whatever happens, it ends with a final state and nobody waiting.
pub(crate) fn run<F, E>(shared: &Arc<Shared>, load: F)
where
    F: FnOnce() -> Result<Box<dyn ReferenceModel>, E>,
    E: Display,
{
    let last = match load_model(load) {
        Ok((model, reference)) => {
            tracing::info!(model = %reference.model, device = %reference.device, "the reference model is resident");
            shared.open(Arc::clone(&reference));
            // The model is dropped in here: once the state says so, its memory is free.
            match catch_panic(|| ModelThread { shared, model, reference }.serve()) {
                Ok(()) => SchedulerState::Stopped,
                Err(panic) => SchedulerState::Failed { reason: format!("the model thread panicked: {panic}").into() },
            }
        }
        Err(reason) => SchedulerState::Failed { reason: reason.into() },
    };
    if let SchedulerState::Failed { reason } = &last {
        tracing::error!(%reason, "the model thread ends");
    }
    shared.close(last);
}

fn load_model<F, E>(load: F) -> Result<(Box<dyn ReferenceModel>, Arc<ReferenceInfo>), String>
where
    F: FnOnce() -> Result<Box<dyn ReferenceModel>, E>,
    E: Display,
{
    let loaded = catch_panic(|| {
        load().map(|model| {
            let reference = Arc::new(model.info().clone());
            (model, reference)
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
    model: Box<dyn ReferenceModel>,
    reference: Arc<ReferenceInfo>,
}

impl ModelThread<'_> {
    fn serve(&mut self) {
        while let Some(batch) = self.shared.next_batch() {
            self.score_batch(batch);
        }
    }

    fn score_batch(&mut self, batch: Vec<Entry>) {
        match self.forward(&batch) {
            Err(cause) if batch.len() > 1 && may_succeed_alone(&cause) => {
                tracing::warn!(sequences = batch.len(), %cause, "a batch failed, its sequences are scored one by one");
                self.shared.observer.batch_split(batch.len(), &cause);
                for entry in batch {
                    self.score_alone(entry);
                }
            }
            result => self.answer(batch, result),
        }
    }

    fn score_alone(&mut self, entry: Entry) {
        if entry.is_abandoned() {
            self.shared.finished_one();
        } else {
            let batch = vec![entry];
            let result = self.forward(&batch);
            self.answer(batch, result);
        }
    }

    fn answer(&self, batch: Vec<Entry>, result: Result<Vec<TokenScores>, ModelError>) {
        let outcomes: Vec<SequenceOutcome> = match result {
            Ok(scores) => {
                batch.iter().zip(scores).map(|(entry, scores)| self.scored(&entry.sequence, scores)).collect()
            }
            Err(error) => {
                tracing::error!(sequences = batch.len(), %error, "a forward failed");
                vec![Err(error); batch.len()]
            }
        };
        for (entry, outcome) in batch.into_iter().zip(outcomes) {
            entry.answer(outcome);
            self.shared.finished_one();
        }
    }

    /// Scores the entries in one forward; on success there is one [`TokenScores`] for each.
    fn forward(&mut self, entries: &[Entry]) -> Result<Vec<TokenScores>, ModelError> {
        let started = Instant::now();
        // The model stays usable after an error by contract; after a panic that is the best assumption there is, and
        // everything else in here is rebuilt for each batch.
        let result = catch_panic(|| {
            let packed = PackedBatch::pack(entries.iter().map(|entry| &entry.sequence));
            self.model.score(&packed)
        });
        let elapsed = started.elapsed();
        let result = match result {
            Ok(result) => result.and_then(|scores| check_count(scores, entries.len())),
            Err(panic) => Err(ModelError::Device(format!("the model panicked: {panic}"))),
        };
        let tokens = entries.iter().map(|entry| entry.sequence.forward_tokens()).sum();
        let timing = result.as_ref().map_or(ScoreTiming::default(), |scores| scores.timing);
        if result.is_ok() {
            self.shared.record(tokens, elapsed);
        }
        let observation =
            BatchObservation { tokens, sequences: entries.len(), timing, elapsed, failed: result.is_err() };
        self.shared.observer.batch(&observation);
        result.map(|scores| scores.sequences)
    }

    fn scored(&self, sequence: &ScoringSequence, scores: TokenScores) -> SequenceOutcome {
        check_shape(sequence, &scores)?;
        Ok(Scored { scores, reference: Arc::clone(&self.reference) })
    }
}

/// Whether one sequence or the size of the batch may be to blame, so that its neighbours need not suffer.
fn may_succeed_alone(error: &ModelError) -> bool {
    match error {
        ModelError::OutOfMemory(_) | ModelError::Numerics(_) | ModelError::InvalidInput(_) => true,
        ModelError::Device(_) => false,
    }
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
        ("logprobs_at_temperature", scores.logprobs_at_temperature.len()),
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
fn catch_panic<T>(f: impl FnOnce() -> T) -> Result<T, String> {
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
