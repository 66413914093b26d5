//! A device whose memory runs out: injected at every point.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use plumbline_core::{BatchScores, ModelError, PackedBatch, ReferenceInfo, ReferenceModel};
use plumbline_scheduler::{Models, Scheduler, SchedulerConfig};
use proptest::prelude::*;

use crate::support::{Recorder, WIDE, block_on, expected, info, score, sequences, wait};

/// A model that needs memory for each row of a batch and for its head, on a device that has a fixed amount of it.
struct Limited {
    info: ReferenceInfo,
    memory: usize,
    /// What the head takes; halved to save memory, but not below 1.
    head: usize,
    full_head: usize,
    /// The smallest head that was ever in use.
    least: Arc<AtomicUsize>,
    present: Arc<AtomicUsize>,
}

impl ReferenceModel for Limited {
    fn info(&self) -> &ReferenceInfo {
        &self.info
    }

    fn save_memory(&mut self) -> bool {
        let can = self.head > 1;
        self.head = self.head.div_ceil(2);
        self.least.fetch_min(self.head, Ordering::Relaxed);
        self.present.store(self.head, Ordering::Relaxed);
        can
    }

    fn spend_memory(&mut self) {
        self.head = (self.head * 2).min(self.full_head);
        self.present.store(self.head, Ordering::Relaxed);
    }

    fn score(&mut self, batch: &PackedBatch) -> Result<BatchScores, ModelError> {
        let needed = batch.tokens() + self.head;
        if needed > self.memory {
            return Err(ModelError::OutOfMemory(format!("{needed} of {}", self.memory)));
        }
        Ok(score(batch))
    }
}

struct Device {
    scheduler: Scheduler,
    recorder: Arc<Recorder>,
    least_head: Arc<AtomicUsize>,
    head: Arc<AtomicUsize>,
}

fn device(memory: usize, head: usize, config: SchedulerConfig) -> Device {
    let recorder = Arc::new(Recorder::default());
    let (least, present) = (Arc::new(AtomicUsize::new(head)), Arc::new(AtomicUsize::new(head)));
    let model = Limited {
        info: info(),
        memory,
        head,
        full_head: head,
        least: Arc::clone(&least),
        present: Arc::clone(&present),
    };
    let load = move || Ok::<Box<dyn ReferenceModel>, String>(Box::new(model));
    let scheduler = Scheduler::start(config, recorder.clone(), load).unwrap();
    block_on(scheduler.ready()).unwrap();
    Device { scheduler, recorder, least_head: least, head: present }
}

#[test]
fn the_head_is_halved_before_the_batch_is_split() {
    let device = device(20, 8, WIDE);
    let work = sequences(&[9, 9]);
    let outcomes = wait(device.scheduler.submit(work.clone()).unwrap()).unwrap();
    for (outcome, sequence) in outcomes.into_iter().zip(&work) {
        assert_eq!(outcome.unwrap().scores, expected(sequence));
    }
    assert_eq!(device.recorder.forwards(), [(18, 2, true), (18, 2, true), (18, 2, false)]);
    assert_eq!(device.least_head.load(Ordering::Relaxed), 2);
    assert!(device.recorder.splits.lock().unwrap().is_empty());
    assert_eq!(device.recorder.out_of_memory.load(Ordering::Relaxed), 2);
}

#[test]
fn then_the_batch_is_split_and_one_that_never_fits_fails_alone() {
    let device = device(20, 4, WIDE);
    let work = sequences(&[10, 30, 10, 10]);
    let outcomes = wait(device.scheduler.submit(work.clone()).unwrap()).unwrap();
    for (index, (outcome, sequence)) in outcomes.into_iter().zip(&work).enumerate() {
        match (index, outcome) {
            (1, outcome) => assert_eq!(outcome, Err(ModelError::OutOfMemory("31 of 20".into()))),
            (_, outcome) => assert_eq!(outcome.unwrap().scores, expected(sequence)),
        }
    }
}

#[test]
fn later_batches_are_smaller_and_grow_again() {
    let device = device(100, 1, SchedulerConfig { max_batch_tokens: 640, ..WIDE });
    let work = sequences(&[10; 60]);
    let scored = |outcomes: Vec<_>| outcomes.into_iter().all(|outcome: Result<_, ModelError>| outcome.is_ok());
    assert!(scored(wait(device.scheduler.submit(work.clone()).unwrap()).unwrap()));
    let failed = device.recorder.forwards().iter().filter(|(.., failed)| *failed).count();
    assert!(scored(wait(device.scheduler.submit(work).unwrap()).unwrap()));
    let forwards = device.recorder.forwards();
    let failed_again = forwards.iter().filter(|(.., failed)| *failed).count() - failed;
    assert!(failed >= 3, "600 rows are halved until 75 fit");
    assert!(failed_again < failed, "the second time the batches begin small: {failed_again} of {failed}");
    // Small batches succeed; the budget comes back, a sixty-fourth at a time, until one fails again.
    for _ in 0..70 {
        assert!(scored(wait(device.scheduler.submit(sequences(&[1])).unwrap()).unwrap()));
    }
    assert!(scored(wait(device.scheduler.submit(sequences(&[10; 20])).unwrap()).unwrap()));
    let forwards = device.recorder.forwards();
    let first = forwards.iter().rev().find(|(tokens, ..)| *tokens == 200).unwrap();
    assert!(first.2, "the whole batch was tried again");
}

#[test]
fn the_head_comes_back() {
    let device = device(20, 8, WIDE);
    drop(wait(device.scheduler.submit(sequences(&[19])).unwrap()).unwrap());
    assert_eq!(device.head.load(Ordering::Relaxed), 1);
    for _ in 0..64 * 3 {
        drop(wait(device.scheduler.submit(sequences(&[1])).unwrap()).unwrap());
    }
    assert_eq!(device.head.load(Ordering::Relaxed), 8);
}

/// A job that runs out of memory has the error; what scoring may use is not touched.
#[test]
fn jobs_beside_scoring_change_nothing_about_memory() {
    let device = device(20, 8, WIDE);
    let job = device.scheduler.aside(0, |models: &mut dyn Models| {
        let mut model = models.model("1").unwrap();
        let error = model.score(&PackedBatch::pack(&sequences(&[30]))).unwrap_err();
        let can_save = model.save_memory();
        model.spend_memory();
        (error, can_save)
    });
    assert_eq!(block_on(job.unwrap().wait()), Ok((ModelError::OutOfMemory("38 of 20".into()), false)));
    assert_eq!(device.head.load(Ordering::Relaxed), 8);
    assert_eq!(device.recorder.out_of_memory.load(Ordering::Relaxed), 0);
    drop(wait(device.scheduler.submit(sequences(&[9])).unwrap()).unwrap());
    assert_eq!(device.recorder.forwards(), [(9, 1, false)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Whatever the memory: what can fit alone is scored, what cannot fails, and nothing else does.
    #[test]
    fn what_fits_alone_is_scored(
        memory in 1usize..60,
        head in 1usize..20,
        tokens in prop::collection::vec(1usize..40, 1..24),
    ) {
        let device = device(memory, head, SchedulerConfig { max_batch_tokens: 100, ..WIDE });
        let work = sequences(&tokens);
        let outcomes = wait(device.scheduler.submit(work.clone()).unwrap()).unwrap();
        for (outcome, sequence) in outcomes.into_iter().zip(&work) {
            if sequence.forward_tokens() < memory {
                prop_assert_eq!(outcome.unwrap().scores, expected(sequence));
            } else {
                prop_assert!(matches!(outcome, Err(ModelError::OutOfMemory(_))));
            }
        }
    }
}
