//! The ruler does not stretch: on the CPU in f32 a sequence gets the same bits alone, packed, in any order, at any number of
//! threads, and whether or not it shares rows with others.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap in a test is a failed test")]

mod support;

use std::sync::OnceLock;

use plumbline_core::{
    FloatType, Kernels, PackedBatch, Processing, ProcessingOrder, ReferenceModel, ScoringSequence, TokenScores,
};
use plumbline_model::{CandleReference, LoadOptions, ModelSource};
use proptest::prelude::*;
use rayon::ThreadPool;
use support::{bits, load, max_difference, repository};

/// Grouped queries, windows with soft-caps, norms on queries and keys of several kinds, latent attention, experts, learned
/// positions, interleaved and partial rotary embeddings, parallel layers, multipliers.
const MODELS: [&str; 12] = [
    "tests/fixtures/models/qwen2",
    "tests/fixtures/models/qwen2-sliding",
    "tests/fixtures/models/gemma2",
    "tests/fixtures/models/gemma3-text",
    "tests/fixtures/models/olmo2",
    "tests/fixtures/models/cohere-qk-norm",
    "tests/fixtures/models/deepseek-v3-yarn",
    "tests/fixtures/models/qwen2-moe",
    "tests/fixtures/models/mixtral",
    "tests/fixtures/models/gpt2",
    "tests/fixtures/models/granite",
    "crates/plumbline/assets/tiny/policy-2",
];

/// Nothing but temperature, and each kind of processing that needs whole rows.
fn processing() -> impl Strategy<Value = Processing> {
    let warm = Processing::at_temperature(0.6);
    prop::sample::select(vec![
        Processing::default(),
        warm,
        Processing::at_temperature(1.4),
        Processing { top_k: 20, ..warm },
        Processing { top_p: 0.9, min_p: 0.01, ..Processing::default() },
        Processing { repetition_penalty: 1.3, presence_penalty: 0.5, frequency_penalty: 0.2, ..warm },
        Processing { top_p: 0.8, repetition_penalty: 1.1, order: ProcessingOrder::Sglang, ..warm },
    ])
}

/// Conversations that branch: each goes on from a random place of one before it, and was sampled in its own way.
fn forest(vocabulary: u32, longest: usize) -> impl Strategy<Value = Vec<ScoringSequence>> {
    let token = 0..vocabulary;
    let one = (
        any::<prop::sample::Index>(),
        any::<prop::sample::Index>(),
        prop::collection::vec(token, 1..longest),
        any::<prop::sample::Index>(),
        processing(),
    );
    prop::collection::vec(one, 1..9).prop_map(move |steps| {
        let mut sequences: Vec<ScoringSequence> = Vec::new();
        for (from, keep, more, first, processing) in steps {
            let mut token_ids = match sequences.len() {
                0 => Vec::new(),
                count => sequences[from.index(count)].token_ids.clone(),
            };
            token_ids.truncate(if token_ids.is_empty() { 0 } else { keep.index(token_ids.len() + 1) });
            token_ids.extend(more);
            token_ids.truncate(longest);
            let len = token_ids.len();
            let first = first.index(len) + 1;
            sequences.push(ScoringSequence {
                scored: first.min(len)..len,
                prompt_tokens: first.min(len),
                processing,
                ..ScoringSequence::all_tokens(token_ids)
            });
        }
        sequences
    })
}

fn thread_pools() -> &'static [ThreadPool] {
    static POOLS: OnceLock<Vec<ThreadPool>> = OnceLock::new();
    POOLS.get_or_init(|| {
        [1, 2, 3].map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()).into()
    })
}

fn all_bits(scores: &[TokenScores]) -> Vec<Vec<u64>> {
    scores.iter().map(bits).collect()
}

fn scored(model: &mut CandleReference, batch: &PackedBatch, threads: usize) -> Vec<TokenScores> {
    thread_pools()[threads % thread_pools().len()].install(|| model.score(batch)).unwrap().sequences
}

