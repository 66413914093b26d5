//! New weights for several model threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};

use plumbline_core::{BatchScores, ModelError, PackedBatch, ReferenceInfo, ReferenceModel};
use plumbline_scheduler::{NullObserver, Residents, Scheduler, SchedulerConfig, UpdateError};

use crate::support::{
    Control, FakeModel, LoadCopy, PATIENCE, WIDE, block_on, copies_of, expected, first_started, load_of, sequence,
    sequences, start_copies, until_dropped, wait,
};

fn update(scheduler: &Scheduler, loads: Vec<LoadCopy>) -> Result<Arc<ReferenceInfo>, UpdateError> {
    block_on(scheduler.update_copies(loads))
}

fn loads(version: &str, copies: usize) -> Vec<LoadCopy> {
    copies_of(version, copies, false).into_iter().map(|(load, _)| load).collect()
}

fn kept(residents: &Residents) -> Vec<String> {
    residents.kept().iter().map(|info| info.policy_version.clone()).collect()
}

/// Tells when its thread has it: a thread asks its models one after the other, as long as they say yes, before it looks
/// for work.
struct Seen(Box<dyn ReferenceModel>, Sender<()>);

fn seen(loads: Vec<LoadCopy>, by: &Sender<()>) -> Vec<LoadCopy> {
    let one = |load: LoadCopy| -> LoadCopy {
        let by = by.clone();
        Box::new(move || Ok(Box::new(Seen(load()?, by))))
    };
    loads.into_iter().map(one).collect()
}

/// Two gated threads whose models can be followed by others that are [`seen`].
fn start_seeing(config: SchedulerConfig) -> (Scheduler, Vec<Control>) {
    let (loads, controls): (Vec<_>, Vec<_>) = copies_of("1", 2, true).into_iter().unzip();
    let scheduler = Scheduler::start_copies(config, Arc::new(NullObserver), seen(loads, &channel().0)).unwrap();
    block_on(scheduler.ready()).unwrap();
    (scheduler, controls)
}

impl ReferenceModel for Seen {
    fn info(&self) -> &ReferenceInfo {
        self.0.info()
    }

    fn shares_prefixes(&self) -> bool {
        let _ = self.1.send(());
        true
    }

    fn score(&mut self, batch: &PackedBatch) -> Result<BatchScores, ModelError> {
        self.0.score(batch)
    }
}

/// A version is the current one when the last thread has it, and is dropped when the last thread has dropped it.
#[test]
fn a_version_comes_and_goes_on_all_threads_together() {
    let config = SchedulerConfig { max_batch_sequences: 1, keep_versions: 1, ..WIDE };
    let (scheduler, mut controls) = start_seeing(config);
    let running = scheduler.submit(sequences(&[5])).unwrap();
    let (busy, _) = first_started(&controls);
    let (by, is_seen) = channel();
    let (new, new_controls): (Vec<_>, Vec<_>) = copies_of("2", 2, true).into_iter().unzip();
    let (handle, new) = (scheduler.clone(), seen(new, &by));
    let updating = std::thread::spawn(move || update(&handle, new));
    is_seen.recv_timeout(PATIENCE).unwrap();
    // The free thread has its copy of version 2, the busy one has not: version 1 scores.
    assert_eq!(kept(&scheduler.residents()), ["1"]);
    assert_eq!(scheduler.residents().weight_bytes(), 8);
    let between = scheduler.submit(sequences(&[6])).unwrap();
    assert_eq!(controls[1 - busy].started(), [6]);
    controls[1 - busy].release();
    assert_eq!(wait(between).unwrap().remove(0).unwrap().reference.policy_version, "1");
    assert_eq!(kept(&scheduler.residents()), ["1"]);

    controls[busy].release();
    assert_eq!(wait(running).unwrap().remove(0).unwrap().reference.policy_version, "1");
    let info = updating.join().unwrap().unwrap();
    assert_eq!((info.policy_version.as_str(), info.device.as_str(), info.weight_bytes), ("2", "cuda:0,1", 8));
    let after = scheduler.submit(sequences(&[7])).unwrap();
    let (taken, _) = first_started(&new_controls);
    new_controls[taken].release();
    assert_eq!(wait(after).unwrap().remove(0).unwrap().reference.policy_version, "2");
    block_on(scheduler.residents_when(|residents| residents.weight_bytes() == 8)).unwrap();
    for control in controls.drain(..) {
        assert_eq!(until_dropped(&control.open()), [[0; 0]; 0]);
    }
}

/// What was admitted for a version that leaves is scored with it, by whichever thread, before any thread drops it.
#[test]
fn admitted_work_keeps_its_version_on_every_thread() {
    let config = SchedulerConfig { max_batch_sequences: 1, keep_versions: 1, ..WIDE };
    let (scheduler, controls) = start_copies(config, Arc::new(NullObserver), 3, true);
    let tickets: Vec<_> = (0..300).map(|seed| scheduler.submit(vec![sequence(seed, 2)]).unwrap()).collect();
    controls.iter().for_each(|control| drop(control.started()));
    let handle = scheduler.clone();
    let updating = std::thread::spawn(move || update(&handle, loads("2", 3)));
    // Forwards end one by one until all threads have had the time between two of them to take the new version.
    while kept(&scheduler.residents()) != ["2"] {
        assert_ne!(scheduler.queued().1, 0, "no swap between 300 forwards");
        for control in &controls {
            control.release();
            while control.others().is_empty() && kept(&scheduler.residents()) != ["2"] && scheduler.queued().1 > 0 {
                std::thread::yield_now();
            }
        }
    }
    updating.join().unwrap().unwrap();
    let late = scheduler.submit(vec![sequence(9, 2)]).unwrap();
    drop(controls);
    for (ticket, seed) in tickets.into_iter().zip(0..) {
        let scored = wait(ticket).unwrap().remove(0).unwrap();
        assert_eq!((scored.reference.policy_version.as_str(), scored.scores), ("1", expected(&sequence(seed, 2))));
    }
    assert_eq!(wait(late).unwrap().remove(0).unwrap().reference.policy_version, "2");
    block_on(scheduler.residents_when(|residents| residents.weight_bytes() == 12)).unwrap();
}

