//! Sequences that make the model panic, and models that fail for good.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use plumbline_core::{BatchScores, ModelError, PackedBatch, ReferenceModel};
use plumbline_scheduler::{Load, Observer, Scheduler, SchedulerConfig, SchedulerState, SequenceOutcome, SubmitError};

use crate::support::{FakeModel, Fault, WIDE, assert_scored, block_on, expected, sequences, wait};

/// Counts loads and restarts.
#[derive(Default)]
struct Watch {
    loads: AtomicUsize,
    began: AtomicUsize,
    ended: AtomicUsize,
    panics: AtomicUsize,
}

impl Observer for Watch {
    fn panicked(&self, _: usize) {
        self.panics.fetch_add(1, Ordering::SeqCst);
    }

    fn restarted(&self, took: Option<Duration>) {
        if took.is_some() { &self.ended } else { &self.began }.fetch_add(1, Ordering::SeqCst);
    }
}

fn count(counter: &AtomicUsize) -> usize {
    counter.load(Ordering::SeqCst)
}

/// A scheduler whose model is loaded by `fault`, anew each time; `None` = it cannot be loaded.
fn start(
    config: SchedulerConfig,
    fault: impl Fn(usize) -> Option<Fault> + Send + Sync + 'static,
) -> (Scheduler, Arc<Watch>) {
    let watch = Arc::new(Watch::default());
    let loads = Arc::clone(&watch);
    let load: Load = Arc::new(move || {
        let fault = fault(loads.loads.fetch_add(1, Ordering::SeqCst)).ok_or("the disk is gone")?;
        Ok(Box::new(FakeModel::new(false, fault).0) as Box<dyn ReferenceModel>)
    });
    let scheduler = Scheduler::start_restartable(config, watch.clone(), vec![load]).unwrap();
    block_on(scheduler.ready()).unwrap();
    (scheduler, watch)
}

fn holds(batch: &PackedBatch, tokens: usize) -> bool {
    batch.sequence_targets().iter().any(|range| range.len() == tokens)
}

/// Panics on a sequence of so many scored tokens.
fn panics_on(tokens: usize) -> Fault {
    Box::new(move |batch: &PackedBatch| {
        assert!(!holds(batch, tokens), "too many");
        None
    })
}

/// After a panic on such a sequence everything fails.
fn breaks_on(tokens: usize) -> Fault {
    let broken = Mutex::new(false);
    Box::new(move |batch: &PackedBatch| -> Option<Result<BatchScores, ModelError>> {
        let mut broken = broken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *broken {
            return Some(Err(ModelError::Device("an illegal memory access was encountered".into())));
        }
        *broken = holds(batch, tokens);
        assert!(!*broken, "too many");
        None
    })
}

fn outcomes(scheduler: &Scheduler, tokens: &[usize]) -> Vec<SequenceOutcome> {
    wait(scheduler.submit(sequences(tokens)).unwrap()).unwrap()
}

#[test]
fn what_made_the_model_panic_is_refused_for_a_while_and_nothing_else_is() {
    let (scheduler, watch) = start(WIDE, |_| Some(panics_on(3)));
    let work = sequences(&[2, 3, 4]);
    let first = outcomes(&scheduler, &[2, 3, 4]);
    assert_eq!(first[0].as_ref().unwrap().scores, expected(&work[0]));
    assert_eq!(first[1], Err(ModelError::Device("the model panicked: too many".into())));
    assert_eq!(first[2].as_ref().unwrap().scores, expected(&work[2]));
    assert_eq!((scheduler.quarantined(), count(&watch.panics)), (1, 1));
    let refused = scheduler.submit(work.clone()).unwrap_err();
    let SubmitError::Quarantined { index: 1, retry_after } = refused else { panic!("{refused:?}") };
    assert!(retry_after <= WIDE.quarantine);
    let others = vec![work[0].clone(), work[2].clone()];
    assert_scored(scheduler.submit(others.clone()).unwrap(), &others);
    assert_eq!((count(&watch.loads), count(&watch.began)), (1, 0), "the model scores what is harmless");
}

#[test]
fn an_error_is_no_reason_for_quarantine() {
    let bad = |batch: &PackedBatch| holds(batch, 3).then(|| Err(ModelError::Numerics("nan".into())));
    let (scheduler, watch) = start(WIDE, move |_| Some(Box::new(bad)));
    for _ in 0..2 {
        assert_eq!(outcomes(&scheduler, &[3]), [Err(ModelError::Numerics("nan".into()))]);
    }
    assert_eq!((scheduler.quarantined(), count(&watch.panics)), (0, 0));
}

