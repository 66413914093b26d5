//! Processed logprobs: what a real vLLM reported after penalties, temperature, top-k, top-p and min-p, and the logits behind.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap in a test is a failed test")]

mod support;

use plumbline_core::{
    Kernels, ModelError, PackedBatch, Processed, Processing, ProcessingOrder, ProcessingScratch, ReferenceModel,
    ScoringSequence, TokenCounts,
};
use plumbline_model::{CandleReference, LoadOptions, ModelSource};
use support::{bits, floats, load, max_difference, processed_sequence, recording, repository, score, tiny};

/// `r_t` and `e_t` of every token of a recording that the reference gives a probability, and how many it does not.
fn against(name: &str) -> (Vec<(f64, f64)>, usize) {
    let lines = recording(name);
    let sequences: Vec<_> = lines.iter().map(processed_sequence).collect();
    assert!(sequences.iter().filter(|sequence| sequence.processing.needs_whole_row()).count() >= 24);
    let mut model = tiny();
    let together = model.score(&PackedBatch::pack_shared(&sequences)).unwrap().sequences;
    let (mut pairs, mut outside) = (Vec::new(), 0);
    for (line, scores) in lines.iter().zip(&together) {
        let engine = floats(&line["logprobs"]);
        assert_eq!(scores.logprobs_in_mode.len(), engine.len());
        for (reference, engine) in scores.logprobs_in_mode.iter().zip(engine) {
            if *reference == f64::NEG_INFINITY {
                outside += 1;
            } else {
                pairs.push((*reference, engine));
            }
        }
    }
    (pairs, outside)
}

#[test]
fn a_real_f32_engine_is_reproduced() {
    let (pairs, outside) = against("tiny-f32-processed");
    assert_eq!((pairs.len(), outside), (1818, 0));
    let largest = pairs.iter().map(|(reference, engine)| (reference - engine).abs()).fold(0.0, f64::max);
    assert!(largest <= 1e-3, "{largest:.1e}");
}

#[test]
fn a_real_bf16_engine_differs_by_its_rounding_only() {
    let (pairs, outside) = against("tiny-bf16-processed");
    assert_eq!(pairs.len() + outside, 1908);
    assert!(outside <= 8, "{outside} tokens at the edge of a nucleus");
    let mae = pairs.iter().map(|(reference, engine)| (reference - engine).abs()).sum::<f64>() / pairs.len() as f64;
    assert!((2e-3..1.5e-2).contains(&mae), "{mae:.1e}");
}

/// One sequence with everything that may be done to it.
fn sequence(processing: Processing) -> ScoringSequence {
    let token_ids = (0..70u32).map(|at| (at * at + 3 * at) % 50).collect();
    ScoringSequence { scored: 20..70, prompt_tokens: 20, processing, ..ScoringSequence::all_tokens(token_ids) }
}

fn heavy() -> Processing {
    Processing {
        top_k: 40,
        top_p: 0.97,
        repetition_penalty: 1.2,
        presence_penalty: 0.3,
        frequency_penalty: 0.1,
        ..Processing::at_temperature(0.8)
    }
}

fn generic(folder: &str) -> CandleReference {
    let options = LoadOptions { kernels: Kernels::Generic, ..LoadOptions::default() };
    ModelSource::Directory(repository(folder)).load(&options).unwrap()
}

/// With a soft-cap, with a multiplier, and with neither.
const MODELS: [&str; 3] =
    ["tests/fixtures/models/gemma2", "tests/fixtures/models/granite", "crates/plumbline/assets/tiny/policy-2"];

#[test]
fn scores_are_those_of_the_models_own_logits() {
    for folder in MODELS {
        for mut model in [load(folder), generic(folder)] {
            for order in [ProcessingOrder::Vllm, ProcessingOrder::Sglang] {
                let sequence = sequence(Processing { order, ..heavy() });
                let scores = score(&mut model, std::slice::from_ref(&sequence)).remove(0);
                let places: Vec<usize> = (0..sequence.scored.len()).step_by(3).collect();
                let mut visited = Vec::new();
                let mut scratch = ProcessingScratch::default();
                model
                    .logits(&sequence, &places, &mut |place, row| {
                        visited.push(place);
                        let index = sequence.scored.start + place;
                        let token = sequence.token_ids[index];
                        let raw = Processing::default().logprob(row, token, &TokenCounts::default(), &mut scratch);
                        let Processed::Logprob(raw) = raw else { panic!("nothing is truncated") };
                        assert!((raw - scores.logprobs[place]).abs() < 1e-5, "{folder}: {raw}");
                        let (prompt, sampled) = sequence.token_ids[..index].split_at(sequence.prompt_tokens);
                        let seen = TokenCounts::new(prompt, sampled);
                        let expected = match sequence.processing.logprob(row, token, &seen, &mut scratch) {
                            Processed::Logprob(logprob) => logprob,
                            Processed::OutsideSupport => f64::NEG_INFINITY,
                        };
                        assert_eq!(scores.logprobs_in_mode[place], expected, "{folder}: place {place}");
                    })
                    .unwrap();
                assert_eq!(visited, places, "{folder}");
            }
        }
    }
}

#[test]
fn logits_that_do_not_exist_are_refused() {
    let mut model = tiny();
    let sequence = sequence(Processing::default());
    let mut none = |_: usize, _: &[f32]| panic!("nothing to visit");
    assert_eq!(model.logits(&sequence, &[], &mut none), Ok(()));
    assert!(matches!(model.logits(&sequence, &[50], &mut none), Err(ModelError::InvalidInput(_))));
    let beyond = ScoringSequence::all_tokens(vec![1, 5_000_000]);
    assert!(matches!(model.logits(&beyond, &[0], &mut none), Err(ModelError::InvalidInput(_))));
}

/// Who needs no whole rows does not notice who does, and what is not processed stays as it is.
#[test]
fn only_the_processed_number_changes() {
    let mut model = tiny();
    let (plain, heavy) = (sequence(Processing::at_temperature(0.8)), sequence(heavy()));
    let alone = score(&mut model, std::slice::from_ref(&plain)).remove(0);
    let shared = model.score(&PackedBatch::pack_shared([&plain, &heavy])).unwrap().sequences;
    assert_eq!(bits(&shared[0]), bits(&alone));
    assert_eq!(shared[1].logprobs, alone.logprobs);
    assert_eq!(shared[1].entropy, alone.entropy);
    assert_eq!(shared[1].rank, alone.rank);
    assert_eq!(shared[1].eos_probability, alone.eos_probability);
    assert!(max_difference(&shared[1].logprobs_in_mode, &alone.logprobs_in_mode) > 0.1);
}
