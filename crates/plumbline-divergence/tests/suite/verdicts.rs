//! The default levels on what a real engine answered: with the reference's weights, and with stale ones.

use std::slice;

use plumbline_divergence::{Metrics, Verdict, VerdictLevels};

use crate::fixtures::cases;

/// The pooled verdict of a recording and those of its sequences with at least `min_tokens` compared tokens.
fn judge(recording: &str, min_tokens: u64) -> (Verdict, Vec<Verdict>) {
    let levels = VerdictLevels::default();
    let [case] = <[_; 1]>::try_from(cases(recording)).ok().unwrap();
    let comparisons = case.comparisons();
    let single = comparisons.iter().map(|comparison| Metrics::of(slice::from_ref(comparison)));
    let verdicts =
        single.filter(|metrics| metrics.tokens >= min_tokens).map(|metrics| levels.judge(&metrics)).collect();
    (levels.judge(&Metrics::of(&comparisons)), verdicts)
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
