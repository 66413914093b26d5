//! Forwards that fail.

use std::sync::Arc;

use plumbline_core::{BatchScores, ModelError, PackedBatch, TokenScores};
use plumbline_scheduler::{Observer, SchedulerState, ScoreError, SequenceOutcome, SubmitError};

use crate::support::{
    Recorder, WIDE, assert_scored, block_on, expected, score, sequences, start_with, until_dropped, wait,
};

type Fault = Option<Result<BatchScores, ModelError>>;

/// Whether a sequence of this many scored tokens is in the batch.
fn holds(batch: &PackedBatch, tokens: usize) -> bool {
    batch.sequence_targets().iter().any(|range| range.len() == tokens)
}

/// Scores one group in one batch under a fault; its outcomes and what the observer saw.
fn outcomes(
    tokens: &[usize],
    fault: impl FnMut(&PackedBatch) -> Fault + Send + 'static,
) -> (Vec<SequenceOutcome>, Arc<Recorder>) {
    let recorder = Arc::new(Recorder::default());
    let (scheduler, _control) = start_with(WIDE, recorder.clone(), false, fault);
    let outcomes = wait(scheduler.submit(sequences(tokens)).unwrap()).unwrap();
    assert_scored(scheduler.submit(sequences(&[1])).unwrap(), &sequences(&[1]));
    (outcomes, recorder)
}

#[test]
fn a_panic_costs_only_the_sequence_that_causes_it() {
    let (outcomes, recorder) = outcomes(&[2, 3], |batch| {
        assert!(!holds(batch, 3), "three is too many");
        None
    });
    assert_eq!(outcomes[0].as_ref().unwrap().scores, expected(&sequences(&[2, 3])[0]));
    assert_eq!(outcomes[1], Err(ModelError::Device("the model panicked: three is too many".into())));
    assert_eq!(recorder.forwards(), [(5, 2, true), (2, 1, false), (3, 1, true), (1, 1, false)]);
}

#[test]
fn one_bad_sequence_does_not_cost_its_neighbours() {
    for error in [
        ModelError::Numerics("nan in row 4".into()),
        ModelError::OutOfMemory("4 GiB".into()),
        ModelError::InvalidInput("id 9".into()),
        ModelError::Device("an assertion in a kernel".into()),
    ] {
        let cause = error.clone();
        let (outcomes, recorder) = outcomes(&[2, 3, 4], move |batch| holds(batch, 3).then(|| Err(cause.clone())));
        let scores: Vec<_> = outcomes.into_iter().map(|outcome| outcome.map(|scored| scored.scores)).collect();
        let work = sequences(&[2, 3, 4]);
        assert_eq!(scores, [Ok(expected(&work[0])), Err(error.clone()), Ok(expected(&work[2]))]);
        assert_eq!(recorder.forwards()[..4], [(9, 3, true), (2, 1, false), (7, 2, true), (3, 1, true)]);
        assert_eq!(recorder.forwards()[4], (4, 1, false));
        assert_eq!(*recorder.splits.lock().unwrap(), [(3, error.clone()), (2, error)]);
    }
}

/// Whatever sequence is to blame, it alone fails, and the search for it takes no more than two forwards for each halving.
#[test]
fn the_one_to_blame_is_found_by_halving() {
    for bad in 2..=33usize {
        let error = ModelError::Numerics("nan".into());
        let cause = error.clone();
        let tokens: Vec<usize> = (2..=33).collect();
        let (outcomes, recorder) = outcomes(&tokens, move |batch| holds(batch, bad).then(|| Err(cause.clone())));
        for (index, (outcome, sequence)) in outcomes.into_iter().zip(sequences(&tokens)).enumerate() {
            let wanted = if tokens[index] == bad { Err(error.clone()) } else { Ok(expected(&sequence)) };
            assert_eq!(outcome.map(|scored| scored.scores), wanted);
        }
        assert!(recorder.forwards().len() <= 1 + 2 * 5 + 1, "{}", recorder.forwards().len());
    }
}

