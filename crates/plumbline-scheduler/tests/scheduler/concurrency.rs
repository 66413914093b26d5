//! Many callers at once, and random work.

use std::sync::Arc;

use plumbline_scheduler::{Scheduler, SchedulerConfig};
use proptest::prelude::*;

use crate::support::{
    Recorder, WIDE, assert_scored, block_on, expected, sequence, sequences, start_gated, start_with, until_dropped,
};

async fn submit_and_check(scheduler: Scheduler, seed: u32) {
    let work: Vec<_> = (0..seed % 4 + 1).map(|n| sequence(seed * 4 + n, (seed * 37 + n * 11) as usize % 90)).collect();
    let outcomes = scheduler.submit(work.clone()).unwrap().wait().await.unwrap();
    let scores: Vec<_> = outcomes.into_iter().map(|outcome| outcome.unwrap().scores).collect();
    assert_eq!(scores, work.iter().map(expected).collect::<Vec<_>>());
}

#[test]
fn two_hundred_callers_get_their_own_numbers() {
    let recorder = Arc::new(Recorder::default());
    let (scheduler, control) = start_with(WIDE, recorder.clone(), true, |_| None);
    let plug = scheduler.submit(sequences(&[1])).unwrap();
    control.started();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build().unwrap();
    let callers: Vec<_> = (0..200).map(|seed| runtime.spawn(submit_and_check(scheduler.clone(), seed))).collect();
    while scheduler.queued().1 < 500 {
        std::thread::yield_now();
    }
    drop(control.open());
    block_on(async {
        for caller in callers {
            caller.await.unwrap();
        }
    });
    assert_scored(plug, &sequences(&[1]));
    let forwards = recorder.forwards();
    assert_eq!(forwards.iter().map(|(_, sequences, _)| sequences).sum::<usize>(), 501);
    assert!(forwards.iter().all(|(tokens, sequences, failed)| *tokens <= 1000 && *sequences <= 100 && !failed));
    assert!(forwards.len() < 60, "batches form: {} forwards for 501 sequences", forwards.len());
    assert_eq!(recorder.queue.lock().unwrap().last(), Some(&(0, 0)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Every admitted sequence is answered once and in order; every batch is as long as its limits allow.
    #[test]
    fn random_work_is_answered_in_order_in_full_batches(
        groups in prop::collection::vec(prop::collection::vec(0usize..40, 0..6), 1..12),
        max_batch_tokens in 1usize..60,
        max_batch_sequences in 1usize..8,
    ) {
        let config = SchedulerConfig { max_batch_tokens, max_batch_sequences, ..WIDE };
        let (scheduler, control) = start_gated(config);
        let plug = scheduler.submit(sequences(&[1])).unwrap();
        prop_assert_eq!(control.started(), [1]);
        let tickets: Vec<_> =
            groups.iter().map(|group| scheduler.submit(sequences(group)).unwrap()).collect();
        let started = control.open();
        assert_scored(plug, &sequences(&[1]));
        for (ticket, group) in tickets.into_iter().zip(&groups) {
            assert_scored(ticket, &sequences(group));
        }
        drop(scheduler);
        let batches = until_dropped(&started);
        prop_assert_eq!(batches.concat(), groups.concat(), "each sequence once and in order");
        let cost = |batch: &[usize]| batch.iter().map(|tokens| (*tokens).max(1)).sum::<usize>();
        for batch in &batches {
            prop_assert!(batch.len() <= max_batch_sequences);
            prop_assert!(batch.len() == 1 || cost(batch) <= max_batch_tokens);
        }
        for pair in batches.windows(2) {
            let full = pair[0].len() == max_batch_sequences || cost(&pair[0]) + cost(&pair[1][..1]) > max_batch_tokens;
            prop_assert!(full, "a batch ended early: {:?}", batches);
        }
    }
}
