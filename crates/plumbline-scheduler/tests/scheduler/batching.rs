//! When a forward starts and what is in it.

use std::sync::Arc;
use std::time::Duration;

use plumbline_core::ScoreTiming;
use plumbline_scheduler::SchedulerConfig;

use crate::support::{Recorder, WIDE, assert_scored, block_on, sequence, sequences, start, start_gated, start_with};

#[test]
fn an_idle_model_starts_at_once_with_what_is_there() {
    let (scheduler, control) = start_gated(WIDE);
    let work = sequences(&[3]);
    let ticket = scheduler.submit(work.clone()).unwrap();
    assert_eq!(control.started(), [3], "nothing else comes, nothing is waited for");
    assert_eq!(scheduler.queued(), (0, 0));
    control.release();
    assert_scored(ticket, &work);
}

#[test]
fn batches_grow_while_the_model_is_busy() {
    let (scheduler, control) = start_gated(WIDE);
    let first = scheduler.submit(sequences(&[1])).unwrap();
    assert_eq!(control.started(), [1]);
    let later: Vec<_> = (0..5)
        .map(|seed| {
            let work = vec![sequence(seed, 10 + seed as usize)];
            (scheduler.submit(work.clone()).unwrap(), work)
        })
        .collect();
    assert_eq!(scheduler.queued(), (60, 5));
    control.release();
    assert_eq!(control.started(), [10, 11, 12, 13, 14]);
    assert_eq!(scheduler.queued(), (0, 0));
    control.release();
    assert_scored(first, &sequences(&[1]));
    later.into_iter().for_each(|(ticket, work)| assert_scored(ticket, &work));
}

#[test]
fn a_batch_ends_at_the_token_budget_and_at_the_number_of_sequences() {
    let config = SchedulerConfig { max_batch_tokens: 10, max_batch_sequences: 3, ..WIDE };
    let (scheduler, control) = start_gated(config);
    let plug = scheduler.submit(sequences(&[1])).unwrap();
    control.started();
    let work = sequences(&[4, 6, 1, 9, 2, 1, 1, 1, 1]);
    let ticket = scheduler.submit(work.clone()).unwrap();
    for batch in [&[4, 6][..], &[1, 9], &[2, 1, 1], &[1, 1]] {
        control.release();
        assert_eq!(control.started(), batch);
    }
    control.release();
    assert_scored(plug, &sequences(&[1]));
    assert_scored(ticket, &work);
}

#[test]
fn a_sequence_above_the_budget_is_scored_alone_and_whole() {
    let config = SchedulerConfig { max_batch_tokens: 10, ..WIDE };
    let (scheduler, control) = start_gated(config);
    let work = sequences(&[2, 50, 3, 4]);
    let ticket = scheduler.submit(work.clone()).unwrap();
    for batch in [&[2][..], &[50], &[3, 4]] {
        assert_eq!(control.started(), batch);
        control.release();
    }
    assert_scored(ticket, &work);
}

#[test]
fn sequences_with_nothing_to_score_are_answered_with_nothing() {
    let (scheduler, _control) = start(WIDE);
    let work = sequences(&[0, 2, 0]);
    assert_scored(scheduler.submit(work.clone()).unwrap(), &work);
    assert_scored(scheduler.submit(Vec::new()).unwrap(), &[]);
}

#[test]
fn the_observer_sees_every_change_every_wait_and_every_forward() {
    let recorder = Arc::new(Recorder::default());
    let (scheduler, control) = start_with(WIDE, recorder.clone(), true, |_| None);
    assert_eq!(scheduler.tokens_per_second(), None);
    let plug = scheduler.submit(sequences(&[1])).unwrap();
    control.started();
    let group = scheduler.submit(sequences(&[5, 6])).unwrap();
    control.release();
    control.started();
    control.release();
    assert_scored(plug, &sequences(&[1]));
    assert_scored(group, &sequences(&[5, 6]));
    assert_eq!(*recorder.queue.lock().unwrap(), [(1, 1), (0, 0), (11, 2), (0, 0)]);
    assert_eq!(recorder.waits.lock().unwrap().len(), 3);
    assert_eq!(recorder.forwards(), [(1, 1, false), (11, 2, false)]);
    let timing = ScoreTiming { forward: Duration::from_millis(2), head: Duration::from_millis(1) };
    assert!(recorder.batches.lock().unwrap().iter().all(|batch| batch.timing == timing));
    assert!(recorder.cancelled.lock().unwrap().is_empty());
    assert!(scheduler.tokens_per_second().unwrap() > 0.0);
    block_on(scheduler.drain(Duration::from_secs(30)));
}
