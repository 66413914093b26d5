//! The orderly end.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use plumbline_core::{ModelError, PackedBatch, ReferenceModel};
use plumbline_scheduler::{
    DrainOutcome, NullObserver, Scheduler, SchedulerConfig, SchedulerState, ScoreError, StartError, SubmitError,
};

use crate::support::{
    FakeModel, WIDE, assert_scored, block_on, sequences, start, start_gated, start_with, until_dropped, wait,
};

/// Longer than `block_on` is patient: a drain that needs its limit fails the test.
const LONG: Duration = Duration::from_secs(300);

#[test]
fn answers_everything_admitted_and_refuses_new_work() {
    let config = SchedulerConfig { max_batch_tokens: 4, ..WIDE };
    let (scheduler, control) = start_gated(config);
    let tickets: Vec<_> = (0..6).map(|_| scheduler.submit(sequences(&[3])).unwrap()).collect();
    control.started();
    let draining = {
        let scheduler = scheduler.clone();
        std::thread::spawn(move || block_on(scheduler.drain(LONG)))
    };
    while scheduler.state() == SchedulerState::Ready {
        std::thread::yield_now();
    }
    assert_eq!(scheduler.state(), SchedulerState::Draining);
    assert_eq!(scheduler.submit(sequences(&[1])).unwrap_err(), SubmitError::Draining);
    let started = control.open();
    assert_eq!(draining.join().unwrap(), DrainOutcome::Drained);
    assert_eq!(scheduler.state(), SchedulerState::Stopped);
    assert_eq!(until_dropped(&started).len(), 5, "the other five batches ran and the model is gone");
    tickets.into_iter().for_each(|ticket| assert_scored(ticket, &sequences(&[3])));
    assert_eq!(scheduler.submit(sequences(&[1])).unwrap_err(), SubmitError::Draining);
    assert_eq!(block_on(scheduler.ready()), Err(StartError::Stopped));
    assert_eq!(block_on(scheduler.drain(LONG)), DrainOutcome::Drained, "a second drain has nothing to do");
}

#[test]
fn an_idle_scheduler_drains_at_once() {
    let (scheduler, _control) = start(WIDE);
    assert_eq!(block_on(scheduler.drain(LONG)), DrainOutcome::Drained);
    assert_eq!(scheduler.state(), SchedulerState::Stopped);
}

#[test]
fn past_its_limit_what_waits_is_told_and_counted() {
    let config = SchedulerConfig { max_batch_sequences: 2, ..WIDE };
    let (scheduler, control) = start_gated(config);
    let running = scheduler.submit(sequences(&[1])).unwrap();
    control.started();
    let waiting = scheduler.submit(sequences(&[2, 3, 4])).unwrap();
    let outcome = block_on(scheduler.drain(Duration::from_millis(5)));
    assert_eq!(outcome, DrainOutcome::TimedOut { sequences: 4 });
    assert_eq!(wait(waiting), Err(ScoreError::Stopped));
    assert_eq!(scheduler.queued(), (0, 0));
    assert_eq!(scheduler.state(), SchedulerState::Draining, "the running forward cannot be interrupted");
    control.release();
    assert_scored(running, &sequences(&[1]));
    assert_eq!(block_on(scheduler.drain(LONG)), DrainOutcome::Drained);
    assert!(control.others().is_empty());
}

#[test]
fn past_its_limit_only_the_unanswered_part_of_a_split_batch_counts() {
    let fault = |batch: &PackedBatch| (batch.sequences() > 1).then(|| Err(ModelError::OutOfMemory("4 GiB".into())));
    let (scheduler, control) = start_with(WIDE, Arc::new(NullObserver), true, fault);
    let plug = scheduler.submit(sequences(&[1])).unwrap();
    control.started();
    let group = scheduler.submit(sequences(&[2, 3, 4])).unwrap();
    for forward in [&[2, 3, 4][..], &[2], &[3, 4], &[3]] {
        control.release();
        assert_eq!(control.started(), forward);
    }
    let outcome = block_on(scheduler.drain(Duration::from_millis(5)));
    assert_eq!(outcome, DrainOutcome::TimedOut { sequences: 2 }, "3 is running and 4 comes after it");
    drop(control.open());
    assert_scored(plug, &sequences(&[1]));
    assert_scored(group, &sequences(&[2, 3, 4]));
}

#[test]
fn a_drain_during_the_load_does_not_wait_for_it_and_the_model_never_opens() {
    let (finish, load_waits) = channel::<()>();
    let (model, control) = FakeModel::new(false, Box::new(|_| None));
    let load = move || {
        load_waits.recv().map_err(|error| error.to_string())?;
        Ok::<Box<dyn ReferenceModel>, String>(Box::new(model))
    };
    let scheduler = Scheduler::start(WIDE, Arc::new(NullObserver), load).unwrap();
    assert_eq!(block_on(scheduler.drain(LONG)), DrainOutcome::Drained);
    assert_eq!(block_on(scheduler.drain(LONG)), DrainOutcome::Drained);
    assert_eq!(scheduler.state(), SchedulerState::Draining);
    assert_eq!(block_on(scheduler.ready()), Err(StartError::Stopped));
    assert_eq!(scheduler.submit(sequences(&[1])).unwrap_err(), SubmitError::Draining);
    finish.send(()).unwrap();
    assert_eq!(until_dropped(&control.open()), [[0; 0]; 0]);
    assert_eq!(block_on(scheduler.drain(LONG)), DrainOutcome::Drained);
    assert_eq!(scheduler.state(), SchedulerState::Stopped);
}
