//! Other weights than those of the posted version: all through, from a token on, or in the cache of the prompt only.

use plumbline_core::{Rollout, TokenScores, Variant};

use super::case::{Case, maximise, total};
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
            vec![Question::of_variant(Cause::AdapterMissing, said, VERSION, Variant::WithoutAdapter)],
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
        let mut scores: Vec<Option<TokenScores>> = vec![None; case.observed.len()];
        for sequence in &chosen {
            scores[*sequence] = ask(case, prober, *sequence, &question, usize::MAX);
        }
        let promising = chosen.iter().any(|sequence| {
            scores[*sequence].as_ref().is_some_and(|scores| {
                let whole = fit_scores(case, *sequence, scores).map_or(0.0, |fit| fit.gain);
                let swap = swapped(&case.observed[*sequence], scores).map_or(0.0, |(fit, ..)| fit.gain);
                let mixed = mixture(&case.observed[*sequence], scores, 0.3, f64::INFINITY).map_or(0.0, |fit| fit.gain);
                whole.max(swap).max(mixed) > 3.0
            })
        });
        if promising {
            for sequence in 0..case.observed.len() {
                if scores[sequence].is_none() {
                    scores[sequence] = ask(case, prober, sequence, &question, usize::MAX);
                }
            }
        }
        let fits: Vec<Option<Fit>> = (0..case.observed.len())
            .map(|sequence| scores[sequence].as_ref().and_then(|scores| fit_scores(case, sequence, scores)))
            .collect();
        case.record(Cause::StaleWeights, question.said.clone(), question.price, fits);
        swaps(case, &scores, &version, &posted);
        stale_cache(case, &scores, &version);
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

/// Numbers between those of both versions: by the stated weights, over keys and values of the other ones, whose part fades
/// with the distance from the prompt.
fn mixture(observed: &Observed, scores: &TokenScores, share: f64, length: f64) -> Option<Fit> {
    fit(observed, |token| {
        let own = observed.tokens[token].reference;
        let fading = (-(observed.tokens[token].at as f64) / length).exp();
        let value = other(observed, scores, token).map(|other| own + share * fading * (other - own));
        value.map_or(Prediction::Unknown, Prediction::Value)
    })
}

/// A cache that explains this share of `|d|` by a mixture is not chance.
const LEAST_MIXED: f64 = 0.02;

fn stale_cache(case: &mut Case<'_>, scores: &[Option<TokenScores>], version: &str) {
    let fits = |case: &Case<'_>, share: f64, length: f64| -> Vec<Option<Fit>> {
        let pairs = case.observed.iter().zip(scores);
        pairs.map(|(observed, scores)| mixture(observed, scores.as_ref()?, share, length)).collect()
    };
    let shares: Vec<f64> = (1..9).map(|step| 0.1 * f64::from(step)).collect();
    let mut best: Option<(f64, f64, f64)> = None;
    for length in [f64::INFINITY, 16.0, 48.0] {
        if let Some(share) = maximise(&shares, |share| total(&fits(case, share, length))) {
            let gain = total(&fits(case, share, length));
            if best.is_none_or(|(other, ..)| gain > other) {
                best = Some((gain, share, length));
            }
        }
    }
    let Some((_, share, length)) = best.filter(|(_, share, _)| *share < 0.85) else { return };
    let found = fits(case, share, length);
    let said = format!(
        "the numbers lie {:.0} % of the way to those of version {version}{}: stated weights over keys and values of the other version",
        100.0 * share,
        if length.is_finite() { " and ever less along the sequence" } else { "" }
    );
    case.record(Cause::StalePrefixCache, said, 8.0, found);
    if let Some(tried) = case.tried.last_mut() {
        tried.least_explained = LEAST_MIXED;
    }
}
