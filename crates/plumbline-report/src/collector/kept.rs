//! Sequences that are kept token by token: the longest, the worst, and candidates for the typical one.

use plumbline_core::TokenId;
use plumbline_divergence::{Finding, TokenComparison, Verdict};

use super::observed::Observed;
use super::row::SequenceRow;
use super::sample::Sample;

/// Tokens of a prompt that are kept, its last ones.
const PROMPT_TOKENS: usize = 256;
/// Causes that are kept per sequence.
const FINDINGS: usize = 4;

/// A sequence with its tokens.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KeptSequence {
    pub(crate) row: SequenceRow,
    pub(crate) findings: Vec<Finding>,
    /// The end of the prompt.
    pub(crate) prompt: Vec<TokenId>,
    /// The beginning of the completion.
    pub(crate) tokens: Vec<TokenComparison>,
    /// Whether enough tokens were compared for a verdict.
    judged: bool,
}

impl KeptSequence {
    fn of(observed: &Observed<'_>, limit: usize) -> Self {
        let prompt = observed.rollout.map_or(&[][..], |rollout| &rollout.prompt_token_ids);
        let tokens = &observed.comparison.tokens;
        Self {
            row: SequenceRow::of(observed),
            findings: observed.findings.iter().take(FINDINGS).cloned().collect(),
            prompt: prompt[prompt.len().saturating_sub(PROMPT_TOKENS)..].to_vec(),
            tokens: tokens[..tokens.len().min(limit)].to_vec(),
            judged: observed.judgement.verdict != Verdict::Insufficient,
        }
    }

    fn held_tokens(&self) -> usize {
        self.tokens.len() + self.prompt.len()
    }

    /// Sequences that are too short for a verdict come last: the mean of a few tokens is mostly its largest one.
    fn badness(&self) -> (bool, f64) {
        (self.judged, self.row.kl_k3.unwrap_or(f64::NEG_INFINITY))
    }
}

/// The kept sequences of one engine.
#[derive(Clone, Debug)]
pub(crate) struct KeptSequences {
    longest: Option<KeptSequence>,
    worst: Option<KeptSequence>,
    candidates: Sample<KeptSequence>,
    candidate_tokens: usize,
    kept_limit: usize,
    candidate_limit: usize,
}

/// The typical sequence, and among how many it was looked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Typical<'a> {
    pub(crate) sequence: &'a KeptSequence,
    pub(crate) candidates: usize,
    pub(crate) of: u64,
}

impl KeptSequences {
    pub(crate) fn new(kept_limit: usize, candidate_limit: usize, seed: u64) -> Self {
        Self {
            longest: None,
            worst: None,
            candidates: Sample::new(usize::MAX, seed),
            candidate_tokens: 0,
            kept_limit,
            candidate_limit,
        }
    }

    /// Takes in a sequence with at least one compared token.
    pub(crate) fn observe(&mut self, observed: &Observed<'_>) {
        let length = observed.comparison.tokens.len();
        let badness = (
            observed.judgement.verdict != Verdict::Insufficient,
            observed.statistics.kl_k3().unwrap_or(f64::NEG_INFINITY),
        );
        if self.longest.as_ref().is_none_or(|longest| length > longest.row.completion_tokens) {
            self.longest = Some(KeptSequence::of(observed, self.kept_limit));
        }
        if self.worst.as_ref().is_none_or(|worst| badness > worst.badness()) {
            self.worst = Some(KeptSequence::of(observed, self.kept_limit));
        }
        let (tokens, limit) = (&mut self.candidate_tokens, self.candidate_limit);
        self.candidates.offer(&observed.comparison.id, || {
            let kept = KeptSequence::of(observed, limit);
            *tokens += kept.held_tokens();
            kept
        });
        self.shrink();
    }

    fn shrink(&mut self) {
        while self.candidate_tokens > self.candidate_limit
            && let Some(dropped) = self.candidates.shrink()
        {
            self.candidate_tokens -= dropped.held_tokens();
        }
    }

    pub(crate) fn merge(&mut self, other: Self) {
        if let Some(longest) = other.longest
            && self.longest.as_ref().is_none_or(|own| longest.row.completion_tokens > own.row.completion_tokens)
        {
            self.longest = Some(longest);
        }
        if let Some(worst) = other.worst
            && self.worst.as_ref().is_none_or(|own| worst.badness() > own.badness())
        {
            self.worst = Some(worst);
        }
        self.candidate_tokens += other.candidate_tokens;
        self.candidates.merge(other.candidates);
        self.shrink();
    }

    pub(crate) fn longest(&self) -> Option<&KeptSequence> {
        self.longest.as_ref()
    }

    pub(crate) fn worst(&self) -> Option<&KeptSequence> {
        self.worst.as_ref()
    }

    /// The medoid by length and gap: the candidate with the smallest sum of distances to all of `rows`, where the distance is
    /// that of `(ln length, ln mean |d|)`, each in units of its spread (interquartile range) over the rows.
    pub(crate) fn typical(&self, rows: &[&SequenceRow]) -> Option<Typical<'_>> {
        let points: Vec<_> = rows.iter().map(|row| place(row)).collect();
        let scale = |axis: fn(&(f64, f64)) -> f64| {
            let mut values: Vec<f64> = points.iter().map(axis).collect();
            values.sort_unstable_by(f64::total_cmp);
            let at = |q: f64| values.get(((values.len().saturating_sub(1)) as f64 * q).round() as usize).copied();
            Some(at(0.75)? - at(0.25)?).filter(|spread| *spread > 0.0)
        };
        let (lengths, gaps) = (scale(|point| point.0).unwrap_or(1.0), scale(|point| point.1).unwrap_or(1.0));
        let distance = |a: (f64, f64), b: (f64, f64)| ((a.0 - b.0) / lengths).abs() + ((a.1 - b.1) / gaps).abs();
        let cost = |candidate: &KeptSequence| {
            let own = place(&candidate.row);
            points.iter().map(|point| distance(own, *point)).sum::<f64>()
        };
        let candidates = self.candidates.in_order();
        let costs = candidates.iter().map(|candidate| cost(candidate));
        let (sequence, _) = candidates.iter().zip(costs).min_by(|(_, a), (_, b)| a.total_cmp(b))?;
        Some(Typical { sequence, candidates: candidates.len(), of: self.candidates.seen() })
    }

    /// Sequences and tokens that are held.
    pub(crate) fn held(&self) -> (usize, usize) {
        let single = self.longest.iter().chain(&self.worst);
        let tokens: usize = single.clone().map(KeptSequence::held_tokens).sum();
        (single.count() + self.candidates.len(), tokens + self.candidate_tokens)
    }
}

/// Where a sequence stands by length and gap; the smallest gap that is told from none is 1e-9 nats.
fn place(row: &SequenceRow) -> (f64, f64) {
    ((row.completion_tokens.max(1) as f64).ln(), row.mae_logprob.unwrap_or(0.0).max(1e-9).ln())
}
