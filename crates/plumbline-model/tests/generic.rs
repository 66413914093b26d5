//! The code path that a GPU takes, on the CPU: the generic operations, with half-precision bodies and an f32 head.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap in a test is a failed test")]
#![allow(clippy::print_stdout, reason = "docs/gpu.md quotes it")]

mod support;

use plumbline_core::{FloatType, Kernels, PackedBatch, Processing, ReferenceModel, ScoringSequence, TokenScores};
use plumbline_model::{CandleReference, LoadOptions, ModelSource};
use support::{floats, json_lines, max_difference, recording, repository, scoring_sequence};

const TINY: &str = "crates/plumbline/assets/tiny/policy-2";

fn generic(folder: &str, dtype: FloatType, head_dtype: FloatType) -> CandleReference {
    let options = LoadOptions { dtype, head_dtype, kernels: Kernels::Generic, ..LoadOptions::default() };
    ModelSource::Directory(repository(folder)).load(&options).unwrap()
}

/// Mean and largest distance to Hugging Face in f64 over all recorded tokens of the tiny model, in nats.
fn distance(dtype: FloatType) -> (f64, f64) {
    let name = "tiny-f32-raw";
    let mut model = generic(TINY, dtype, FloatType::F32);
    assert_eq!(model.info().head_dtype, "f32");
    let sequences: Vec<_> = recording(name).iter().map(scoring_sequence).collect();
    let references = json_lines(&format!("tests/fixtures/recordings/{name}.ref.jsonl"));
    let (mut sum, mut largest, mut tokens) = (0.0, 0.0f64, 0);
    for (batch, references) in sequences.chunks(8).zip(references.chunks(8)) {
        let scores = model.score(&PackedBatch::pack_shared(batch)).unwrap().sequences;
        for (scores, reference) in scores.iter().zip(references) {
            let expected = floats(&reference["f64"]);
            assert_eq!(scores.len(), expected.len());
            sum += scores.logprobs.iter().zip(&expected).map(|(ours, theirs)| (ours - theirs).abs()).sum::<f64>();
            largest = largest.max(max_difference(&scores.logprobs, &expected));
            tokens += expected.len();
        }
    }
    println!("{dtype:?}: mean {:.1e}, largest {largest:.1e} nats over {tokens} tokens", sum / tokens as f64);
    (sum / tokens as f64, largest)
}

/// A body in half precision costs what its rounding costs, and no more: f16 has 3 bits more than bf16.
#[test]
fn half_precision_bodies_stay_near_f64() {
    let (mean, largest) = distance(FloatType::F32);
    assert!(mean < 3e-6 && largest < 2e-5, "f32: {mean:.1e}, {largest:.1e}");
    let (mean, largest) = distance(FloatType::F16);
    assert!((1e-5..3e-3).contains(&mean) && largest < 3e-2, "f16: {mean:.1e}, {largest:.1e}");
    let (mean, largest) = distance(FloatType::Bf16);
    assert!((1e-4..2e-2).contains(&mean) && largest < 2e-1, "bf16: {mean:.1e}, {largest:.1e}");
}

/// Conversations with a common beginning that branch twice, over the windows of those models that have some.
fn conversations() -> Vec<ScoringSequence> {
    let turn = |seed: u32, len: u32| (0..len).map(move |at| (at * seed + seed) % 50);
    let all = |parts: &[(u32, u32)]| {
        let token_ids = parts.iter().flat_map(|(seed, len)| turn(*seed, *len)).collect();
        ScoringSequence { processing: Processing::at_temperature(0.7), ..ScoringSequence::all_tokens(token_ids) }
    };
    vec![
        all(&[(1, 40), (3, 30), (7, 5)]),
        all(&[(1, 40), (3, 30), (9, 21)]),
        all(&[(1, 40), (11, 60)]),
        all(&[(13, 33)]),
    ]
}

fn largest_difference(ours: &[TokenScores], theirs: &[TokenScores]) -> f64 {
    let pairs = ours.iter().zip(theirs).flat_map(|(ours, theirs)| {
        [
            max_difference(&ours.logprobs, &theirs.logprobs),
            max_difference(&ours.logprobs_in_mode, &theirs.logprobs_in_mode),
            max_difference(&ours.entropy, &theirs.entropy),
            max_difference(&ours.eos_probability, &theirs.eos_probability),
        ]
    });
    pairs.fold(0.0, f64::max)
}

#[test]
fn shared_prefixes_change_nothing_but_the_last_digits() {
    for folder in [
        TINY,
        "tests/fixtures/models/qwen2",
        "tests/fixtures/models/gemma2",
        "tests/fixtures/models/gemma3-text",
        "tests/fixtures/models/deepseek-v3-yarn",
        "tests/fixtures/models/qwen2-moe",
        "tests/fixtures/models/gpt2",
    ] {
        for (dtype, head_dtype, tolerance) in
            [(FloatType::F64, FloatType::F64, 1e-10), (FloatType::F32, FloatType::F32, 1e-4)]
        {
            let mut model = generic(folder, dtype, head_dtype);
            let sequences = conversations();
            let shared = PackedBatch::pack_shared(&sequences);
            assert_eq!(shared.saved_tokens(), 40 + 30 + 40);
            let apart = model.score(&PackedBatch::pack(&sequences)).unwrap().sequences;
            let together = model.score(&shared).unwrap().sequences;
            let difference = largest_difference(&together, &apart);
            println!("{folder} in {dtype:?}: shared and apart differ by {difference:.1e}");
            assert!(difference <= tolerance, "{folder} in {dtype:?}: {difference:.1e}");
        }
    }
}

/// The same in the formats of a GPU, on the model that is trained: rounding may fall otherwise, but by no more than what it
/// costs at most against f64.
#[test]
fn shared_prefixes_in_half_precision_differ_by_no_more_than_its_rounding() {
    for (dtype, tolerance) in [(FloatType::Bf16, 7e-2), (FloatType::F16, 9e-3)] {
        let mut model = generic(TINY, dtype, FloatType::F32);
        let sequences = conversations();
        let apart = model.score(&PackedBatch::pack(&sequences)).unwrap().sequences;
        let together = model.score(&PackedBatch::pack_shared(&sequences)).unwrap().sequences;
        let difference = largest_difference(&together, &apart);
        println!("{dtype:?}: shared and apart differ by {difference:.1e}");
        assert!(difference <= tolerance, "{dtype:?}: {difference:.1e}");
    }
}