#[test]
fn a_model_that_fails_everything_is_loaded_again_and_neighbours_get_their_numbers() {
    let (scheduler, watch) = start(WIDE, |load| Some(if load == 0 { breaks_on(3) } else { panics_on(3) }));
    let work = sequences(&[2, 3, 4, 5]);
    let outcomes = outcomes(&scheduler, &[2, 3, 4, 5]);
    for (index, sequence) in work.iter().enumerate() {
        if index == 1 {
            assert_eq!(outcomes[1], Err(ModelError::Device("the model panicked: too many".into())));
        } else {
            assert_eq!(outcomes[index].as_ref().unwrap().scores, expected(sequence), "sequence {index}");
        }
    }
    assert_eq!((count(&watch.loads), count(&watch.began), count(&watch.ended)), (2, 1, 1));
    assert_eq!(scheduler.state(), SchedulerState::Ready);
}

#[test]
fn after_so_many_panics_the_weights_are_loaded_again() {
    let config = SchedulerConfig { restart_after_panics: 2, ..WIDE };
    let (scheduler, watch) = start(config, |_| {
        Some(Box::new(|batch: &PackedBatch| {
            assert!((10..20).all(|tokens| !holds(batch, tokens)), "too many");
            None
        }))
    });
    for (bad, restarts) in [(10, 0), (11, 1), (12, 1), (13, 2)] {
        let outcomes = outcomes(&scheduler, &[2, bad]);
        assert_eq!(outcomes[0].as_ref().unwrap().scores, expected(&sequences(&[2, bad])[0]));
        assert!(outcomes[1].is_err());
        // The answer comes before the restart: the next one does not.
        block_on(scheduler.ready()).unwrap();
        while count(&watch.began) < restarts || count(&watch.ended) < restarts {
            std::thread::yield_now();
        }
        assert_eq!(count(&watch.began), restarts);
    }
}

#[test]
fn weights_that_cannot_be_loaded_again_end_the_scheduler() {
    let (scheduler, _watch) = start(WIDE, |load| (load == 0).then(|| breaks_on(3)));
    let outcomes = outcomes(&scheduler, &[3, 4]);
    assert!(outcomes.iter().all(Result::is_err), "{outcomes:?}");
    block_on(scheduler.drain(Duration::from_secs(300)));
    let reason = "the weights could not be loaded again: the disk is gone";
    assert_eq!(scheduler.state(), SchedulerState::Failed { reason: reason.into() });
}

#[test]
fn an_old_version_that_cannot_be_loaded_again_is_no_longer_resident() {
    let (scheduler, watch) = start(WIDE, |load| (load == 0).then(|| panics_on(3)));
    let second = AtomicUsize::new(0);
    let load: Load = Arc::new(move || {
        let fault = if second.fetch_add(1, Ordering::SeqCst) == 0 { breaks_on(3) } else { panics_on(3) };
        Ok(Box::new(FakeModel::new(false, fault).0.with_version("2")) as Box<dyn ReferenceModel>)
    });
    block_on(scheduler.update_restartable(vec![load])).unwrap();
    assert_eq!(scheduler.residents().kept().len(), 2);
    let outcomes = outcomes(&scheduler, &[3, 4]);
    assert!(outcomes[0].is_err());
    assert_eq!(outcomes[1].as_ref().unwrap().scores, expected(&sequences(&[3, 4])[1]));
    let kept: Vec<_> = scheduler.residents().kept().iter().map(|info| info.policy_version.clone()).collect();
    assert_eq!(kept, ["2"]);
    assert!(scheduler.residents().is_past("1"));
    assert_eq!((count(&watch.began), count(&watch.ended)), (1, 1));
}

#[test]
fn a_model_without_a_way_to_load_it_again_goes_on() {
    let model = FakeModel::new(false, breaks_on(3)).0;
    let load = move || Ok::<_, String>(Box::new(model) as Box<dyn ReferenceModel>);
    let scheduler = Scheduler::start(WIDE, Arc::new(plumbline_scheduler::NullObserver), load).unwrap();
    block_on(scheduler.ready()).unwrap();
    assert!(outcomes(&scheduler, &[3, 4]).iter().all(Result::is_err));
    assert_eq!(scheduler.state(), SchedulerState::Ready);
}
