//! Memory does not grow with the input.

use super::{Sequence, even, facts, json};
use crate::{Collector, CollectorLimits, Footprint};

/// Cells of one engine: two grids, the histogram of d, and the histograms of three profiles.
const CELLS: usize = 100 * 100 + 240 * 240 + 2 * (64 * 11 + 2) + (48 + 20 + 18) * (16 * 11 + 2);

fn assert_bounded(footprint: Footprint, limits: &CollectorLimits) {
    let engines = footprint.engines;
    assert!(engines <= limits.engines + 1, "{footprint:?}");
    assert!(footprint.sequence_rows <= engines * limits.sequence_rows, "{footprint:?}");
    assert!(footprint.labels <= engines * 2 * limits.labels, "{footprint:?}");
    assert!(footprint.pairs <= engines * limits.exact_tokens, "{footprint:?}");
    // The longest and the worst with the ends of their prompts, and the candidates, of which one may be larger than all may be.
    let tokens = 2 * (limits.kept_tokens + 256) + limits.candidate_tokens + 256;
    assert!(footprint.kept_tokens <= engines * tokens, "{footprint:?}");
    assert_eq!(footprint.cells, engines * CELLS);
}

#[test]
fn five_million_tokens_take_no_more_than_the_limits() {
    let limits = CollectorLimits::default();
    let mut collector = Collector::new(limits.clone());
    let (long, short) =
        (Sequence::new("vllm", even("long", 20_000, 0.02)), Sequence::new("vllm", even("short", 20, 0.01)));
    for number in 0..250 {
        if number == 100 {
            assert_bounded(collector.footprint(), &limits);
        }
        collector.observe(&long.observed());
        (0..25).for_each(|_| collector.observe(&short.observed()));
    }
    let footprint = collector.footprint();
    assert_bounded(footprint, &limits);
    assert_eq!((footprint.sequence_rows, footprint.pairs), (5_000, 0));
    let (tokens, sequences) = (250 * 20_000 + 250 * 25 * 20, 250 * 26);
    assert_eq!((collector.tokens(), collector.sequences()), (tokens, sequences));

    let json = json(&collector.finish(facts(), None));
    let engine = &json["engines"][0];
    assert_eq!((&engine["metrics"]["tokens"], &engine["metrics"]["sequences"]), (&tokens.into(), &sequences.into()));
    let exact = (250.0 * 20_000.0 * 0.02 + 250.0 * 25.0 * 20.0 * 0.01) / tokens as f64;
    assert!((engine["metrics"]["mae_logprob"].as_f64().unwrap() / exact - 1.0).abs() < 1e-9);
    let p99 = engine["metrics"]["p99_abs_logprob"].as_f64().unwrap();
    assert!((p99 / 0.02 - 1.0).abs() < 0.02 && engine["quantiles"] == "histogram", "{p99}");
    assert_eq!((&engine["sequences"]["total"], &engine["sequences"]["sampled"]), (&sequences.into(), &true.into()));
    assert_eq!(engine["longest"]["tokens_left_out"], 20_000 - 16_384);
    let said = json["sampling"].to_string();
    assert!(said.contains("uniform sample of 5000 of 6500") && said.contains("from a histogram"), "{said}");
}

#[test]
fn names_of_any_number_are_pooled() {
    let limits = CollectorLimits { engines: 3, labels: 4, ..CollectorLimits::default() };
    let mut collector = Collector::new(limits.clone());
    for number in 0..50 {
        let mut sequence = Sequence::new(&format!("engine {}", number % 10), even(&number.to_string(), 10, 0.01));
        sequence.worker = Some(format!("worker {number}"));
        collector.observe(&sequence.observed());
    }
    assert_bounded(collector.footprint(), &limits);
    let json = json(&collector.finish(facts(), None));
    let engines = json["engines"].as_array().unwrap();
    let names: Vec<_> = engines.iter().map(|engine| engine["engine"].as_str().unwrap()).collect();
    assert_eq!(names, ["engine 0", "engine 1", "engine 2", "other"]);
    assert_eq!(engines[3]["metrics"]["sequences"], 35);
    assert_eq!(engines[3]["workers"].as_array().unwrap().len(), 5);
    assert!(json["sampling"].to_string().contains("35 sequences of further ones are pooled"));
}
