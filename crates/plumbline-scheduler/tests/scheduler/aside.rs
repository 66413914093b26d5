//! Small jobs between the batches.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use plumbline_core::{PackedBatch, ReferenceModel, ScoringSequence};
use plumbline_scheduler::{
    AsideError, AsideTicket, BatchObservation, Models, NullObserver, Observer, Scheduler, SchedulerConfig,
};

use crate::support::{
    FakeModel, PATIENCE, WIDE, assert_scored, block_on, expected, first_started, info, sequence, sequences, start,
    start_copies, start_gated, start_with,
};

const SINGLES: SchedulerConfig = SchedulerConfig { max_batch_sequences: 1, ..WIDE };

fn done<T>(ticket: Result<AsideTicket<T>, AsideError>) -> Result<T, AsideError> {
    block_on(ticket.unwrap().wait())
}

fn versions(models: &dyn Models) -> Vec<String> {
    models.versions().iter().map(|info| info.policy_version.clone()).collect()
}

/// A job that has begun when the first end hears of it, and ends when the second one goes.
fn held_job(scheduler: &Scheduler) -> (AsideTicket<()>, impl FnOnce()) {
    let (begun, has_begun) = channel::<()>();
    let (go_on, may_go_on) = channel::<()>();
    let ticket = scheduler
        .aside(0, move |_| {
            begun.send(()).unwrap();
            let _ = may_go_on.recv();
        })
        .unwrap();
    has_begun.recv_timeout(PATIENCE).expect("the job begins");
    (ticket, move || drop(go_on))
}

/// Counts forwards that have ended.
#[derive(Default)]
struct Forwards(AtomicUsize);

