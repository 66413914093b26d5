//! Who gets in.

use std::time::Duration;

use plumbline_scheduler::{SchedulerConfig, SubmitError};

use crate::support::{MAX_POSITIONS, WIDE, assert_scored, sequence, sequences, start, start_gated};

const NARROW: SchedulerConfig = SchedulerConfig { max_queue_tokens: 10, ..WIDE };

#[test]
fn all_sequences_get_in_or_none() {
    let (scheduler, control) = start_gated(NARROW);
    let plug = scheduler.submit(sequences(&[9])).unwrap();
    assert_eq!(control.started(), [9], "what is being scored no longer waits");
    let waiting = scheduler.submit(sequences(&[4, 2])).unwrap();
    let error = scheduler.submit(sequences(&[1, 4])).unwrap_err();
    let retry_after = Duration::from_secs(1);
    assert_eq!(error, SubmitError::QueueFull { queued_tokens: 6, limit: 10, retry_after }, "nothing is measured yet");
    assert_eq!(scheduler.queued(), (6, 2));
    let fits_exactly = scheduler.submit(sequences(&[4])).unwrap();
    assert_eq!(scheduler.queued(), (10, 3));
    drop(control.open());
    assert_scored(plug, &sequences(&[9]));
    assert_scored(waiting, &sequences(&[4, 2]));
    assert_scored(fits_exactly, &sequences(&[4]));
}

#[test]
fn a_group_and_single_sequences_follow_the_same_rule() {
    let (scheduler, control) = start_gated(NARROW);
    let _plug = scheduler.submit(sequences(&[1])).unwrap();
    control.started();
    let _singles: Vec<_> = (0..10).map(|seed| scheduler.submit(vec![sequence(seed, 1)]).unwrap()).collect();
    assert!(matches!(scheduler.submit(sequences(&[1])), Err(SubmitError::QueueFull { .. })));
    assert!(matches!(scheduler.submit(sequences(&[1, 1])), Err(SubmitError::QueueFull { .. })));
}

#[test]
fn sequences_with_nothing_to_score_fill_the_queue_too() {
    let (scheduler, control) = start_gated(NARROW);
    let _plug = scheduler.submit(sequences(&[1])).unwrap();
    control.started();
    let _empty = scheduler.submit(sequences(&[0; 10])).unwrap();
    assert!(matches!(scheduler.submit(sequences(&[0])), Err(SubmitError::QueueFull { queued_tokens: 10, .. })));
}

#[test]
fn advice_comes_from_the_measured_speed() {
    let config = SchedulerConfig { max_queue_tokens: 10_000, ..WIDE };
    let (scheduler, control) = start_gated(config);
    let first = scheduler.submit(sequences(&[1])).unwrap();
    control.started();
    // Makes the measured time long enough for advice above its lower bound, however fast the machine is.
    std::thread::sleep(Duration::from_millis(20));
    control.release();
    assert_scored(first, &sequences(&[1]));
    let _plug = scheduler.submit(sequences(&[1])).unwrap();
    control.started();
    let speed = scheduler.tokens_per_second().unwrap();
    assert!(speed <= 50.0, "1 token in at least 20 ms: {speed}");
    let _waiting = scheduler.submit(sequences(&[500; 20])).unwrap();
    let told = |work: &[usize]| match scheduler.submit(sequences(work)) {
        Err(SubmitError::QueueFull { retry_after, .. }) => retry_after.as_secs(),
        other => panic!("the queue is full: {other:?}"),
    };
    let first = told(&[500; 6]);
    assert!(first >= 40, "room for 3000 comes with the third batch of 1000 tokens at most 50 a second: {first} s");
    let second = told(&[501; 6]);
    assert!(second >= first + 40 || second == 600, "it comes after the first: {second} s after {first} s");
    assert!(told(&[500; 6]).abs_diff(first) <= 1, "asking again changes nothing");
}

#[test]
fn what_could_never_be_admitted_is_told_apart() {
    let (scheduler, _control) = start(NARROW);
    let error = scheduler.submit(sequences(&[5, 6])).unwrap_err();
    assert_eq!(error, SubmitError::TooLarge { tokens: 11, limit: 10 });
}

#[test]
fn a_sequence_over_the_models_positions_is_refused_by_its_index() {
    let (scheduler, _control) = start(WIDE);
    let fits = sequences(&[MAX_POSITIONS - 1]);
    assert_scored(scheduler.submit(fits.clone()).unwrap(), &fits);
    let error = scheduler.submit(sequences(&[1, MAX_POSITIONS])).unwrap_err();
    assert_eq!(error, SubmitError::SequenceTooLong { index: 1, tokens: MAX_POSITIONS + 1, limit: MAX_POSITIONS });
}