/// Scores the sequences in every way there is and compares bits.
fn check(model: &mut CandleReference, sequences: &[ScoringSequence]) -> Result<(), TestCaseError> {
    let together = all_bits(&scored(model, &PackedBatch::pack(sequences), 0));
    for (index, sequence) in sequences.iter().enumerate() {
        let alone = scored(model, &PackedBatch::pack([sequence]), index);
        prop_assert_eq!(&bits(&alone[0]), &together[index], "sequence {} alone", index);
    }
    let mut backwards = all_bits(&scored(model, &PackedBatch::pack(sequences.iter().rev()), 1));
    backwards.reverse();
    prop_assert_eq!(&backwards, &together, "in the other order");
    let again = all_bits(&scored(model, &PackedBatch::pack(sequences), 2));
    prop_assert_eq!(&again, &together, "on three threads");
    if model.shares_prefixes() {
        for threads in 0..3 {
            let shared = scored(model, &PackedBatch::pack_shared(sequences), threads);
            prop_assert_eq!(&all_bits(&shared), &together, "sharing rows");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bits_depend_on_the_sequence_only(sequences in forest(60, 120)) {
        for folder in MODELS {
            check(&mut load(folder), &sequences).map_err(|error| TestCaseError::fail(format!("{folder}: {error}")))?;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2, failure_persistence: None, ..ProptestConfig::default() })]

    /// Longer than several blocks of keys and queries.
    #[test]
    fn bits_of_long_sequences_depend_on_the_sequence_only(sequences in forest(60, 700)) {
        let mut model = load("crates/plumbline/assets/tiny/policy-2");
        check(&mut model, &sequences)?;
    }
}

/// The plain operations share rows, too; there the numbers agree up to rounding.
#[test]
fn the_generic_operations_agree_and_share() {
    for folder in MODELS {
        let options = LoadOptions { kernels: Kernels::Generic, ..LoadOptions::default() };
        let mut generic = ModelSource::Directory(repository(folder)).load(&options).unwrap();
        let mut fused = load(folder);
        let sequences: Vec<_> = (0..4u32)
            .map(|index| {
                let ids = (0..70u32).map(|at| if at < 40 { at % 50 } else { (at * (index + 3)) % 50 });
                ScoringSequence {
                    processing: Processing::at_temperature(0.7),
                    ..ScoringSequence::all_tokens(ids.collect())
                }
            })
            .collect();
        let expected = generic.score(&PackedBatch::pack(&sequences)).unwrap().sequences;
        let shared = PackedBatch::pack_shared(&sequences);
        assert_eq!(shared.saved_tokens(), 3 * 40);
        for found in [
            generic.score(&shared).unwrap().sequences,
            fused.score(&shared).unwrap().sequences,
            fused.score(&PackedBatch::pack(&sequences)).unwrap().sequences,
        ] {
            for (found, expected) in found.iter().zip(&expected) {
                let differences = [
                    max_difference(&found.logprobs, &expected.logprobs),
                    max_difference(&found.logprobs_in_mode, &expected.logprobs_in_mode),
                    max_difference(&found.entropy, &expected.entropy),
                    max_difference(&found.eos_probability, &expected.eos_probability),
                ];
                assert!(differences.iter().all(|difference| *difference < 1e-4), "{folder}: {differences:?}");
            }
        }
    }
}

/// Angles that depend on the sequence's length do not allow its beginning to be shared.
#[test]
fn a_model_that_cannot_share_says_so_and_refuses() {
    let sequence = ScoringSequence::all_tokens((0..40).collect());
    let longer = ScoringSequence::all_tokens((0..50).collect());
    for (name, shares) in [("llama-dynamic-rope", false), ("phi3-longrope", false), ("llama-yarn", true)] {
        let mut model = load(&format!("tests/fixtures/models/{name}"));
        assert_eq!(model.shares_prefixes(), shares, "{name}");
        let result = model.score(&PackedBatch::pack_shared([&sequence, &longer]));
        assert_eq!(result.is_ok(), shares, "{name}: {result:?}");
    }
}

/// The bounds on memory change nothing but speed.
#[test]
fn chunk_sizes_do_not_change_bits() {
    let folder = "crates/plumbline/assets/tiny/policy-2";
    let sequences: Vec<_> = (1..5)
        .map(|index| ScoringSequence {
            processing: Processing {
                top_k: 500 * (index as usize - 1),
                presence_penalty: 0.1,
                ..Processing::default()
            },
            ..ScoringSequence::all_tokens((0..90).map(|at| (at * index) % 50).collect())
        })
        .collect();
    let batch = PackedBatch::pack(&sequences);
    let expected = all_bits(&load(folder).score(&batch).unwrap().sequences);
    for bytes in [1, 100_000] {
        let options = LoadOptions { head_chunk_bytes: bytes, mlp_chunk_bytes: bytes, ..LoadOptions::default() };
        let mut model = ModelSource::Directory(repository(folder)).load(&options).unwrap();
        assert_eq!(all_bits(&model.score(&batch).unwrap().sequences), expected);
    }
}

/// Other formats have no kernels of their own.
#[test]
fn half_precision_still_scores() {
    let sequence = ScoringSequence::all_tokens((0..30).collect());
    for dtype in [FloatType::Bf16, FloatType::F16, FloatType::F64] {
        let mut model = support::load_as("tests/fixtures/models/qwen2", dtype);
        let scores = model.score(&PackedBatch::pack([&sequence])).unwrap();
        assert_eq!(scores.sequences[0].len(), 29);
    }
}