#[test]
fn a_copy_that_fails_leaves_the_current_version_on_all() {
    let (scheduler, _controls) = start_copies(WIDE, Arc::new(NullObserver), 2, false);
    let (first, control) = copies_of("2", 1, false).remove(0);
    let failed = update(&scheduler, vec![first, Box::new(|| Err("tensor x is cut".into()))]);
    assert_eq!(failed.unwrap_err().to_string(), "tensor x is cut");
    assert_eq!(until_dropped(&control.open()), [[0; 0]; 0], "the copy that was loaded goes");
    let other = FakeModel::new(false, Box::new(|_| None)).0.with_version("3");
    let mixed = update(&scheduler, vec![loads("2", 1).remove(0), load_of(other)]).unwrap_err();
    assert_eq!(mixed.to_string(), "the copies of the model differ: policy_version is 2 on cuda:0 and 3 on cpu");
    let one = update(&scheduler, loads("2", 1)).unwrap_err();
    assert!(matches!(one, UpdateError::Copies { given: 1, threads: 2 }), "{one}");
    let moved = update(&scheduler, loads("2", 2).into_iter().rev().collect()).unwrap_err();
    assert_eq!(
        moved.to_string(),
        "the checkpoint is another model: device is cuda:1,0, the resident model has cuda:0,1"
    );
    assert_eq!(kept(&scheduler.residents()), ["1"]);
    update(&scheduler, loads("2", 2)).unwrap();
    assert_eq!(kept(&scheduler.residents()), ["1", "2"]);
}

#[test]
fn the_memory_limit_counts_all_copies() {
    let limited = |max_weight_bytes| {
        let config = SchedulerConfig { max_weight_bytes, ..WIDE };
        start_copies(config, Arc::new(NullObserver), 2, false).0
    };
    let error = update(&limited(15), loads("2", 2)).unwrap_err();
    assert!(matches!(error, UpdateError::NoRoom { needed: 8, held: 8, limit: 15 }), "{error}");
    let wide = limited(16);
    for version in ["2", "3"] {
        update(&wide, loads(version, 2)).unwrap();
        block_on(wide.residents_when(|residents| residents.weight_bytes() <= 16)).unwrap();
    }
    assert_eq!(kept(&wide.residents()), ["2", "3"]);
}

/// The caller of an update left after its load: the next update waits until all threads have taken what it loaded.
#[test]
fn an_update_begins_when_all_threads_have_the_one_before() {
    let (scheduler, controls) = start_seeing(WIDE);
    let running = scheduler.submit(sequences(&[5])).unwrap();
    let (busy, _) = first_started(&controls);
    let (by, is_seen) = channel();
    let first = seen(loads("2", 2), &by);
    block_on(async {
        let mut first = Box::pin(scheduler.update_copies(first));
        // Until the free thread has its copy; then the caller leaves.
        std::future::poll_fn(|context| {
            assert!(first.as_mut().poll(context).is_pending(), "one thread is busy");
            context.waker().wake_by_ref();
            if is_seen.try_recv().is_ok() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    });
    let handle = scheduler.clone();
    let second = std::thread::spawn(move || update(&handle, loads("3", 2)));
    controls[busy].release();
    assert_eq!(second.join().unwrap().unwrap().policy_version, "3");
    assert_eq!(kept(&scheduler.residents()), ["2", "3"], "nothing was lost on the way");
    assert_eq!(wait(running).unwrap().remove(0).unwrap().reference.policy_version, "1");
    block_on(scheduler.residents_when(|residents| residents.weight_bytes() == 16)).unwrap();
    controls.into_iter().for_each(|control| drop(until_dropped(&control.open())));
}

/// 16 callers without a pause, 50 swaps: everything is answered, with the right numbers, by a version that was current.
#[test]
fn swaps_under_load_lose_nothing_on_several_threads() {
    for copies in [2, 3] {
        let (scheduler, _controls) = start_copies(WIDE, Arc::new(NullObserver), copies, false);
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
            update(&scheduler, loads(&number.to_string(), copies)).unwrap();
        }
        stop.store(1, Ordering::Relaxed);
        for caller in callers {
            let versions = caller.join().unwrap();
            assert!(versions.is_sorted(), "a caller never goes back to older weights: {versions:?}");
            assert!(versions.iter().all(|version| (1..=51).contains(version)));
        }
        assert_eq!(kept(&scheduler.residents()), ["50", "51"]);
        let two_versions = 2 * 4 * copies as u64;
        block_on(scheduler.residents_when(|residents| residents.weight_bytes() == two_versions)).unwrap();
    }
}
