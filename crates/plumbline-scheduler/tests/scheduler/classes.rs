//! How urgent, whose, and until when.

use std::sync::Arc;
use std::time::{Duration, Instant};

use plumbline_scheduler::{Class, Demand, SchedulerConfig, ScoreError, SubmitError};

use crate::support::{Recorder, WIDE, assert_scored, block_on, sequences, start_gated, start_with, wait};

fn of_run(run: &str) -> Demand {
    Demand { run: run.into(), ..Demand::default() }
}

#[test]
fn the_most_urgent_goes_first_and_the_rest_fills_the_batch() {
    let config = SchedulerConfig { max_batch_tokens: 10, ..WIDE };
    let (scheduler, control) = start_gated(config);
    let plug = scheduler.submit(sequences(&[1])).unwrap();
    control.started();
    let bulk = scheduler.submit_for(sequences(&[4, 3]), &Demand::of(Class::Bulk)).unwrap();
    let standard = scheduler.submit_for(sequences(&[5]), &Demand::of(Class::Standard)).unwrap();
    let urgent = scheduler.submit_for(sequences(&[2]), &Demand::of(Class::Interactive)).unwrap();
    control.release();
    assert_eq!(control.started(), [2, 5], "4 does not fit");
    control.release();
    assert_eq!(control.started(), [4, 3]);
    drop(control.open());
    assert_scored(plug, &sequences(&[1]));
    assert_scored(bulk, &sequences(&[4, 3]));
    assert_scored(standard, &sequences(&[5]));
    assert_scored(urgent, &sequences(&[2]));
}

#[test]
fn bulk_leaves_a_quarter_of_the_queue_to_those_who_wait() {
    let config = SchedulerConfig { max_queue_tokens: 100, ..WIDE };
    let (scheduler, control) = start_gated(config);
    let _plug = scheduler.submit(sequences(&[1])).unwrap();
    control.started();
    let bulk = Demand::of(Class::Bulk);
    let error = scheduler.submit_for(sequences(&[101]), &bulk).unwrap_err();
    assert_eq!(error, SubmitError::TooLarge { tokens: 101, limit: 100 });
    drop(scheduler.submit_for(sequences(&[100]), &bulk).unwrap());
    let _waiting = scheduler.submit_for(sequences(&[70]), &bulk).unwrap();
    assert!(matches!(scheduler.submit_for(sequences(&[6]), &bulk), Err(SubmitError::QueueFull { limit: 75, .. })));
    let _standard = scheduler.submit(sequences(&[30])).unwrap();
    assert!(matches!(scheduler.submit(sequences(&[1])), Err(SubmitError::QueueFull { limit: 100, .. })));
    let _urgent = scheduler.submit_for(sequences(&[100]), &Demand::of(Class::Interactive)).unwrap();
}

#[test]
fn runs_share_a_class_by_tokens() {
    let config = SchedulerConfig { max_batch_sequences: 1, ..WIDE };
    let (scheduler, control) = start_gated(config);
    let _plug = scheduler.submit(sequences(&[1])).unwrap();
    control.started();
    let _greedy: Vec<_> = (0..40).map(|_| scheduler.submit_for(sequences(&[10]), &of_run("a")).unwrap()).collect();
    let _modest: Vec<_> = (0..4).map(|_| scheduler.submit_for(sequences(&[20]), &of_run("b")).unwrap()).collect();
    let order: Vec<usize> = (0..12)
        .map(|_| {
            control.release();
            control.started()[0]
        })
        .collect();
    assert_eq!(order, [10, 20, 10, 10, 20, 10, 10, 20, 10, 10, 20, 10], "20 tokens of each in turn");
}