impl Observer for Forwards {
    fn batch(&self, _: &BatchObservation) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn an_idle_thread_runs_a_job_at_once_with_its_models() {
    let (scheduler, _control) = start(WIDE);
    let work = sequence(3, 5);
    let own = work.clone();
    let scored = done(scheduler.aside(0, move |models| {
        assert_eq!(**models.current().unwrap(), info());
        assert!(models.model("9").is_none());
        let mut model = models.model("1").unwrap();
        model.score(&PackedBatch::pack([&own])).unwrap().sequences.remove(0)
    }));
    assert_eq!(scored, Ok(expected(&work)));
    let ticket = scheduler.aside(0, |models| versions(models)).unwrap();
    assert_eq!(ticket.wait_until(Instant::now() + PATIENCE).unwrap(), Ok(vec!["1".into()]), "a thread can wait too");
}

/// Starts `batches` forwards one after the other and three jobs during the first; how many forwards had ended when each of
/// the jobs ran.
fn forwards_before_jobs(aside_share: f64, batches: usize) -> Vec<usize> {
    let forwards = Arc::new(Forwards::default());
    let (scheduler, control) = start_with(SchedulerConfig { aside_share, ..SINGLES }, forwards.clone(), true, |_| None);
    let work = sequences(&vec![4; batches]);
    let scoring = scheduler.submit(work.clone()).unwrap();
    control.started();
    let jobs: Vec<_> = (0..3)
        .map(|_| {
            let forwards = forwards.clone();
            scheduler.aside(0, move |_| forwards.0.load(Ordering::SeqCst)).unwrap()
        })
        .collect();
    drop(control);
    assert_scored(scoring, &work);
    jobs.into_iter().map(|job| block_on(job.wait()).unwrap()).collect()
}

#[test]
fn without_a_share_jobs_wait_until_nothing_is_left_to_score() {
    assert_eq!(forwards_before_jobs(0.0, 200), [200; 3]);
}

/// With next to no share the first batch earns next to nothing: that starts a job, and its debt is never paid. So it is the
/// budget that keeps the others waiting, and not their number.
#[test]
fn a_job_above_the_share_keeps_the_next_ones_waiting() {
    assert_eq!(forwards_before_jobs(1e-12, 200), [1, 200, 200]);
}

#[test]
fn jobs_are_not_starved_by_a_queue_that_is_never_empty() {
    let (scheduler, control) = start_gated(SINGLES);
    let mut scoring = vec![scheduler.submit(vec![sequence(0, 3)]).unwrap()];
    control.started();
    let (ran, has_run) = channel();
    let jobs: Vec<_> = (0..3)
        .map(|number| {
            let ran = ran.clone();
            scheduler.aside(0, move |_| ran.send(number).unwrap()).unwrap()
        })
        .collect();
    let (mut order, patience) = (Vec::new(), Instant::now() + PATIENCE);
    while order.len() < jobs.len() {
        assert!(Instant::now() < patience, "only {order:?} ran");
        scoring.push(scheduler.submit(vec![sequence(0, 3)]).unwrap());
        assert!(scheduler.queued().1 > 0);
        control.release();
        control.started();
        order.extend(has_run.try_iter());
    }
    assert_eq!(order, [0, 1, 2]);
    drop(control);
    scoring.into_iter().for_each(|ticket| assert_scored(ticket, &[sequence(0, 3)]));
}

#[test]
fn what_comes_during_a_job_is_one_batch_after_it() {
    let (scheduler, control) = start(WIDE);
    let (job, end) = held_job(&scheduler);
    let work = [sequences(&[2, 3]), sequences(&[4])];
    let tickets = work.clone().map(|sequences| scheduler.submit(sequences).unwrap());
    assert_eq!((scheduler.queued().1, control.others().len()), (3, 0));
    end();
    tickets.into_iter().zip(&work).for_each(|(ticket, work)| assert_scored(ticket, work));
    assert_eq!(control.others(), [[2, 3, 4]]);
    assert_eq!(block_on(job.wait()), Ok(()));
}

#[test]
fn a_panic_in_a_job_is_its_callers() {
    let (scheduler, _control) = start(WIDE);
    let panicked = done(scheduler.aside(0, |_| -> usize { panic!("no such thing") }));
    assert_eq!(panicked, Err(AsideError::Panicked("no such thing".into())));
    assert_scored(scheduler.submit(sequences(&[2])).unwrap(), &sequences(&[2]));
    assert_eq!(done(scheduler.aside(0, |_| 5)), Ok(5));
}

/// Dropping its result is part of a job, too.
#[test]
fn a_result_that_panics_when_nobody_wants_it_costs_nothing() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                panic!("boom");
            }
        }
    }
    let (scheduler, _control) = start(WIDE);
    let (begun, has_begun) = channel::<()>();
    let (go_on, may_go_on) = channel::<()>();
    let ticket = scheduler.aside(0, move |_| {
        begun.send(()).unwrap();
        let _ = may_go_on.recv();
        Bomb
    });
    has_begun.recv_timeout(PATIENCE).unwrap();
    drop(ticket);
    drop(go_on);
    assert_eq!(done(scheduler.aside(0, |_| 5)), Ok(5));
}

#[test]
fn the_lane_is_bounded_and_callers_who_leave_make_room() {
    let (scheduler, control) = start_gated(SchedulerConfig { max_aside_jobs: 2, ..WIDE });
    let scoring = scheduler.submit(sequences(&[2])).unwrap();
    control.started();
    let first = scheduler.aside(0, |_| 1).unwrap();
    let second = scheduler.aside(0, |_| 2).unwrap();
    assert_eq!(scheduler.aside(0, |_| 3).unwrap_err(), AsideError::Full { limit: 2 });
    drop(first);
    let fourth = scheduler.aside(0, |_| 4).unwrap();
    assert_eq!(scheduler.aside(0, |_| 5).unwrap_err(), AsideError::Full { limit: 2 });
    drop(control);
    assert_scored(scoring, &sequences(&[2]));
    assert_eq!((block_on(second.wait()), block_on(fourth.wait())), (Ok(2), Ok(4)));
}

