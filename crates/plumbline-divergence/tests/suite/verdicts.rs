//! The default levels on what a real engine answered: with the reference's weights, and with stale ones.

use plumbline_divergence::{SequenceComparison, SufficientStatistics, Verdict, VerdictLevels};

use crate::fixtures::cases;

/// The pooled verdict of a recording and those of its sequences with at least `min_tokens` compared tokens.
fn judge(recording: &str, min_tokens: u64) -> (Verdict, Vec<Verdict>) {
    let levels = VerdictLevels::default();
    let [case] = <[_; 1]>::try_from(cases(recording)).ok().unwrap();
    let comparisons = case.comparisons();
    let statistics = |comparisons: &[SequenceComparison]| {
        let mut statistics = SufficientStatistics::default();
        comparisons.iter().for_each(|comparison| statistics.observe_sequence(comparison));
        statistics
    };
    let single = comparisons.iter().map(|comparison| statistics(std::slice::from_ref(comparison)));
    let verdicts = single.filter(|own| own.tokens >= min_tokens).map(|own| levels.judge(&own).verdict).collect();
    (levels.judge(&statistics(&comparisons)).verdict, verdicts)
}

#[test]
fn faithful_engines_are_consistent() {
    for recording in ["tiny-f32-raw", "tiny-bf16-raw", "smollm2-bf16-raw"] {
        let (pooled, sequences) = judge(recording, 16);
        assert_eq!(pooled, Verdict::Consistent, "{recording}");
        let consistent = sequences.iter().filter(|verdict| **verdict == Verdict::Consistent).count();
        assert!(sequences.len() >= 20, "{recording}: {} sequences", sequences.len());
        assert!(consistent * 100 >= sequences.len() * 95, "{recording}: {consistent} of {}", sequences.len());
    }
}

#[test]
fn stale_weights_are_divergent() {
    let (pooled, sequences) = judge("tiny-bf16-stale", 8);
    assert_eq!(pooled, Verdict::Divergent);
    assert_eq!(sequences, vec![Verdict::Divergent; sequences.len()]);
    assert_eq!(sequences.len(), 47);
}