#[test]
fn a_single_sequence_is_not_tried_twice() {
    let error = ModelError::OutOfMemory("4 GiB".into());
    let cause = error.clone();
    let (outcomes, recorder) = outcomes(&[3], move |batch| holds(batch, 3).then(|| Err(cause.clone())));
    assert_eq!(outcomes, [Err(error)]);
    assert_eq!(recorder.forwards(), [(3, 1, true), (1, 1, false)]);
}

#[test]
fn a_caller_that_left_is_not_scored_alone_after_a_failed_batch() {
    let recorder = Arc::new(Recorder::default());
    let fault = |batch: &PackedBatch| (batch.sequences() > 1).then(|| Err(ModelError::OutOfMemory("4 GiB".into())));
    let (scheduler, control) = start_with(WIDE, recorder.clone(), true, fault);
    let plug = scheduler.submit(sequences(&[1])).unwrap();
    control.started();
    let leaves = scheduler.submit(sequences(&[2])).unwrap();
    let stays = scheduler.submit(sequences(&[3])).unwrap();
    control.release();
    assert_eq!(control.started(), [2, 3]);
    drop(leaves);
    control.release();
    assert_eq!(control.started(), [3]);
    control.release();
    assert_scored(plug, &sequences(&[1]));
    assert_scored(stays, &sequences(&[3]));
    assert!(recorder.cancelled.lock().unwrap().is_empty(), "its work had started");
}

#[test]
fn a_wrong_number_of_answers_is_none() {
    for count in [0, 1, 3] {
        let (outcomes, recorder) = outcomes(&[2, 3], move |batch| {
            let mut scores = score(batch);
            scores.sequences.resize(count, TokenScores::default());
            holds(batch, 3).then_some(Ok(scores))
        });
        assert_eq!(outcomes[0].as_ref().unwrap().scores, expected(&sequences(&[2, 3])[0]), "scored again, alone");
        if count != 1 {
            let error = ModelError::Device(format!("the model answered {count} sequences of a batch of 1"));
            assert_eq!(outcomes[1], Err(error));
        }
        assert_eq!(recorder.forwards()[0], (5, 2, true));
    }
}

#[test]
fn a_wrong_number_of_values_fails_its_sequence() {
    let (outcomes, _) = outcomes(&[2, 3], |batch| {
        let mut scores = score(batch);
        scores.sequences[0].rank.pop();
        holds(batch, 3).then_some(Ok(scores))
    });
    assert_eq!(outcomes[0], Err(ModelError::Device("the model gave 1 values of rank for 2 scored tokens".into())));
    assert_eq!(outcomes[1].as_ref().unwrap().scores, expected(&sequences(&[2, 3])[1]));
}

#[test]
fn a_thread_that_dies_leaves_nobody_waiting() {
    struct Bad;
    impl Observer for Bad {
        fn queue_wait(&self, _: plumbline_scheduler::Class, _: std::time::Duration) {
            panic!("bad observer")
        }
    }
    let (scheduler, control) = start_with(WIDE, Arc::new(Bad), false, |_| None);
    let ticket = scheduler.submit(sequences(&[2])).unwrap();
    assert_eq!(wait(ticket), Err(ScoreError::Stopped));
    assert_eq!(until_dropped(&control.open()), [[0; 0]; 0], "no forward ran");
    block_on(scheduler.drain(std::time::Duration::from_secs(300)));
    let reason: Arc<str> = "the model thread panicked: bad observer".into();
    assert_eq!(scheduler.state(), SchedulerState::Failed { reason: Arc::clone(&reason) });
    assert_eq!(scheduler.submit(sequences(&[2])).unwrap_err(), SubmitError::Failed { reason });
}

#[test]
fn a_thread_that_dies_answers_those_who_wait_behind_its_batch() {
    struct Bad;
    impl Observer for Bad {
        fn batch(&self, _: &plumbline_scheduler::BatchObservation) {
            panic!("bad observer")
        }
    }
    let (scheduler, control) = start_with(WIDE, Arc::new(Bad), true, |_| None);
    let running = scheduler.submit(sequences(&[2])).unwrap();
    control.started();
    let waiting = scheduler.submit(sequences(&[3, 4])).unwrap();
    control.release();
    assert_eq!(wait(running), Err(ScoreError::Stopped));
    assert_eq!(wait(waiting), Err(ScoreError::Stopped));
    assert_eq!(scheduler.queued(), (0, 0));
}