#[test]
fn a_job_whose_caller_left_does_not_run() {
    let (scheduler, control) = start_gated(WIDE);
    let scoring = scheduler.submit(sequences(&[2])).unwrap();
    control.started();
    let ran = Arc::new(Mutex::new(Vec::new()));
    let job = |number: usize| {
        let ran = Arc::clone(&ran);
        scheduler.aside(0, move |_| ran.lock().unwrap().push(number)).unwrap()
    };
    drop(job(1));
    let patient = job(2).wait_until(Instant::now()).expect_err("it has not run yet");
    drop(patient);
    let last = job(3).wait_until(Instant::now()).expect_err("nor has this one");
    drop(control);
    assert_scored(scoring, &sequences(&[2]));
    assert_eq!(block_on(last.wait()), Ok(()));
    assert_eq!(*ran.lock().unwrap(), [3]);
}

#[test]
fn a_drain_drops_the_jobs_that_wait_and_lets_a_running_one_end() {
    let (scheduler, _control) = start(WIDE);
    let (running, end) = held_job(&scheduler);
    let waiting = scheduler.aside(0, |_| 1).unwrap();
    let draining = {
        let scheduler = scheduler.clone();
        std::thread::spawn(move || block_on(scheduler.drain(Duration::from_secs(300))))
    };
    assert_eq!(block_on(waiting.wait()), Err(AsideError::Stopped));
    assert_eq!(scheduler.aside(0, |_| 2).unwrap_err(), AsideError::NotServing);
    end();
    draining.join().unwrap();
    assert_eq!(block_on(running.wait()), Ok(()));
    assert_eq!(scheduler.aside(0, |_| 2).unwrap_err(), AsideError::NotServing);
}

#[test]
fn a_thread_that_dies_drops_the_jobs() {
    struct Bad;
    impl Observer for Bad {
        fn batch(&self, _: &BatchObservation) {
            panic!("bad observer")
        }
    }
    let (scheduler, control) = start_with(WIDE, Arc::new(Bad), true, |_| None);
    let _scoring = scheduler.submit(sequences(&[2])).unwrap();
    control.started();
    let job = scheduler.aside(0, |_| 1).unwrap();
    control.release();
    assert_eq!(block_on(job.wait()), Err(AsideError::Stopped));
    assert_eq!(scheduler.aside(0, |_| 2).unwrap_err(), AsideError::NotServing);
}

#[test]
fn a_model_that_is_not_there_yet_runs_no_job() {
    let (finish, load_waits): (_, Receiver<()>) = channel();
    let (model, _control) = FakeModel::new(false, Box::new(|_| None));
    let load = move || {
        let _ = load_waits.recv();
        Ok::<Box<dyn ReferenceModel>, String>(Box::new(model))
    };
    let scheduler = Scheduler::start(WIDE, Arc::new(NullObserver), load).unwrap();
    assert_eq!(scheduler.aside(0, |_| 1).unwrap_err(), AsideError::NotServing);
    drop(finish);
    block_on(scheduler.ready()).unwrap();
    assert_eq!(done(scheduler.aside(0, |_| 1)), Ok(1));
}

