//! Other weights than those of the posted version: all through, or from a token on.

use plumbline_core::{Rollout, TokenScores, Variant};

use super::case::Case;
use super::cause::Cause;
use super::hypothesis::{Fit, Prediction, Tried, fit};
use super::likelihood::log_density;
use super::observed::Observed;
use super::prober::Budgeted;
use super::reforward::{Question, ask, fit_scores, panel, try_all};

/// Price in nats of one of the few resident versions.
const VERSION: f64 = 2.0;
/// Versions that are tried, the nearest first.
const MOST_VERSIONS: usize = 6;
/// Tokens on either side of a swap.
const LEAST_SIDE: usize = 3;

pub(super) fn hypotheses(case: &mut Case<'_>, prober: &mut Budgeted<'_>) {
    if prober.supports(&Variant::WithoutAdapter) {
        let said = "the engine served the base model without the adapter";
        try_all(
            case,
            prober,
            &[Question::of_variant(Cause::AdapterMissing, said, VERSION, Variant::WithoutAdapter)],
            usize::MAX,
        );
    }
    versions(case, prober);
}

/// Resident versions other than the posted one, the nearest first.
fn others(case: &Case<'_>, prober: &Budgeted<'_>) -> Vec<String> {
    let resident = prober.versions();
    let posted = case.rollout(0).policy_version.clone();
    let place = |version: Option<&String>| resident.iter().position(|known| Some(known) == version);
    // Without a stated version the newest one scored.
    let own = place(posted.as_ref()).unwrap_or(resident.len().saturating_sub(1));
    let mut others: Vec<(usize, String)> = resident
        .iter()
        .enumerate()
        .filter(|(index, _)| *index != own)
        .map(|(index, version)| (index.abs_diff(own), version.clone()))
        .collect();
    others.sort_by_key(|(distance, _)| *distance);
    others.into_iter().take(MOST_VERSIONS).map(|(_, version)| version).collect()
}

fn by_version(version: &str) -> impl Fn(&Rollout) -> Option<Rollout> + 'static {
    let version = version.to_owned();
    move |rollout| {
        Some(Rollout { policy_version: Some(version.clone()), weight_versions: Vec::new(), ..rollout.clone() })
    }
}

fn versions(case: &mut Case<'_>, prober: &mut Budgeted<'_>) {
    let chosen = panel(case);
    for version in others(case, prober) {
        let posted = case.rollout(0).policy_version.as_deref().unwrap_or("the current one").to_owned();
        let said = format!("the engine computed with version {version} where {posted} was posted");
        let question = Question::altered(Cause::StaleWeights, said, VERSION, by_version(&version));
        let mut scores = ask(case, prober, &chosen, &question, usize::MAX);
        let promising = chosen.iter().any(|sequence| {
            scores[*sequence].as_ref().is_some_and(|scores| {
                let whole = fit_scores(case, *sequence, scores).map_or(0.0, |fit| fit.gain);
                let swap = swapped(&case.observed[*sequence], scores).map_or(0.0, |(fit, ..)| fit.gain);
                whole.max(swap) > 3.0
            })
        });
        if promising {
            let others: Vec<usize> = (0..case.observed.len()).filter(|sequence| scores[*sequence].is_none()).collect();
            for (known, asked) in scores.iter_mut().zip(ask(case, prober, &others, &question, usize::MAX)) {
                *known = known.take().or(asked);
            }
        }
        let fits: Vec<Option<Fit>> = (0..case.observed.len())
            .map(|sequence| scores[sequence].as_ref().and_then(|scores| fit_scores(case, sequence, scores)))
            .collect();
        case.record(Cause::StaleWeights, question.said.clone(), question.price, fits);
        swaps(case, &scores, &version, &posted);
    }
}

/// The scores of one token by the other version.
fn other(observed: &Observed, scores: &TokenScores, token: usize) -> Option<f64> {
    scores.logprobs_in_mode.get(observed.tokens[token].place).copied().filter(|value| value.is_finite())
}

/// The best split into a part by one version and a part by the other: the fit, the first token of the second part, and
/// whether the other version is the first.
fn swapped(observed: &Observed, scores: &TokenScores) -> Option<(Fit, usize, bool)> {
    let tokens = &observed.tokens;
    if tokens.len() < 2 * LEAST_SIDE {
        return None;
    }
    let density = |value: f64, token: usize| log_density(value - tokens[token].engine, 1.2 * tokens[token].scale);
    let advantage: Vec<f64> = (0..tokens.len())
        .map(|token| {
            let by_other = other(observed, scores, token).unwrap_or(tokens[token].reference);
            density(by_other, token) - density(tokens[token].reference, token)
        })
        .collect();
    // Sum of the other version's advantage over the first tokens; the best prefix or suffix to give to it.
    let all: f64 = advantage.iter().sum();
    let mut best = (f64::NEG_INFINITY, 0, false);
    let mut prefix = 0.0;
    for (split, gain) in advantage.iter().enumerate() {
        if split >= LEAST_SIDE && split + LEAST_SIDE <= tokens.len() {
            for (gain, other_first) in [(prefix, true), (all - prefix, false)] {
                if gain > best.0 {
                    best = (gain, split, other_first);
                }
            }
        }
        prefix += gain;
    }
    let (_, split, other_first) = best;
    let fit = fit(observed, |token| {
        let by_other = (token < split) == other_first;
        let value = if by_other { other(observed, scores, token) } else { Some(tokens[token].reference) };
        value.map_or(Prediction::Unknown, Prediction::Value)
    })?;
    let price = VERSION + 3.0 + (2.0 * tokens.len() as f64).ln();
    Some((fit.minus(price), split, other_first))
}

fn swaps(case: &mut Case<'_>, scores: &[Option<TokenScores>], version: &str, posted: &str) {
    let mut said = Vec::new();
    let mut fits = Vec::new();
    for (observed, scores) in case.observed.iter().zip(scores) {
        let found = scores.as_ref().and_then(|scores| swapped(observed, scores));
        said.push(found.map_or_else(String::new, |(_, split, other_first)| {
            let at = observed.tokens[split].at;
            let (before, after) = if other_first { (version, posted) } else { (posted, version) };
            format!("the weights changed from version {before} to {after} at completion token {at}")
        }));
        fits.push(found.map(|(fit, ..)| fit));
    }
    case.tried.push(Tried { said, ..Tried::new(Cause::MidSequenceWeightSwap, "", fits) });
}
