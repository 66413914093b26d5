//! Several model threads, each with its own copy, over one queue.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use plumbline_core::{ModelError, PackedBatch, ReferenceInfo};
use plumbline_scheduler::{
    BatchObservation, DrainOutcome, NullObserver, Observer, Scheduler, SchedulerConfig, SchedulerState, ScoreError,
    StartError, SubmitError,
};
use proptest::prelude::*;

use crate::support::{
    Control, FakeModel, LoadCopy, Recorder, WIDE, assert_scored_by, block_on, copies_of, expected, first_started, info,
    load_of, sequence, sequences, start_copies, until_dropped, wait,
};

const SINGLES: SchedulerConfig = SchedulerConfig { max_batch_sequences: 1, ..WIDE };

/// Longer than `block_on` is patient: a drain that needs its limit fails the test.
const LONG: Duration = Duration::from_secs(300);

fn of_copies(copies: usize) -> ReferenceInfo {
    let others: Vec<String> = (1..copies).map(|index| format!(",{index}")).collect();
    ReferenceInfo { device: format!("cuda:0{}", others.concat()), weight_bytes: 4 * copies as u64, ..info() }
}

fn null() -> Arc<dyn Observer> {
    Arc::new(NullObserver)
}

#[test]
fn every_thread_takes_a_batch_while_there_is_one() {
    for copies in 1..=3 {
        let (scheduler, controls) = start_copies(SINGLES, null(), copies, true);
        assert_eq!(*scheduler.reference().unwrap(), of_copies(copies));
        assert_eq!(scheduler.residents().weight_bytes(), 4 * copies as u64);
        let work = sequences(&[3; 9]);
        let ticket = scheduler.submit(work.clone()).unwrap();
        // None of them ends its forward, so each of these is of another thread.
        controls.iter().for_each(|control| assert_eq!(control.started(), [3]));
        assert_eq!(scheduler.queued().1, 9 - copies);
        drop(controls);
        assert_scored_by(&of_copies(copies), ticket, &work);
    }
}

/// One submit wakes all threads that are idle.
#[test]
fn idle_threads_all_wake_up_for_one_submit() {
    let (scheduler, controls) = start_copies(SINGLES, null(), 3, true);
    for round in 0..100 {
        let work: Vec<_> = (0..3).map(|number| sequence(round * 3 + number, 4)).collect();
        let ticket = scheduler.submit(work.clone()).unwrap();
        controls.iter().for_each(|control| assert_eq!(control.started(), [4]));
        controls.iter().for_each(Control::release);
        assert_scored_by(&of_copies(3), ticket, &work);
    }
}

#[test]
fn a_free_thread_takes_what_comes_while_another_is_busy() {
    let (scheduler, controls) = start_copies(WIDE, null(), 2, true);
    let first = scheduler.submit(sequences(&[5])).unwrap();
    let (busy, _) = first_started(&controls);
    let second = scheduler.submit(sequences(&[6, 7])).unwrap();
    let free = &controls[1 - busy];
    assert_eq!(free.started(), [6, 7]);
    free.release();
    assert_scored_by(&of_copies(2), second, &sequences(&[6, 7]));
    controls[busy].release();
    assert_scored_by(&of_copies(2), first, &sequences(&[5]));
}

async fn submit_and_check(scheduler: Scheduler, seed: u32) {
    let work: Vec<_> = (0..seed % 4 + 1).map(|n| sequence(seed * 4 + n, (seed * 37 + n * 11) as usize % 90)).collect();
    let outcomes = scheduler.submit(work.clone()).unwrap().wait().await.unwrap();
    let scores: Vec<_> = outcomes.into_iter().map(|outcome| outcome.unwrap().scores).collect();
    assert_eq!(scores, work.iter().map(expected).collect::<Vec<_>>());
}