/// A job keeps the versions it began with; the swap comes right after it.
#[test]
fn weights_swap_after_the_job_that_runs() {
    let (scheduler, _control) = start(SchedulerConfig { keep_versions: 1, ..WIDE });
    let (begun, has_begun) = channel::<()>();
    let (go_on, may_go_on) = channel::<()>();
    let job = scheduler.aside(0, move |models| {
        begun.send(()).unwrap();
        let _ = may_go_on.recv();
        (versions(models), models.model("1").is_some(), models.model("2").is_some())
    });
    has_begun.recv_timeout(PATIENCE).unwrap();
    let (handed_over, is_handed_over) = channel::<()>();
    let handle = scheduler.clone();
    let update = std::thread::spawn(move || {
        let model: Box<dyn ReferenceModel> = Box::new(FakeModel::new(false, Box::new(|_| None)).0.with_version("2"));
        let load = move || {
            drop(handed_over);
            Ok::<_, String>(model)
        };
        block_on(handle.update_weights(load)).unwrap();
    });
    assert_eq!(is_handed_over.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected), "loaded beside the job");
    assert_eq!(scheduler.reference().unwrap().policy_version, "1");
    drop(go_on);
    assert_eq!(done(job), Ok((vec!["1".into()], true, false)));
    update.join().unwrap();
    let after =
        scheduler.aside(0, |models| (versions(models), models.model("1").is_some(), models.model("2").is_some()));
    assert_eq!(done(after), Ok((vec!["2".into()], false, true)));
    block_on(scheduler.residents_when(|residents| residents.weight_bytes() == 4)).expect("the old weights go");
}

/// Jobs without a pause, swaps and scoring: everything comes to its end.
#[test]
fn swaps_and_scoring_go_on_under_a_load_of_jobs() {
    let (scheduler, _control) = start(WIDE);
    let stop = Arc::new(AtomicUsize::new(0));
    let jobs = {
        let (scheduler, stop) = (scheduler.clone(), Arc::clone(&stop));
        std::thread::spawn(move || {
            let mut seen = 0;
            while stop.load(Ordering::Relaxed) == 0 || seen == 0 {
                let versions = done(scheduler.aside(0, |models| {
                    let current = models.current().unwrap().policy_version.clone();
                    let mut model = models.model(&current).unwrap();
                    model.score(&PackedBatch::pack([&sequence(1, 4)])).unwrap();
                    versions(models).len()
                }));
                assert!((1..=2).contains(&versions.unwrap()));
                seen += 1;
            }
        })
    };
    for number in 2..=20 {
        let name = number.to_string();
        let model: Box<dyn ReferenceModel> = Box::new(FakeModel::new(false, Box::new(|_| None)).0.with_version(&name));
        block_on(scheduler.update_weights(move || Ok::<_, String>(model))).unwrap();
        let asking = ScoringSequence { policy_version: Some(name.clone()), ..sequence(7, 9) };
        let scored = block_on(scheduler.submit(vec![asking]).unwrap().wait()).unwrap().remove(0).unwrap();
        assert_eq!((scored.scores, &scored.reference.policy_version), (expected(&sequence(7, 9)), &name));
    }
    stop.store(1, Ordering::Relaxed);
    jobs.join().unwrap();
}

#[test]
fn any_thread_that_is_free_runs_a_job() {
    let (scheduler, controls) = start_copies(SINGLES, Arc::new(NullObserver), 2, true);
    let scoring = scheduler.submit(vec![sequence(1, 3)]).unwrap();
    let (busy, _) = first_started(&controls);
    assert_eq!(done(scheduler.aside(0, |models| versions(models))), Ok(vec!["1".into()]), "while one of them scores");
    controls[busy].release();
    assert!(block_on(scoring.wait()).unwrap()[0].is_ok());
}

#[test]
fn limits_that_make_no_sense_are_refused() {
    for (config, reason) in [
        (SchedulerConfig { aside_share: 1.0, ..WIDE }, "aside_share must be at least 0 and below 1"),
        (SchedulerConfig { aside_share: -0.1, ..WIDE }, "aside_share must be at least 0 and below 1"),
        (SchedulerConfig { aside_share: f64::NAN, ..WIDE }, "aside_share must be at least 0 and below 1"),
        (SchedulerConfig { max_aside_jobs: 0, ..WIDE }, "max_aside_jobs must be above 0"),
    ] {
        let load = || Err::<Box<dyn ReferenceModel>, _>("never called");
        assert_eq!(Scheduler::start(config, Arc::new(NullObserver), load).unwrap_err().to_string(), reason);
    }
}
