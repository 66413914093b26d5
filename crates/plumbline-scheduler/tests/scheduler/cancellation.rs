//! Callers that leave.

use std::sync::Arc;

use crate::support::{Recorder, WIDE, assert_scored, block_on, sequences, start_with};

#[test]
fn a_caller_that_left_is_never_scored_and_frees_its_place() {
    let recorder = Arc::new(Recorder::default());
    let (scheduler, control) = start_with(WIDE, recorder.clone(), true, |_| None);
    let plug = scheduler.submit(sequences(&[1])).unwrap();
    control.started();
    let leaves = scheduler.submit(sequences(&[20, 21])).unwrap();
    let stays = scheduler.submit(sequences(&[30])).unwrap();
    assert_eq!(scheduler.queued(), (71, 3));
    drop(leaves);
    assert_eq!(scheduler.queued(), (30, 1));
    assert_eq!(*recorder.cancelled.lock().unwrap(), [(2, 41)]);
    assert_eq!(recorder.queue.lock().unwrap().last(), Some(&(30, 1)));
    control.release();
    assert_eq!(control.started(), [30]);
    control.release();
    assert_scored(plug, &sequences(&[1]));
    assert_scored(stays, &sequences(&[30]));
    assert!(control.others().is_empty());
}

#[test]
fn a_dropped_wait_cancels_like_a_dropped_ticket() {
    let recorder = Arc::new(Recorder::default());
    let (scheduler, control) = start_with(WIDE, recorder.clone(), true, |_| None);
    let plug = scheduler.submit(sequences(&[1])).unwrap();
    control.started();
    let ticket = scheduler.submit(sequences(&[20])).unwrap();
    block_on(async {
        let mut waiting = Box::pin(ticket.wait());
        let polled = std::future::poll_fn(|context| std::task::Poll::Ready(waiting.as_mut().poll(context))).await;
        assert!(polled.is_pending());
    });
    assert_eq!(scheduler.queued(), (0, 0));
    assert_eq!(*recorder.cancelled.lock().unwrap(), [(1, 20)]);
    control.release();
    assert_scored(plug, &sequences(&[1]));
}

#[test]
fn only_what_has_not_started_is_cancelled() {
    let recorder = Arc::new(Recorder::default());
    let config = plumbline_scheduler::SchedulerConfig { max_batch_sequences: 2, ..WIDE };
    let (scheduler, control) = start_with(config, recorder.clone(), true, |_| None);
    let plug = scheduler.submit(sequences(&[1])).unwrap();
    control.started();
    let group = scheduler.submit(sequences(&[2, 3, 4])).unwrap();
    control.release();
    assert_eq!(control.started(), [2, 3]);
    drop(group);
    assert_eq!(*recorder.cancelled.lock().unwrap(), [(1, 4)]);
    let next = scheduler.submit(sequences(&[5])).unwrap();
    control.release();
    assert_eq!(control.started(), [5]);
    control.release();
    assert_scored(plug, &sequences(&[1]));
    assert_scored(next, &sequences(&[5]));
}

#[test]
fn a_ticket_dropped_after_its_answer_cancels_nothing() {
    let recorder = Arc::new(Recorder::default());
    let (scheduler, _control) = start_with(WIDE, recorder.clone(), false, |_| None);
    assert_scored(scheduler.submit(sequences(&[2])).unwrap(), &sequences(&[2]));
    assert!(recorder.cancelled.lock().unwrap().is_empty());
}
