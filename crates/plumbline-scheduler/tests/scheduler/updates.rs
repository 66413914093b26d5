//! New weights while work comes in.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use plumbline_core::{ReferenceInfo, ReferenceModel, ScoringSequence};
use plumbline_scheduler::{NullObserver, Observer, Residents, Scheduler, SchedulerConfig, SubmitError, UpdateError};

use crate::support::{FakeModel, WIDE, block_on, expected, sequence, start, start_gated, start_with, wait};

fn version(name: &str) -> Box<dyn ReferenceModel> {
    Box::new(FakeModel::new(false, Box::new(|_| None)).0.with_version(name))
}

fn update(scheduler: &Scheduler, name: &str) -> Result<String, UpdateError> {
    let model = version(name);
    block_on(scheduler.update_weights(move || Ok::<_, String>(model))).map(|info| info.policy_version.clone())
}

fn asking_for(version: &str, sequence: ScoringSequence) -> ScoringSequence {
    ScoringSequence { policy_version: Some(version.into()), ..sequence }
}

fn scored_by(scheduler: &Scheduler, sequence: ScoringSequence) -> Result<String, SubmitError> {
    let scored = wait(scheduler.submit(vec![sequence])?).unwrap().remove(0).unwrap();
    Ok(scored.reference.policy_version.clone())
}

fn kept(residents: &Residents) -> Vec<String> {
    residents.kept().iter().map(|info| info.policy_version.clone()).collect()
}

#[test]
fn new_work_goes_to_the_new_version_and_old_ones_can_be_asked_for() {
    let (scheduler, _control) = start(WIDE);
    assert_eq!(scored_by(&scheduler, sequence(1, 3)), Ok("1".into()));
    assert_eq!(update(&scheduler, "2").unwrap(), "2");
    assert_eq!(scheduler.reference().unwrap().policy_version, "2");
    assert_eq!(scored_by(&scheduler, sequence(1, 3)), Ok("2".into()));
    assert_eq!(scored_by(&scheduler, asking_for("1", sequence(1, 3))), Ok("1".into()));
    update(&scheduler, "3").unwrap();
    assert_eq!(kept(&scheduler.residents()), ["2", "3"], "the last two");
    let gone = SubmitError::VersionUnavailable { index: 0, policy_version: "1".into() };
    assert_eq!(scored_by(&scheduler, asking_for("1", sequence(1, 3))), Err(gone));
    assert!(scheduler.residents().is_past("1"));
}

#[test]
fn a_submit_with_one_unknown_version_is_refused_whole() {
    let (scheduler, control) = start(WIDE);
    let error = scheduler.submit(vec![sequence(1, 2), asking_for("9", sequence(2, 2))]).unwrap_err();
    assert_eq!(error, SubmitError::VersionUnavailable { index: 1, policy_version: "9".into() });
    assert_eq!((scheduler.queued(), control.others().len()), ((0, 0), 0));
}

/// What was admitted for a version is scored with it, even if two updates come first and only one version is kept.
#[test]
fn admitted_work_keeps_its_version() {
    let (scheduler, control) = start_gated(SchedulerConfig { max_batch_sequences: 1, keep_versions: 1, ..WIDE });
    let tickets: Vec<_> = (0..500).map(|seed| scheduler.submit(vec![sequence(seed, 2)]).unwrap()).collect();
    control.started();
    let (loaded, has_loaded) = channel::<()>();
    let (handle, model) = (scheduler.clone(), version("2"));
    let updated = std::thread::spawn(move || {
        let load = move || {
            drop(loaded);
            Ok::<_, String>(model)
        };
        block_on(handle.update_weights(load)).unwrap();
    });
    assert!(has_loaded.recv().is_err(), "loaded while a forward runs");
    // The swap comes between two forwards, soon after the load.
    while kept(&scheduler.residents()) != ["2"] {
        assert_ne!(scheduler.queued().1, 0, "no swap between 500 forwards");
        control.release();
        while control.others().is_empty() && kept(&scheduler.residents()) != ["2"] {
            std::thread::yield_now();
        }
    }
    updated.join().unwrap();
    assert_eq!(scheduler.residents().weight_bytes(), 8, "the old weights stay while work waits for them");
    assert!(scheduler.submit(vec![asking_for("1", sequence(7, 2))]).is_err(), "but take no new work");
    let late = scheduler.submit(vec![sequence(9, 2)]).unwrap();
    drop(control.open());
    for ticket in tickets {
        assert_eq!(wait(ticket).unwrap().remove(0).unwrap().reference.policy_version, "1");
    }
    assert_eq!(wait(late).unwrap().remove(0).unwrap().reference.policy_version, "2");
    let freed = block_on(scheduler.residents_when(|residents| residents.weight_bytes() == 4));
    assert!(freed.is_some(), "then they go");
}

