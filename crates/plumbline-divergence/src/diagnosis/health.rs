//! Numbers that are no logprobs.

use plumbline_core::SkipReason;

use super::cause::Cause;
use super::finding::Finding;
use super::input::SuspectSequence;

/// What is wrong with one sequence's numbers as such.
#[derive(Clone, Debug, Default)]
pub(super) struct Health {
    pub(super) findings: Vec<Finding>,
    /// Completion indices whose numbers mean nothing, besides those that are skipped anyway.
    pub(super) without: Vec<usize>,
    /// Whether all of it is within two tokens of an end: what a shift leaves behind.
    pub(super) only_edges: bool,
}

/// A reference below this, in nats, is not "certain", whatever the rounding.
const NOT_CERTAIN: f64 = -0.02;
/// One value below this that comes again and again, far below the reference, stands for "none".
const SENTINEL_LIKE: f64 = -20.0;
const SENTINEL_GAP: f64 = 10.0;
/// Tokens at the end that are a matter of how a sequence ends, not of placeholders.
pub(super) const END: usize = 3;

/// Examines all sequences of a request: whether a 0.0 is a placeholder shows in all of them together.
pub(super) fn examine(sequences: &[SuspectSequence<'_>]) -> Vec<Health> {
    let zeros: Vec<Vec<usize>> = sequences.iter().map(zeros).collect();
    // A truncation to one token gives 0.0 as well, but only to the reference's first choice.
    let has_unlikely_zero = sequences.iter().zip(&zeros).any(|(sequence, zeros)| {
        zeros.iter().any(|at| sequence.comparison.tokens[*at].rank.is_some_and(|rank| rank > 0))
    });
    let at_the_end = |(sequence, zeros): (&SuspectSequence<'_>, &Vec<usize>)| {
        zeros.iter().all(|at| at + END >= sequence.comparison.tokens.len())
    };
    // A number that is missing only where sequences end is a matter of the end: the terminal token's hypothesis takes it.
    let only_ends = sequences.iter().zip(&zeros).all(at_the_end);
    let placeholders = has_unlikely_zero && !only_ends;
    sequences
        .iter()
        .zip(zeros)
        .map(|(sequence, zeros)| examine_one(sequence, if placeholders { zeros } else { Vec::new() }))
        .collect()
}

/// Completion indices of numbers that are exactly 0 for a token that is not certain.
fn zeros(sequence: &SuspectSequence<'_>) -> Vec<usize> {
    let tokens = sequence.comparison.tokens.iter().enumerate();
    let is_zero = |(at, token): (usize, &crate::TokenComparison)| {
        let (engine, reference) = token.compared()?;
        (engine == 0.0 && reference < NOT_CERTAIN).then_some(at)
    };
    tokens.filter_map(is_zero).collect()
}

fn examine_one(sequence: &SuspectSequence<'_>, zeros: Vec<usize>) -> Health {
    let tokens = &sequence.comparison.tokens;
    let len = tokens.len();
    let mut health = Health { only_edges: true, ..Health::default() };
    let mut add = |cause, at: &[usize], evidence: String| {
        health.only_edges &= at.len() <= 2 && at.iter().all(|at| *at < 2 || at + 2 >= len);
        health.findings.push(Finding { cause, explained: None, residual_floor_multiple: None, evidence });
    };
    let with = |reason| -> Vec<usize> { (0..len).filter(|at| tokens[*at].skipped == Some(reason)).collect() };

    let mut sentinels = with(SkipReason::Sentinel);
    let mut value = sentinels.first().and_then(|at| tokens[*at].engine);
    let repeated = repeated_value(sequence);
    if sentinels.is_empty() {
        value = repeated.first().and_then(|at| tokens[*at].engine);
        sentinels.clone_from(&repeated);
    }
    if let Some(value) = value {
        let count = sentinels.len();
        add(
            Cause::SentinelValues,
            &sentinels,
            format!(
                "{count} of {len} numbers are {value}, which stands for \"none\": the engine had no logprob for these tokens"
            ),
        );
    }
    let broken = with(SkipReason::NonFinite);
    if !broken.is_empty() {
        add(Cause::NonFinite, &broken, format!("{} of {len} numbers are NaN or infinite", broken.len()));
    }
    let positive = with(SkipReason::Positive);
    if !positive.is_empty() {
        add(Cause::PositiveLogprobs, &positive, positive_words(sequence, &positive));
    }
    if !zeros.is_empty() {
        let mean = zeros.iter().filter_map(|at| tokens[*at].reference).sum::<f64>() / zeros.len() as f64;
        let count = zeros.len();
        add(
            Cause::PlaceholderZeros,
            &zeros,
            format!(
                "{count} of {len} numbers are exactly 0.0, where the reference has {mean:.3} on average: placeholders, not logprobs"
            ),
        );
        let all: f64 = tokens.iter().filter_map(crate::TokenComparison::compared).map(|(e, r)| (r - e).abs()).sum();
        let of_zeros: f64 = zeros.iter().filter_map(|at| tokens[*at].reference).map(f64::abs).sum();
        if let Some(finding) = health.findings.last_mut() {
            finding.explained = Some(of_zeros / all);
        }
    }
    health.without = zeros;
    health.without.extend(repeated);
    health
}

/// Completion indices of one very negative value that comes at least twice, far below the reference.
fn repeated_value(sequence: &SuspectSequence<'_>) -> Vec<usize> {
    let tokens = &sequence.comparison.tokens;
    let low: Vec<(usize, f64)> = tokens
        .iter()
        .enumerate()
        .filter_map(|(at, token)| token.compared().map(|(engine, reference)| (at, engine, reference)))
        .filter(|(_, engine, reference)| *engine <= SENTINEL_LIKE && reference - engine > SENTINEL_GAP)
        .map(|(at, engine, _)| (at, engine))
        .collect();
    let Some((_, value)) = low.first().copied() else { return Vec::new() };
    let same: Vec<usize> = low.iter().filter(|(_, engine)| *engine == value).map(|(at, _)| *at).collect();
    if same.len() > 1 { same } else { Vec::new() }
}

/// Whether positive numbers are flipped signs or probabilities.
fn positive_words(sequence: &SuspectSequence<'_>, positive: &[usize]) -> String {
    let tokens = &sequence.comparison.tokens;
    let pairs: Vec<(f64, f64)> =
        positive.iter().filter_map(|at| Some((tokens[*at].engine?, tokens[*at].reference?))).collect();
    let distance = |of: fn(f64) -> f64| -> f64 {
        pairs.iter().map(|(engine, reference)| (engine - of(*reference)).abs()).sum::<f64>() / pairs.len().max(1) as f64
    };
    let (flipped, probability) = (distance(|reference| -reference), distance(f64::exp));
    let count = format!("{} of {} numbers are above 0", positive.len(), tokens.len());
    if flipped < 0.3 && flipped <= probability {
        format!("{count}: logprobs with the sign flipped (mean distance from -r {flipped:.4})")
    } else if probability < 0.1 {
        format!("{count}: probabilities, not their logarithms (mean distance from exp r {probability:.4})")
    } else {
        format!("{count}, which no logarithm of a probability is")
    }
}