#[test]
fn two_hundred_callers_get_their_own_numbers_from_several_threads() {
    for copies in [2, 3] {
        let recorder = Arc::new(Recorder::default());
        let (scheduler, controls) = start_copies(WIDE, recorder.clone(), copies, true);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build().unwrap();
        let callers: Vec<_> = (0..200).map(|seed| runtime.spawn(submit_and_check(scheduler.clone(), seed))).collect();
        controls.iter().for_each(|control| drop(control.started()));
        drop(controls);
        block_on(async {
            for caller in callers {
                caller.await.unwrap();
            }
        });
        let forwards = recorder.forwards();
        assert_eq!(forwards.iter().map(|(_, sequences, _)| sequences).sum::<usize>(), 500);
        assert!(forwards.iter().all(|(tokens, sequences, failed)| *tokens <= 1000 && *sequences <= 100 && !failed));
        assert_eq!(recorder.queue.lock().unwrap().last(), Some(&(0, 0)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever comes and however many threads there are: each sequence is scored once and its caller gets its numbers.
    #[test]
    fn random_work_is_answered_by_any_number_of_threads(
        copies in 1usize..=3,
        groups in prop::collection::vec(prop::collection::vec(0usize..40, 0..6), 1..12),
        max_batch_tokens in 1usize..60,
        max_batch_sequences in 1usize..8,
    ) {
        let config = SchedulerConfig { max_batch_tokens, max_batch_sequences, ..WIDE };
        let recorder = Arc::new(Recorder::default());
        let (scheduler, _controls) = start_copies(config, recorder.clone(), copies, false);
        let tickets: Vec<_> = groups.iter().map(|group| scheduler.submit(sequences(group)).unwrap()).collect();
        for (ticket, group) in tickets.into_iter().zip(&groups) {
            assert_scored_by(&of_copies(copies), ticket, &sequences(group));
        }
        block_on(scheduler.drain(LONG));
        let scored: usize = recorder.forwards().iter().map(|(_, sequences, _)| sequences).sum();
        prop_assert_eq!(scored, groups.iter().map(Vec::len).sum::<usize>());
    }
}

#[test]
fn a_drain_is_not_over_while_one_thread_still_scores() {
    let (scheduler, controls) = start_copies(SINGLES, null(), 2, true);
    let tickets: Vec<_> = [3, 4].map(|tokens| scheduler.submit(sequences(&[tokens])).unwrap()).into();
    controls.iter().for_each(|control| drop(control.started()));
    controls[0].release();
    let outcome = block_on(async {
        while scheduler.tokens_per_second().is_none() {
            tokio::task::yield_now().await;
        }
        scheduler.drain(Duration::from_millis(5)).await
    });
    assert_eq!(outcome, DrainOutcome::TimedOut { sequences: 1 });
    assert_eq!(scheduler.state(), SchedulerState::Draining);
    controls[1].release();
    assert_eq!(block_on(scheduler.drain(LONG)), DrainOutcome::Drained);
    for (ticket, tokens) in tickets.into_iter().zip([3, 4]) {
        assert_scored_by(&of_copies(2), ticket, &sequences(&[tokens]));
    }
}

fn start_with(second: LoadCopy) -> (Scheduler, Control) {
    let (first, control) = copies_of("1", 1, false).remove(0);
    (Scheduler::start_copies(WIDE, null(), vec![first, second]).unwrap(), control)
}

fn refused(scheduler: &Scheduler) -> String {
    let Err(StartError::Failed { reason }) = block_on(scheduler.ready()) else { panic!("it must not start") };
    assert_eq!(scheduler.submit(sequences(&[1])).unwrap_err(), SubmitError::Failed { reason: Arc::clone(&reason) });
    assert_eq!(scheduler.reference(), None);
    reason.to_string()
}

#[test]
fn one_load_that_fails_fails_all() {
    let (scheduler, control) = start_with(Box::new(|| Err("cuda:1 is not there".into())));
    assert_eq!(refused(&scheduler), "cuda:1 is not there");
    assert_eq!(until_dropped(&control.open()), [[0; 0]; 0], "the other copy goes too");
    let (scheduler, control) = start_with(Box::new(|| -> Result<_, String> { panic!("boom") }));
    assert_eq!(refused(&scheduler), "loading panicked: boom");
    assert_eq!(until_dropped(&control.open()), [[0; 0]; 0]);
}

#[test]
fn copies_of_different_models_do_not_start() {
    let (model, _other) = FakeModel::new(false, Box::new(|_| None));
    let other = model.with_info(|info| (info.dtype, info.device) = ("bf16".into(), "cuda:1".into()));
    let (scheduler, control) = start_with(load_of(other));
    assert_eq!(refused(&scheduler), "the copies of the model differ: dtype is f32 on cuda:0 and bf16 on cuda:1");
    assert_eq!(until_dropped(&control.open()), [[0; 0]; 0]);
}

#[test]
fn it_is_ready_only_when_all_have_loaded() {
    let (finish, waits) = channel::<()>();
    let (first, _control) = copies_of("1", 1, false).remove(0);
    let (loaded, has_loaded) = channel::<()>();
    let first: LoadCopy = Box::new(move || {
        let model = first();
        drop(loaded);
        model
    });
    let (second, _other) = copies_of("1", 2, false).remove(1);
    let second: LoadCopy = Box::new(move || {
        waits.recv().map_err(|error| error.to_string())?;
        second()
    });
    let scheduler = Scheduler::start_copies(WIDE, null(), vec![first, second]).unwrap();
    assert!(has_loaded.recv().is_err());
    assert_eq!(scheduler.state(), SchedulerState::Loading);
    assert_eq!(scheduler.submit(sequences(&[1])).unwrap_err(), SubmitError::Loading);
    finish.send(()).unwrap();
    assert_eq!(*block_on(scheduler.ready()).unwrap(), of_copies(2));
    let ticket = scheduler.submit(sequences(&[1])).unwrap();
    assert_scored_by(&of_copies(2), ticket, &sequences(&[1]));
}

#[test]
fn nothing_to_load_is_refused() {
    let error = Scheduler::start_copies(WIDE, null(), Vec::<LoadCopy>::new()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}

/// One thread dies: what waits is told, what the other is scoring is answered, and the scheduler has failed.
#[test]
fn a_thread_that_dies_ends_the_others_and_leaves_nobody_waiting() {
    struct Bad;
    impl Observer for Bad {
        fn batch(&self, batch: &BatchObservation) {
            assert_ne!(batch.tokens, 7, "bad observer");
        }
    }
    let (scheduler, controls) = start_copies(SINGLES, Arc::new(Bad), 2, true);
    let doomed = scheduler.submit(sequences(&[7])).unwrap();
    let (dying, _) = first_started(&controls);
    let running = scheduler.submit(sequences(&[5])).unwrap();
    assert_eq!(controls[1 - dying].started(), [5]);
    let waiting = scheduler.submit(sequences(&[3, 4])).unwrap();
    controls[dying].release();
    assert_eq!(wait(doomed), Err(ScoreError::Stopped));
    assert_eq!(wait(waiting), Err(ScoreError::Stopped));
    let SchedulerState::Failed { reason } = scheduler.state() else { panic!("it has failed") };
    assert!(reason.contains("bad observer"), "{reason}");
    assert_eq!(scheduler.submit(sequences(&[2])).unwrap_err(), SubmitError::Failed { reason });
    let unfinished = block_on(scheduler.drain(Duration::from_millis(5)));
    assert_eq!(unfinished, DrainOutcome::TimedOut { sequences: 1 });
    controls[1 - dying].release();
    assert_scored_by(&of_copies(2), running, &sequences(&[5]));
    assert_eq!(block_on(scheduler.drain(LONG)), DrainOutcome::Drained);
    assert!(matches!(scheduler.state(), SchedulerState::Failed { .. }), "it stays so");
    controls.into_iter().for_each(|control| drop(until_dropped(&control.open())));
}

/// A device whose memory runs out gets smaller batches; the others do not.
#[test]
fn each_thread_backs_off_for_itself() {
    let (loads, controls): (Vec<_>, Vec<_>) = (0..2)
        .map(|_| {
            let mut fits = false;
            let fault = move |batch: &PackedBatch| {
                // Each device fails once, with its first batch of more than two.
                let fails = batch.sequences() > 2 && !std::mem::replace(&mut fits, true);
                fails.then(|| Err(ModelError::OutOfMemory("4 GiB".into())))
            };
            let (model, control) = FakeModel::new(true, Box::new(fault));
            (load_of(model), control)
        })
        .unzip();
    let scheduler = Scheduler::start_copies(WIDE, null(), loads).unwrap();
    block_on(scheduler.ready()).unwrap();
    let work = sequences(&[10; 4]);
    let first = scheduler.submit(work.clone()).unwrap();
    let (small, batch) = first_started(&controls);
    assert_eq!(batch, [10; 4]);
    controls[small].release();
    assert_eq!(controls[small].started(), [10; 2], "its halves");
    let second = scheduler.submit(work.clone()).unwrap();
    let large = 1 - small;
    assert_eq!(controls[large].started(), [10; 4], "not smaller on the other");
    drop(controls);
    for ticket in [first, second] {
        let outcomes = wait(ticket).unwrap();
        let scores: Vec<_> = outcomes.into_iter().map(|outcome| outcome.unwrap().scores).collect();
        assert_eq!(scores, work.iter().map(expected).collect::<Vec<_>>());
    }
}