#[test]
fn a_load_that_fails_leaves_the_current_version_serving() {
    let (scheduler, _control) = start(WIDE);
    let failed = block_on(scheduler.update_weights(|| Err::<Box<dyn ReferenceModel>, _>("tensor x is cut")));
    assert_eq!(failed.unwrap_err().to_string(), "tensor x is cut");
    let panicked = block_on(scheduler.update_weights(|| -> Result<Box<dyn ReferenceModel>, String> { panic!("boom") }));
    assert!(panicked.unwrap_err().to_string().contains("boom"));
    assert_eq!(scored_by(&scheduler, sequence(1, 3)), Ok("1".into()));
    assert_eq!(kept(&scheduler.residents()), ["1"]);
}

#[test]
fn another_model_is_refused() {
    let (scheduler, _control) = start(WIDE);
    let try_with = |change: fn(&mut ReferenceInfo)| {
        let model: Box<dyn ReferenceModel> = Box::new(FakeModel::new(false, Box::new(|_| None)).0.with_info(change));
        block_on(scheduler.update_weights(move || Ok::<_, String>(model))).map(drop).unwrap_err().to_string()
    };
    let refused = "the checkpoint is another model: ";
    assert_eq!(
        try_with(|info| info.family = "gpt2".into()),
        format!("{refused}family is gpt2, the resident model has fake")
    );
    assert_eq!(
        try_with(|info| info.limits.vocab_size = 9),
        format!("{refused}vocab_size is 9, the resident model has 1000000")
    );
    assert_eq!(try_with(|info| info.parameters = 2), format!("{refused}parameters is 2, the resident model has 1"));
    assert_eq!(kept(&scheduler.residents()), ["1"]);
}

#[test]
fn memory_is_bounded_before_a_load_begins() {
    let (scheduler, _control) = start(SchedulerConfig { keep_versions: 5, max_weight_bytes: 8, ..WIDE });
    let most = Arc::new(AtomicUsize::new(0));
    for name in ["2", "3", "4"] {
        let (handle, most) = (scheduler.clone(), Arc::clone(&most));
        let model = version(name);
        let load = move || {
            most.fetch_max(handle.residents().weight_bytes() as usize, Ordering::Relaxed);
            Ok::<_, String>(model)
        };
        block_on(scheduler.update_weights(load)).unwrap();
        assert_eq!(scheduler.reference().unwrap().policy_version, name);
    }
    assert_eq!(most.load(Ordering::Relaxed), 4, "only the current version is beside the one that is loaded");
    assert_eq!(kept(&scheduler.residents()), ["3", "4"]);
    let (narrow, _control) = start(SchedulerConfig { max_weight_bytes: 7, ..WIDE });
    let error = update(&narrow, "2").unwrap_err();
    assert!(matches!(error, UpdateError::NoRoom { needed: 4, held: 4, limit: 7 }), "{error}");
}