#[test]
fn less_urgent_work_is_never_starved() {
    let config = SchedulerConfig { max_batch_sequences: 1, ..WIDE };
    let (scheduler, control) = start_gated(config);
    let _plug = scheduler.submit(sequences(&[1])).unwrap();
    control.started();
    let _bulk = scheduler.submit_for(sequences(&[30; 5]), &Demand::of(Class::Bulk)).unwrap();
    let _standard = scheduler.submit_for(sequences(&[10; 200]), &Demand::of(Class::Standard)).unwrap();
    let order: Vec<usize> = (0..150)
        .map(|_| {
            control.release();
            control.started()[0]
        })
        .collect();
    let bulk: usize = order.iter().filter(|tokens| **tokens == 30).sum();
    let all: usize = order.iter().sum();
    let share = bulk as f64 / all as f64;
    assert!((0.08..0.12).contains(&share), "bulk got {bulk} of {all} tokens");
}

#[test]
fn work_past_its_deadline_is_dropped_and_counted() {
    let recorder = Arc::new(Recorder::default());
    let (scheduler, control) = start_with(WIDE, recorder.clone(), true, |_| None);
    let plug = scheduler.submit(sequences(&[1])).unwrap();
    control.started();
    let soon = Demand { deadline: Some(Instant::now() + Duration::from_millis(5)), ..Demand::default() };
    let waits = scheduler.submit_for(sequences(&[2, 3]), &soon).unwrap();
    assert_eq!(wait(waits), Err(ScoreError::DeadlineExceeded));
    assert_eq!(scheduler.queued(), (0, 0));
    assert_eq!(*recorder.late.lock().unwrap(), [(2, 5)]);
    // Nobody waits for this one: the model thread finds that it is late.
    let unwatched = scheduler.submit_for(sequences(&[4]), &soon).unwrap();
    let stays = scheduler.submit(sequences(&[5])).unwrap();
    control.release();
    assert_eq!(control.started(), [5]);
    assert_eq!(*recorder.late.lock().unwrap(), [(2, 5), (1, 4)]);
    control.release();
    assert_scored(plug, &sequences(&[1]));
    assert_scored(stays, &sequences(&[5]));
    assert_eq!(wait(unwatched), Err(ScoreError::DeadlineExceeded));
    assert!(recorder.cancelled.lock().unwrap().is_empty());
}

#[test]
fn an_answer_before_the_deadline_is_an_answer() {
    let (scheduler, control) = start_gated(WIDE);
    let later = Demand { deadline: Some(Instant::now() + Duration::from_secs(3600)), ..Demand::default() };
    let ticket = scheduler.submit_for(sequences(&[2]), &later).unwrap();
    drop(control.open());
    assert_scored(ticket, &sequences(&[2]));
}

/// A model that takes a millisecond for each token, by its word: the clock of this test decides nothing.
#[test]
fn interactive_work_that_would_wait_too_long_is_refused_and_told_when_to_come() {
    let (scheduler, control) = start_gated(WIDE);
    let first = scheduler.submit(sequences(&[20])).unwrap();
    control.started();
    // At least a millisecond for each token, however fast the machine is.
    std::thread::sleep(Duration::from_millis(20));
    control.release();
    assert_scored(first, &sequences(&[20]));
    let urgent = Demand::of(Class::Interactive);
    let running = scheduler.submit_for(sequences(&[10]), &urgent).unwrap();
    control.started();
    let admitted: Vec<_> = (0..100).map_while(|_| scheduler.submit_for(sequences(&[10]), &urgent).ok()).collect();
    assert!(admitted.len() < 5, "{} waiting take more than 2.5 times as long as one", admitted.len());
    let Err(SubmitError::TooSlow { retry_after, estimate, bound }) = scheduler.submit_for(sequences(&[10]), &urgent)
    else {
        panic!("still no room")
    };
    assert!(retry_after >= Duration::from_secs(1) && estimate > bound, "{estimate:?} {bound:?}");
    let _standard = scheduler.submit(sequences(&[500; 10])).unwrap();
    drop(control.open());
    assert_scored(running, &sequences(&[10]));
    block_on(scheduler.drain(Duration::from_secs(300)));
}
