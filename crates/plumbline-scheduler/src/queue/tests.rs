//! The queue alone, against what it promises.

use std::sync::OnceLock;

use plumbline_core::{MIN_SHARED_TOKENS, ModelLimits, PackedBatch};
use proptest::prelude::*;

use super::*;

fn sequence(tokens: usize) -> ScoringSequence {
    ScoringSequence::all_tokens(vec![0; tokens + 1])
}

fn info() -> Arc<ReferenceInfo> {
    Arc::new(ReferenceInfo {
        model: "m".into(),
        family: "f".into(),
        policy_version: "1".into(),
        dtype: "f32".into(),
        head_dtype: "f32".into(),
        device: "cpu".into(),
        parameters: 1,
        weight_bytes: 4,
        eos_token_ids: Vec::new(),
        limits: ModelLimits { vocab_size: 1, max_positions: 1 },
    })
}

fn push(queue: &mut Queue, tokens: &[usize]) -> u64 {
    static ONLY: OnceLock<Arc<ReferenceInfo>> = OnceLock::new();
    let versions = vec![Arc::clone(ONLY.get_or_init(info)); tokens.len()];
    push_versions(queue, tokens, &versions)
}

fn push_versions(queue: &mut Queue, tokens: &[usize], versions: &[Arc<ReferenceInfo>]) -> u64 {
    let (reply, _receiver) = Reply::new(tokens.len());
    let sequences = tokens.iter().copied().map(sequence).zip(versions);
    let arriving = sequences.map(|(sequence, reference)| arriving(sequence, reference)).collect();
    queue.push(arriving, &Demand::default(), &Arc::new(reply), Instant::now())
}

fn arriving(sequence: ScoringSequence, reference: &Arc<ReferenceInfo>) -> Arriving {
    let group = Group::of(&sequence);
    Arriving { sequence, reference: Arc::clone(reference), group, digest: 0 }
}

const WIDE: Budgets = [usize::MAX; 3];

fn standard(queue: &Queue) -> &Line {
    &queue.lines[Class::Standard.index()]
}

/// Index of the entry that leads the next batch.
fn front(queue: &Queue) -> Option<usize> {
    standard(queue).front().map(|(_, entry)| entry.index)
}

fn limits(tokens: usize, sequences: usize) -> BatchLimits {
    BatchLimits { tokens, sequences, share_prefixes: true }
}

fn batches(queue: &mut Queue, max_batch_tokens: usize, max_batch_sequences: usize) -> Vec<Vec<usize>> {
    let limits = limits(max_batch_tokens, max_batch_sequences);
    std::iter::from_fn(|| (!queue.is_empty()).then(|| queue.take_batch(&limits, &WIDE)))
        .map(|batch| batch.iter().map(|entry| entry.tokens).collect())
        .collect()
}

#[test]
fn the_first_entry_that_does_not_fit_ends_the_batch() {
    let mut queue = Queue::default();
    push(&mut queue, &[4, 5, 2, 1]);
    assert_eq!(batches(&mut queue, 8, 10), [vec![4], vec![5, 2, 1]], "2 and 1 do not overtake 5");
}

#[test]
fn a_sequence_above_the_budget_goes_alone() {
    let mut queue = Queue::default();
    push(&mut queue, &[1, 9, 1]);
    assert_eq!(batches(&mut queue, 4, 10), [vec![1], vec![9], vec![1]]);
}

#[test]
fn the_number_of_sequences_is_bounded_too() {
    let mut queue = Queue::default();
    push(&mut queue, &[1, 1, 1]);
    assert_eq!(batches(&mut queue, 100, 2), [vec![1, 1], vec![1]]);
}

#[test]
fn a_sequence_with_nothing_to_score_counts_one() {
    let mut queue = Queue::default();
    push(&mut queue, &[0, 0]);
    assert_eq!(queue.amount(), Amount { tokens: 2, sequences: 2 });
}

#[test]
fn cancelling_takes_only_what_waits_of_one_ticket() {
    let mut queue = Queue::default();
    push(&mut queue, &[1]);
    let second = push(&mut queue, &[2, 3, 4]);
    push(&mut queue, &[5]);
    let limits = limits(3, 9);
    assert_eq!(queue.take_batch(&limits, &WIDE).len(), 2, "the first ticket and a part of the second have started");
    assert_eq!(queue.cancel(second), Amount { tokens: 7, sequences: 2 });
    assert_eq!(queue.cancel(second), Amount::default());
    assert_eq!(batches(&mut queue, 100, 100), [[5]]);
    assert_eq!(queue.amount(), Amount::default());
}

#[test]
fn a_batch_is_of_one_version_and_the_others_keep_their_place() {
    let (old, new) = (info(), info());
    let mut queue = Queue::default();
    let versions = [&old, &new, &old, &new, &old].map(Arc::clone);
    push_versions(&mut queue, &[1, 2, 3, 4, 5], &versions);
    assert!(queue.needs(&old) && queue.needs(&new) && !queue.needs(&info()));
    assert_eq!(batches(&mut queue, 8, 10), [vec![1, 3], vec![2, 4], vec![5]]);
    assert!(!queue.needs(&old) && !queue.needs(&new));
}