#[test]
fn updates_run_one_after_the_other() {
    let (scheduler, _control) = start(WIDE);
    let running = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..8)
        .map(|number| {
            let (handle, running) = (scheduler.clone(), Arc::clone(&running));
            std::thread::spawn(move || {
                let model = version(&number.to_string());
                block_on(handle.update_weights(move || {
                    assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "two loads at once");
                    std::thread::yield_now();
                    running.fetch_sub(1, Ordering::SeqCst);
                    Ok::<_, String>(model)
                }))
                .unwrap();
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(scheduler.residents().kept().len(), 2);
}

/// The load goes on, and the next update waits for it.
#[test]
fn a_caller_who_leaves_does_not_start_a_second_load() {
    let (scheduler, _control) = start(WIDE);
    let (begun, has_begun) = channel::<()>();
    let (go_on, may_go_on) = channel::<()>();
    let model = version("2");
    let first = scheduler.update_weights(move || {
        begun.send(()).unwrap();
        may_go_on.recv().unwrap();
        Ok::<_, String>(model)
    });
    block_on(async {
        let mut first = Box::pin(first);
        let started = tokio::time::timeout(std::time::Duration::from_millis(1), &mut first).await;
        assert!(started.is_err(), "it waits for the load");
    });
    has_begun.recv().unwrap();
    let handle = scheduler.clone();
    let second = std::thread::spawn(move || update(&handle, "3"));
    go_on.send(()).unwrap();
    assert_eq!(second.join().unwrap().unwrap(), "3");
    assert_eq!(kept(&scheduler.residents()), ["1", "3"], "nobody waited for version 2");
}

#[test]
fn a_scheduler_that_ends_takes_no_weights() {
    let (scheduler, _control) = start(WIDE);
    block_on(scheduler.drain(std::time::Duration::from_secs(9)));
    assert!(matches!(update(&scheduler, "2"), Err(UpdateError::NotServing)));
}

#[test]
fn the_observer_hears_of_swaps_and_of_what_is_in_memory() {
    #[derive(Default)]
    struct Heard(Mutex<(Vec<String>, Vec<u64>)>);
    impl Observer for Heard {
        fn swapped(&self, current: &ReferenceInfo) {
            self.0.lock().unwrap().0.push(current.policy_version.clone());
        }
        fn residents(&self, residents: &Residents) {
            self.0.lock().unwrap().1.push(residents.weight_bytes());
        }
    }
    let heard = Arc::new(Heard::default());
    let config = SchedulerConfig { keep_versions: 1, ..WIDE };
    let (scheduler, _control) = start_with(config, heard.clone(), false, |_| None);
    update(&scheduler, "2").unwrap();
    block_on(scheduler.residents_when(|residents| residents.weight_bytes() == 4)).unwrap();
    block_on(scheduler.drain(std::time::Duration::from_secs(9)));
    let heard = heard.0.lock().unwrap();
    assert_eq!(heard.0, ["2"], "the first version is no swap");
    assert_eq!(heard.1, [4, 8, 4]);
}

/// 16 callers without a pause, 50 swaps: everything is answered, with the right numbers, by a version that was current.
#[test]
fn swaps_under_load_lose_nothing() {
    let (scheduler, _control) = start_with(WIDE, Arc::new(NullObserver), false, |_| None);
    let stop = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..16)
        .map(|seed| {
            let (handle, stop) = (scheduler.clone(), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut answers = Vec::new();
                while stop.load(Ordering::Relaxed) == 0 || answers.is_empty() {
                    let sequence = sequence(seed, 1 + answers.len() % 5);
                    let scored = wait(handle.submit(vec![sequence.clone()]).unwrap()).unwrap().remove(0).unwrap();
                    assert_eq!(scored.scores, expected(&sequence));
                    answers.push(scored.reference.policy_version.parse::<usize>().unwrap());
                }
                answers
            })
        })
        .collect();
    for number in 2..=51 {
        update(&scheduler, &number.to_string()).unwrap();
    }
    stop.store(1, Ordering::Relaxed);
    for caller in callers {
        let versions = caller.join().unwrap();
        assert!(versions.is_sorted(), "a caller never goes back to older weights: {versions:?}");
        assert!(versions.iter().all(|version| (1..=51).contains(version)));
    }
    assert_eq!(kept(&scheduler.residents()), ["50", "51"]);
}
