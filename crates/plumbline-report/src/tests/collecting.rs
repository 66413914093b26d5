//! What a collector makes of sequences.

use plumbline_divergence::{Cause, ClusteredSums, SufficientStatistics, Verdict};

use super::{Sequence, collected, comparison, even, facts, finding, json, token};
use crate::{Collector, CollectorLimits, EngineFacts, Totals};

#[test]
fn merging_is_observing_everything() {
    let sequences: Vec<_> = (0..40u32)
        .map(|number| {
            let delta = 0.001 * f64::from(number + 1);
            Sequence::new(["a", "b"][number as usize % 2], even(&number.to_string(), 5 + number as usize, delta))
        })
        .collect();
    let whole = collected(&sequences);
    let mut merged = collected(&sequences[..13]);
    merged.merge(collected(&sequences[13..]));
    assert_eq!((whole.tokens(), whole.sequences()), (merged.tokens(), merged.sequences()));
    assert_eq!(whole.footprint(), merged.footprint());
    let (whole, merged) = (json(&whole.finish(facts(), None)), json(&merged.finish(facts(), None)));
    for (whole, merged) in whole["engines"].as_array().unwrap().iter().zip(merged["engines"].as_array().unwrap()) {
        for view in ["probabilities", "logprobs"] {
            assert_eq!(whole["views"][view], merged["views"][view]);
        }
        assert_eq!(whole["longest"], merged["longest"]);
        assert_eq!(whole["worst"], merged["worst"]);
        assert_eq!(whole["sequences"], merged["sequences"]);
        for (key, value) in whole["metrics"].as_object().unwrap() {
            let other = &merged["metrics"][key];
            let close =
                value.as_f64().zip(other.as_f64()).is_none_or(|(a, b)| (a - b).abs() <= 1e-9 * a.abs().max(1e-9));
            assert!(close && value.is_null() == other.is_null(), "{key}: {value} and {other}");
        }
    }
}

#[test]
fn the_longest_the_worst_and_the_typical_sequence_are_shown() {
    let mut sequences = vec![
        Sequence::new("e", even("longest", 90, 0.01)),
        Sequence::new("e", even("worst", 20, 0.5)),
        Sequence::new("e", even("short and bad", 2, 3.0)),
    ];
    sequences.extend(
        (0..9).map(|number| {
            Sequence::new("e", even(&format!("usual {number}"), 20 + number, 0.01 + 1e-4 * number as f64))
        }),
    );
    let json = json(&collected(&sequences).finish(facts(), None));
    let engine = &json["engines"][0];
    assert_eq!(engine["longest"]["sequence"]["id"], "longest");
    assert_eq!(engine["worst"]["sequence"]["id"], "worst", "two tokens are no evidence");
    assert_eq!(engine["typical"]["sequence"]["id"], "usual 4");
    assert!(engine["typical"]["choice"].as_str().unwrap().contains("among 12 of 12"));
}

#[test]
fn what_enters_no_sum_is_in_no_view() {
    let tokens = vec![token(-1.0, -1.5), token(-9999.0, -2.0), token(f64::NAN, -2.0), token(0.5, -2.0)];
    let json = json(&collected(&[Sequence::new("e", comparison("s", tokens))]).finish(facts(), None));
    let engine = &json["engines"][0];
    assert_eq!((&engine["metrics"]["tokens"], &engine["skipped"]["sentinel"]), (&1.into(), &1.into()));
    for view in ["probabilities", "logprobs"] {
        let cells = engine["views"][view]["cells"].as_array().unwrap();
        assert_eq!((cells.len(), &cells[0][2]), (1, &1.into()), "{view}");
    }
    let shown = &engine["longest"]["tokens"];
    assert_eq!(shown["skipped"], serde_json::json!([null, "sentinel", "non_finite", "positive"]));
    assert_eq!(shown["engine_logprob"], serde_json::json!([-1.0, -9999.0, null, 0.5]));
    assert_eq!(shown["log_ratio"], serde_json::json!([-0.5, null, null, null]));
}

#[test]
fn the_report_says_what_the_worst_engine_is() {
    let sequences = [Sequence::new("good", even("s", 50, 0.01)), Sequence::new("bad", even("s", 50, 0.4))];
    let mut facts = facts();
    let own = EngineFacts { diagnosis: vec![finding(Cause::StaleWeights, "numbers")], ..EngineFacts::default() };
    facts.engines.insert("bad".into(), own);
    let refused = EngineFacts { not_scored: [("too_long".to_owned(), 3)].into(), ..EngineFacts::default() };
    facts.engines.insert("silent".into(), refused);
    let report = collected(&sequences).finish(facts, None);
    assert_eq!(report.verdict(), Verdict::Divergent);
    let results: Vec<_> =
        report.engines().map(|one| (one.engine, one.verdict, one.metrics.tokens, one.statistics.tokens)).collect();
    assert_eq!(results, [("bad", Verdict::Divergent, 50, 50), ("good", Verdict::Consistent, 50, 50)]);
    let json = json(&report);
    assert!(json["verdict_reason"].as_str().unwrap().starts_with("bad: "));
    assert_eq!(json["engines"][0]["diagnosis"][0]["cause"], "stale_weights");
    assert_eq!(json["notes"][0], "no sequence of \"silent\" was scored; 3 were not (too_long: 3)");
}

#[test]
fn sums_from_elsewhere_take_the_place_of_the_observed_ones() {
    let mut collector = collected(&[Sequence::new("e", even("s", 50, 0.01))]);
    let mut statistics = SufficientStatistics::default();
    let mut clusters = ClusteredSums::default();
    for id in ["a", "b"] {
        let all = even(id, 500, 0.2);
        statistics.observe_sequence(&all);
        clusters.observe_sequence(&all);
    }
    collector.add_totals("e", &Totals { statistics, clusters, verdicts: [0, 0, 2, 0], ..Totals::default() });
    let report = collector.finish(facts(), None);
    assert_eq!(report.verdict(), Verdict::Divergent);
    let json = json(&report);
    let engine = &json["engines"][0];
    assert_eq!((&engine["metrics"]["tokens"], &engine["quantiles"]), (&1000.into(), &"none".into()));
    assert!(engine["metrics"]["p50_abs_logprob"].is_null() && engine["intervals"]["mae_logprob"].is_object());
    assert_eq!(engine["verdicts"]["divergent"], 2);
    assert!(
        json["sampling"][0]
            .as_str()
            .unwrap()
            .contains("over all 1000 tokens; views and sequences are of the 50 tokens")
    );
}

#[test]
fn an_empty_collector_makes_a_report() {
    let report = Collector::new(CollectorLimits::default()).finish(facts(), None);
    assert_eq!(report.verdict(), Verdict::Insufficient);
    assert!(report.html().unwrap().contains("no sequence was compared"));
    assert!(!report.xlsx().unwrap().is_empty() && !report.png().unwrap().is_empty());
}