proptest! {
    /// Whatever the mix of versions: nothing is lost, the oldest entry is in the next batch, each version in its order.
    #[test]
    fn versions_share_the_queue_fairly(
        mix in prop::collection::vec((1usize..30, 0usize..3), 0..60),
        max_tokens in 1usize..60,
    ) {
        let versions = [info(), info(), info()];
        let mut queue = Queue::default();
        let tokens: Vec<usize> = mix.iter().map(|(tokens, _)| *tokens).collect();
        let own: Vec<_> = mix.iter().map(|(_, version)| Arc::clone(&versions[*version])).collect();
        push_versions(&mut queue, &tokens, &own);
        let mut order = Vec::new();
        while let Some(oldest) = front(&queue) {
            let batch = queue.take_batch(&limits(max_tokens, 10), &WIDE);
            prop_assert_eq!(batch[0].index, oldest);
            prop_assert!(batch.iter().all(|entry| Arc::ptr_eq(&entry.reference, &batch[0].reference)));
            order.extend(batch.iter().map(|entry| entry.index));
        }
        prop_assert_eq!(queue.amount(), Amount::default());
        for version in 0..3 {
            let of_version = |index: &usize| mix[*index].1 == version;
            prop_assert!(order.iter().copied().filter(of_version).eq((0..mix.len()).filter(of_version)));
        }
    }

    /// Members of groups from anywhere: nothing is lost, the oldest is in each batch, mates are together as far as they
    /// fit, and the rows of the packed batch are within the budget.
    #[test]
    fn groups_are_kept_together(
        mix in prop::collection::vec((0u32..5, 1usize..30), 1..60),
        max_tokens in 60usize..400,
    ) {
        let prompt = |group: u32| (0..50).map(|at| if at < 30 { at } else { at * 5 + group }).collect::<Vec<u32>>();
        let sequences: Vec<ScoringSequence> = mix
            .iter()
            .enumerate()
            .map(|(index, (group, completion))| {
                let mut token_ids = prompt(*group);
                token_ids.extend((0..*completion).map(|at| 1000 + (index * 31 + at) as u32));
                ScoringSequence { scored: 50..token_ids.len(), ..ScoringSequence::all_tokens(token_ids) }
            })
            .collect();
                let mut queue = Queue::default();
        let reference = info();
        let work = sequences.iter().cloned().map(|sequence| arriving(sequence, &reference)).collect();
        let (reply, _receiver) = Reply::new(mix.len());
        queue.push(work, &Demand::default(), &Arc::new(reply), Instant::now());
        let mut seen = Vec::new();
        while let Some(oldest) = front(&queue) {
            let waiting: Vec<usize> = standard(&queue).iter().map(|(_, entry)| entry.index).collect();
            let batch = queue.take_batch(&limits(max_tokens, 20), &WIDE);
            prop_assert_eq!(batch[0].index, oldest);
            let packed = PackedBatch::pack_shared(batch.iter().map(|entry| &entry.sequence));
            prop_assert!(batch.len() == 1 || packed.tokens() <= max_tokens, "{} rows", packed.tokens());
            let mates = waiting.iter().filter(|index| mix[**index].0 == mix[oldest].0).count();
            let together = batch.iter().filter(|entry| mix[entry.index].0 == mix[oldest].0).count();
            // A mate takes its completion and up to 15 rows of the prompt.
            let mates_fit = 50 + mates * (30 + MIN_SHARED_TOKENS) <= max_tokens && mates <= 20;
            prop_assert!(!mates_fit || together == mates, "{together} of {mates}");
            seen.extend(batch.iter().map(|entry| entry.index));
        }
        prop_assert_eq!(queue.amount(), Amount::default());
        seen.sort_unstable();
        prop_assert!(seen.into_iter().eq(0..mix.len()));
    }

    /// Order is kept, nothing is lost, every batch is within its limits unless it is a single, and none could be longer.
    #[test]
    fn batches_partition_the_queue(
        tokens in prop::collection::vec(0usize..30, 0..60),
        max_tokens in 1usize..40,
        max_sequences in 1usize..10,
    ) {
        let mut queue = Queue::default();
        push(&mut queue, &tokens);
        let costs: Vec<usize> = tokens.iter().map(|&tokens| tokens.max(1)).collect();
        prop_assert_eq!(queue.amount().tokens, costs.iter().sum::<usize>());
        let batches = batches(&mut queue, max_tokens, max_sequences);
        prop_assert_eq!(batches.concat(), costs);
        prop_assert_eq!(queue.amount(), Amount::default());
        for batch in &batches {
            prop_assert!(batch.len() <= max_sequences);
            prop_assert!(batch.len() == 1 || batch.iter().sum::<usize>() <= max_tokens);
        }
        for pair in batches.windows(2) {
            prop_assert!(pair[0].len() == max_sequences || pair[0].iter().sum::<usize>() + pair[1][0] > max_tokens);
        }
    }
}
