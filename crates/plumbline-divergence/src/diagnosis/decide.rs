//! From fits to named causes.

use super::case::Case;
use super::cause::Cause;
use super::finding::Finding;
use super::hypothesis::{Fit, Tried};
use super::shape;

/// Causes that are named at most.
const MOST_FINDINGS: usize = 3;
/// What other sequences of the request may add to a cause of this one, in nats: they decide between causes that the
/// sequence itself cannot tell apart, and no more.
const MOST_FROM_OTHERS: f64 = 8.0;
/// Nats that the request's first cause has to gain in one sequence.
const LEADER_MARGIN: f64 = 1.0;
/// Share of the best cause's gain from which another one is worth naming.
const WORTH_NAMING: f64 = 0.6;

/// The best hypothesis of one cause: its fit to each sequence.
struct Candidate<'a> {
    cause: Cause,
    /// Per sequence: the fit and the hypothesis.
    fits: Vec<Option<(Fit, &'a Tried)>>,
    /// Likelihood, scaled to whole sequences.
    total: f64,
}

/// Names causes for the request as a whole and for each suspicious sequence, in their order.
pub(super) fn decide(case: &Case<'_>, exhausted: bool) -> (Vec<Finding>, Vec<Vec<Finding>>) {
    let mut candidates: Vec<Candidate<'_>> = Vec::new();
    for cause in Cause::ALL {
        let of_cause: Vec<&Tried> = case.tried.iter().filter(|tried| tried.cause == cause).collect();
        if of_cause.is_empty() {
            continue;
        }
        let fits: Vec<_> = (0..case.observed.len())
            .map(|sequence| {
                let fits = of_cause.iter().filter_map(|tried| Some((tried.fits[sequence]?, *tried)));
                fits.max_by(|a, b| a.0.gain.total_cmp(&b.0.gain))
            })
            .collect();
        let total = fits
            .iter()
            .enumerate()
            .filter_map(|(sequence, fit)| fit.map(|(fit, _)| scaled(case, sequence, &fit)))
            .sum();
        candidates.push(Candidate { cause, fits, total });
    }
    let everything: Vec<usize> = (0..case.observed.len()).collect();
    let request = rank(case, &candidates, &everything, None, exhausted);
    let leader = request.first().filter(|first| first.explained.is_some()).map(|first| first.cause);
    let alone = |sequence: &usize| match case.observed.len() {
        1 => request.clone(),
        _ => rank(case, &candidates, &[*sequence], leader, exhausted),
    };
    let sequences = everything.iter().map(alone).collect();
    (request, sequences)
}

/// A gain as if the hypothesis had been worked out for every token.
fn scaled(case: &Case<'_>, sequence: usize, fit: &Fit) -> f64 {
    let share = case.observed[sequence].tokens.len() as f64 / fit.tokens.max(1) as f64;
    // Price and luck do not grow with the tokens.
    if fit.gain > 0.0 { fit.gain * share } else { fit.gain }
}

/// Ranks causes for some sequences. `leader` is the request's first cause: it needs no proof by this sequence, only that
/// nothing speaks against it.
fn rank(
    case: &Case<'_>,
    candidates: &[Candidate<'_>],
    sequences: &[usize],
    leader: Option<Cause>,
    exhausted: bool,
) -> Vec<Finding> {
    let config = case.config;
    let mut ranked: Vec<(f64, &Candidate<'_>, Fit, &Tried, usize)> = Vec::new();
    for candidate in candidates {
        let mut pooled = Fit::default();
        let mut best: Option<(f64, &Tried, usize)> = None;
        let mut score = 0.0;
        for sequence in sequences {
            let Some((fit, tried)) = candidate.fits[*sequence] else { continue };
            pooled.merge(&fit);
            let gain = scaled(case, *sequence, &fit);
            score += gain;
            if best.is_none_or(|(other, ..)| gain > other) {
                best = Some((gain, tried, *sequence));
            }
        }
        let Some((_, tried, sequence)) = best else { continue };
        let explains = pooled.explained() >= tried.least_explained
            || (pooled.reaches(config.reached) && pooled.explained() > 0.15);
        let leads = leader == Some(candidate.cause);
        let needed = if leads { LEADER_MARGIN } else { config.margin };
        if pooled.gain < needed || !explains {
            continue;
        }
        if leader.is_some() {
            score += (candidate.total - score).clamp(-MOST_FROM_OTHERS, MOST_FROM_OTHERS);
        }
        ranked.push((score, candidate, pooled, tried, sequence));
    }
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    let best = ranked.first().map_or(0.0, |(score, ..)| *score);
    let mut findings: Vec<Finding> = ranked
        .iter()
        .filter(|(score, ..)| *score >= WORTH_NAMING * best)
        .take(MOST_FINDINGS)
        .map(|(_, candidate, fit, tried, sequence)| named(candidate.cause, fit, tried.words(*sequence)))
        .collect();
    if findings.is_empty() {
        if let Some(leader) = leader.filter(|leader| !is_contradicted(candidates, *leader, sequences)) {
            let tokens: usize = sequences.iter().map(|sequence| case.observed[*sequence].tokens.len()).sum();
            let evidence = format!("found in the request's other sequences; these {tokens} tokens alone do not tell");
            return vec![Finding { cause: leader, explained: None, residual_floor_multiple: None, evidence }];
        }
        // One sequence alone has too few tokens to tell noise from weights.
        let everything: Vec<usize> = (0..case.observed.len()).collect();
        let (cause, _) = shape::unexplained(case, &everything);
        let (_, mut evidence) = shape::unexplained(case, sequences);
        if exhausted {
            evidence.push_str("; the budget did not suffice for all hypotheses");
        }
        findings.push(Finding { cause, explained: None, residual_floor_multiple: None, evidence });
    }
    findings
}

/// Whether the request's first cause makes these sequences' numbers clearly less likely.
fn is_contradicted(candidates: &[Candidate<'_>], leader: Cause, sequences: &[usize]) -> bool {
    let candidate = candidates.iter().find(|candidate| candidate.cause == leader);
    let gain =
        |sequence: &usize| candidate.and_then(|candidate| candidate.fits[*sequence]).map_or(0.0, |(fit, _)| fit.gain);
    sequences.iter().map(gain).sum::<f64>() < -MOST_FROM_OTHERS
}

fn named(cause: Cause, fit: &Fit, words: &str) -> Finding {
    Finding {
        cause,
        explained: Some(fit.explained()),
        residual_floor_multiple: Some(fit.residual()),
        evidence: format!(
            "{words}: mean |d| falls from {:.4} to {:.4} nats, {:.1} times the floor, over {} tokens",
            fit.mae_before(),
            fit.mae_after(),
            fit.residual(),
            fit.tokens
        ),
    }
}
