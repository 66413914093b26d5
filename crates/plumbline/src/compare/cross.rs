//! Engines against each other: the logprobs that one engine gives to what another sampled.
//!
//! Where two engines sampled the very same tokens, both have said their logprobs already. Elsewhere the second one is asked for
//! those of the first one's tokens, teacher-forced. d = scorer - sampler, in nats, as if the scorer were the reference.

use std::collections::BTreeMap;

use plumbline_core::{LogprobsMode, Sampling, SkipCounts, SkipReason};
use plumbline_divergence::{ClusteredSums, Metrics, SequenceComparison, SufficientStatistics, TokenComparison};

use super::plan::Task;
use super::scoring::Sampled;

/// Samples of one engine, by task.
pub(super) type Samples = BTreeMap<Task, Sampled>;

/// One engine's samples under another engine.
#[derive(Debug, Default)]
pub(super) struct Crossed {
    pub(super) sampled_by: String,
    pub(super) scored_by: String,
    pub(super) statistics: SufficientStatistics,
    pub(super) clusters: ClusteredSums,
    /// Sequences that both sampled alike.
    pub(super) same: usize,
    /// Sequences that the scorer was asked about.
    pub(super) asked: usize,
    /// Sequences of which only the beginning, which both sampled alike, is compared.
    pub(super) beginnings: usize,
    pub(super) note: Option<String>,
}

impl Crossed {
    pub(super) fn new(sampled_by: &str, scored_by: &str) -> Self {
        Self { sampled_by: sampled_by.to_owned(), scored_by: scored_by.to_owned(), ..Self::default() }
    }

    /// One sequence: the sampler's logprobs beside the scorer's, of the first tokens where the scorer has fewer.
    pub(super) fn observe(&mut self, id: &str, sampled: &Sampled, scores: &[Option<f64>]) {
        let comparison = compared(id, sampled, scores);
        self.statistics.observe_sequence(&comparison);
        self.clusters.observe_sequence(&comparison);
    }

    /// Says in the note how the numbers came about.
    pub(super) fn explain(&mut self, also: Option<&str>) {
        let mut parts = Vec::new();
        for (count, how) in [
            (self.same, "sampled alike by both"),
            (self.asked, "scored by the other engine, teacher-forced"),
            (self.beginnings, "compared up to the first token that differs"),
        ] {
            if count > 0 {
                parts.push(format!("{count} sequences {how}"));
            }
        }
        parts.extend(also.map(str::to_owned));
        self.note = (!parts.is_empty()).then(|| parts.join("; "));
    }
}

/// How many tokens two completions of one prompt have in common at their beginning.
pub(super) fn common_beginning(one: &Sampled, other: &Sampled) -> usize {
    one.completion.iter().zip(&other.completion).take_while(|(one, other)| one == other).count()
}

/// Whether two engines' logprobs mean the same.
pub(super) fn same_meaning(one: LogprobsMode, other: LogprobsMode, sampling: &Sampling) -> bool {
    one == other || sampling.is_neutral()
}

fn compared(id: &str, sampled: &Sampled, scores: &[Option<f64>]) -> SequenceComparison {
    let mut skipped = SkipCounts::default();
    let each = sampled.completion.iter().zip(&sampled.logprobs).zip(scores);
    let tokens = each
        .map(|((token, engine), score)| {
            let reason = SkipReason::of_value(*engine).or_else(|| SkipReason::of_value(*score));
            if let Some(reason) = reason {
                skipped.add(reason);
            }
            TokenComparison {
                token_id: *token,
                engine: *engine,
                reference: *score,
                entropy: None,
                rank: None,
                eos_probability: None,
                skipped: reason,
            }
        })
        .collect();
    SequenceComparison { id: id.to_owned(), tokens, skipped, eos_probability: None }
}

/// One line a pair.
pub(super) fn table(crossed: &[Crossed]) -> String {
    let mut lines = vec![format!(
        "{:<16} {:<16} {:>8} {:>10} {:>10} {:>10} {:>9} {:>10}",
        "sampled by", "scored by", "tokens", "MAE", "RMSE", "max", "Pearson", "KL k3"
    )];
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3e}"));
    for pair in crossed {
        let metrics = Metrics::of_statistics(&pair.statistics);
        lines.push(format!(
            "{:<16} {:<16} {:>8} {:>10} {:>10} {:>10} {:>9} {:>10}",
            pair.sampled_by,
            pair.scored_by,
            metrics.tokens,
            number(metrics.mae_logprob),
            number(metrics.rmse_logprob),
            number(metrics.max_abs_logprob),
            metrics.pearson_logprob.map_or_else(|| "-".to_owned(), |value| format!("{value:.6}")),
            number(metrics.kl_k3),
        ));
        lines.extend(pair.note.iter().map(|note| format!("  {note}")));
    }
    lines.push("engines against each other; nats, d = scorer - sampler".to_owned());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampled(completion: &[u32], logprobs: &[Option<f64>]) -> Sampled {
        Sampled { completion: completion.to_vec(), logprobs: logprobs.to_vec(), mode: LogprobsMode::Raw }
    }

    #[test]
    fn the_gap_between_two_engines_is_scorer_minus_sampler() {
        let mut crossed = Crossed::new("a", "b");
        let sample = sampled(&[5, 6, 7], &[Some(-1.0), Some(-2.0), None]);
        crossed.observe("s", &sample, &[Some(-1.5), Some(-1.0), Some(-3.0)]);
        let metrics = Metrics::of_statistics(&crossed.statistics);
        assert_eq!((metrics.tokens, metrics.mae_logprob), (2, Some(0.75)));
        assert_eq!(metrics.log_ratio_mean, Some(0.25));
        assert_eq!(metrics.entropy, None);
    }

    #[test]
    fn only_what_both_sampled_alike_is_common() {
        let one = sampled(&[5, 6, 7], &[None; 3]);
        assert_eq!(common_beginning(&one, &sampled(&[5, 6, 8], &[None; 3])), 2);
        assert_eq!(common_beginning(&one, &sampled(&[5], &[None])), 1);
        let mut crossed = Crossed::new("a", "b");
        crossed.observe("s", &sampled(&[5, 6], &[Some(-1.0), Some(-1.0)]), &[Some(-1.0)]);
        assert_eq!(Metrics::of_statistics(&crossed.statistics).tokens, 1);
    }

    #[test]
    fn modes_may_differ_only_where_they_coincide() {
        let warm = Sampling { temperature: 0.7, ..Sampling::default() };
        assert!(same_meaning(LogprobsMode::Raw, LogprobsMode::Temperature, &Sampling::default()));
        assert!(!same_meaning(LogprobsMode::Raw, LogprobsMode::Temperature, &warm));
        assert!(same_meaning(LogprobsMode::Raw, LogprobsMode::Raw, &warm));
    }

    #[test]
    fn the_table_says_how_the_numbers_came_about() {
        let mut crossed = Crossed { same: 2, asked: 1, ..Crossed::new("f32", "bf16") };
        crossed.explain(Some("more"));
        let table = table(&[crossed]);
        assert!(table.contains("f32") && table.contains("2 sequences sampled alike by both"), "{table}");
        assert!(table.contains("1 sequences scored by the other engine, teacher-forced; more"), "{table}");
    }
}
