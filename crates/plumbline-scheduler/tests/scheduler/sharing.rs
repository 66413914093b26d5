//! Groups that share their prompt.

use std::sync::Arc;

use plumbline_core::{BatchScores, ModelError, PackedBatch, ReferenceInfo, ReferenceModel, ScoringSequence};
use plumbline_scheduler::{Scheduler, SchedulerConfig};

use crate::support::{Recorder, WIDE, block_on, expected, info, score, wait};

/// A model that lets sequences share rows, or does not.
struct Sharing {
    info: ReferenceInfo,
    shares: bool,
}

impl ReferenceModel for Sharing {
    fn info(&self) -> &ReferenceInfo {
        &self.info
    }

    fn shares_prefixes(&self) -> bool {
        self.shares
    }

    fn score(&mut self, batch: &PackedBatch) -> Result<BatchScores, ModelError> {
        Ok(score(batch))
    }
}

fn start(shares: bool, config: SchedulerConfig) -> (Scheduler, Arc<Recorder>) {
    let recorder = Arc::new(Recorder::default());
    let load = move || Ok::<Box<dyn ReferenceModel>, String>(Box::new(Sharing { info: info(), shares }));
    let scheduler = Scheduler::start(config, recorder.clone(), load).unwrap();
    block_on(scheduler.ready()).unwrap();
    (scheduler, recorder)
}

/// Members of a group: 40 tokens of prompt, 10 of completion.
fn group(number: u32, members: u32) -> Vec<ScoringSequence> {
    let member = |member: u32| {
        let mut token_ids: Vec<u32> = (0..40).map(|at| number * 1000 + at).collect();
        token_ids.extend((0..10).map(|at| 500_000 + member * 100 + at));
        ScoringSequence { scored: 40..50, ..ScoringSequence::all_tokens(token_ids) }
    };
    (0..members).map(member).collect()
}

fn score_all(scheduler: &Scheduler, work: &[ScoringSequence]) {
    let outcomes = wait(scheduler.submit(work.to_vec()).unwrap()).unwrap();
    for (outcome, sequence) in outcomes.into_iter().zip(work) {
        assert_eq!(outcome.unwrap().scores, expected(sequence));
    }
}

#[test]
fn a_prompt_is_computed_once_and_every_member_gets_its_numbers() {
    let (scheduler, recorder) = start(true, WIDE);
    score_all(&scheduler, &group(1, 8));
    let batch = recorder.batches.lock().unwrap()[0];
    assert_eq!((batch.tokens, batch.saved_tokens, batch.sequences), (40 + 8 * 9, 7 * 40, 8));
}

#[test]
fn a_model_that_cannot_share_is_not_asked_to() {
    let (scheduler, recorder) = start(false, WIDE);
    score_all(&scheduler, &group(1, 8));
    let batch = recorder.batches.lock().unwrap()[0];
    assert_eq!((batch.tokens, batch.saved_tokens), (8 * 49, 0));
}

/// Workers post the members of three groups in turn: each group is one batch, though one batch cannot hold two.
#[test]
fn mates_that_came_apart_are_scored_together() {
    let (scheduler, recorder) = start(true, SchedulerConfig { max_batch_tokens: 130, ..WIDE });
    let groups = [group(1, 4), group(2, 4), group(3, 4)];
    let mixed: Vec<_> = (0..4).flat_map(|member| groups.iter().map(move |group| group[member].clone())).collect();
    score_all(&scheduler, &mixed);
    let batches: Vec<_> =
        recorder.batches.lock().unwrap().iter().map(|batch| (batch.tokens, batch.sequences)).collect();
    assert_eq!(batches, [(76, 4), (76, 4), (76, 4)]);
}
