//! Loading, its failures, and the end of the thread.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::channel;

use plumbline_core::ReferenceModel;
use plumbline_scheduler::{NullObserver, Scheduler, SchedulerConfig, SchedulerState, StartError, SubmitError};

use crate::support::{WIDE, assert_scored, block_on, info, sequences, start, until_dropped};

fn start_loading(load: impl FnOnce() -> Result<Box<dyn ReferenceModel>, String> + Send + 'static) -> Scheduler {
    Scheduler::start(WIDE, Arc::new(NullObserver), load).unwrap()
}

#[test]
fn becomes_ready_with_the_models_identity() {
    let (scheduler, _control) = start(WIDE);
    assert_eq!(scheduler.state(), SchedulerState::Ready);
    assert_eq!(*block_on(scheduler.ready()).unwrap(), info());
    assert_eq!(scheduler.reference().as_deref(), Some(&info()));
}

#[test]
fn refuses_work_while_loading() {
    let (finish, wait) = channel::<()>();
    let scheduler = start_loading(move || {
        wait.recv().map_err(|error| error.to_string())?;
        Err("no weights".into())
    });
    assert_eq!(scheduler.state(), SchedulerState::Loading);
    assert_eq!(scheduler.reference(), None);
    assert_eq!(scheduler.submit(sequences(&[1])).unwrap_err(), SubmitError::Loading);
    finish.send(()).unwrap();
    assert_eq!(block_on(scheduler.ready()), Err(StartError::Failed { reason: "no weights".into() }));
}

#[test]
fn a_load_error_surfaces_with_its_text() {
    let scheduler = start_loading(|| Err("config.json asks for alibi".into()));
    let error = block_on(scheduler.ready()).unwrap_err();
    assert_eq!(error.to_string(), "the reference model could not be started: config.json asks for alibi");
    let reason: Arc<str> = "config.json asks for alibi".into();
    assert_eq!(scheduler.state(), SchedulerState::Failed { reason: Arc::clone(&reason) });
    assert_eq!(scheduler.submit(sequences(&[1])).unwrap_err(), SubmitError::Failed { reason });
}

#[test]
fn a_panicking_load_surfaces_with_its_text() {
    let shards = 3;
    let scheduler = start_loading(move || panic!("shard {shards} is missing"));
    let expected = StartError::Failed { reason: "loading panicked: shard 3 is missing".into() };
    assert_eq!(block_on(scheduler.ready()), Err(expected));
}

#[test]
fn an_identity_that_panics_is_a_failed_load() {
    struct Nameless;
    impl ReferenceModel for Nameless {
        fn info(&self) -> &plumbline_core::ReferenceInfo {
            panic!("nameless")
        }
        fn score(
            &mut self,
            _: &plumbline_core::PackedBatch,
        ) -> Result<plumbline_core::BatchScores, plumbline_core::ModelError> {
            Ok(plumbline_core::BatchScores::default())
        }
    }
    let scheduler = start_loading(|| Ok(Box::new(Nameless)));
    let expected = StartError::Failed { reason: "loading panicked: nameless".into() };
    assert_eq!(block_on(scheduler.ready()), Err(expected));
}

#[test]
fn a_limit_of_zero_is_refused_by_name() {
    for (config, name) in [
        (SchedulerConfig { max_queue_tokens: 0, ..WIDE }, "max_queue_tokens"),
        (SchedulerConfig { max_batch_tokens: 0, ..WIDE }, "max_batch_tokens"),
        (SchedulerConfig { max_batch_sequences: 0, ..WIDE }, "max_batch_sequences"),
    ] {
        let load = || Err::<Box<dyn ReferenceModel>, _>("must not be called");
        let error = Scheduler::start(config, Arc::new(NullObserver), load).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert_eq!(error.to_string(), format!("{name} must be above 0"));
    }
}

#[test]
fn when_the_last_handle_goes_admitted_work_is_still_answered_and_the_model_is_dropped() {
    let (scheduler, control) = start(WIDE);
    let work = sequences(&[3, 4]);
    let ticket = scheduler.submit(work.clone()).unwrap();
    drop(scheduler.clone());
    assert_eq!(scheduler.state(), SchedulerState::Ready, "a clone is not the last handle");
    drop(scheduler);
    assert_scored(ticket, &work);
    assert_eq!(until_dropped(&control.open()).concat(), [3, 4]);
}
