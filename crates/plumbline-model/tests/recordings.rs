//! The tiny model against Hugging Face in f64 on every token of every recording, however it was batched.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap in a test is a failed test")]

mod support;

use proptest::prelude::*;
use support::{bits, floats, json_lines, max_difference, recording, score, scoring_sequence, tiny};

const RECORDINGS: [&str; 5] =
    ["tiny-f32-raw", "tiny-bf16-raw", "tiny-bf16-stale", "tiny-f32-processed", "tiny-bf16-processed"];

/// The project's promise for f32 on CPU.
const TOLERANCE: f64 = 2e-5;

#[test]
fn every_recorded_token_agrees_with_f64() {
    let mut model = tiny();
    for name in RECORDINGS {
        let lines = recording(name);
        let references = json_lines(&format!("tests/fixtures/recordings/{name}.ref.jsonl"));
        assert_eq!(lines.len(), references.len());
        let sequences: Vec<_> = lines.iter().map(scoring_sequence).collect();
        for batch_size in [1, 7, sequences.len()] {
            let scores: Vec<_> = sequences.chunks(batch_size).flat_map(|batch| score(&mut model, batch)).collect();
            for ((line, reference), scores) in lines.iter().zip(&references).zip(&scores) {
                assert_eq!(line["id"], reference["id"]);
                let difference = max_difference(&scores.logprobs, &floats(&reference["f64"]));
                assert!(difference <= TOLERANCE, "{name} {}: {difference:.1e} in batches of {batch_size}", line["id"]);
                if let Some(cooled) = reference.get("f64_at_temperature") {
                    let difference = max_difference(&scores.logprobs_in_mode, &floats(cooled));
                    assert!(difference <= TOLERANCE, "{name} {} at its temperature: {difference:.1e}", line["id"]);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// The ruler does not stretch: a sequence gets the same bits whatever else is in its batch, in whatever order.
    #[test]
    fn company_does_not_change_a_sequences_bits(
        picks in prop::collection::vec((0usize..47, 1usize..400), 1..12),
    ) {
        let lines = recording("tiny-f32-raw");
        let mut model = tiny();
        let sequences: Vec<_> = picks
            .iter()
            .map(|(line, len)| {
                let mut sequence = scoring_sequence(&lines[*line]);
                let end = sequence.token_ids.len().min(sequence.scored.start + len);
                sequence.token_ids.truncate(end);
                sequence.scored.end = end;
                sequence
            })
            .collect();
        let together = score(&mut model, &sequences);
        for (sequence, scores) in sequences.iter().zip(&together) {
            let alone = score(&mut model, std::slice::from_ref(sequence));
            prop_assert_eq!(bits(scores), bits(&alone[0]));
        }
    }
}
