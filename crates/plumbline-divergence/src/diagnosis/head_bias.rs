//! A bias on some tokens: fitted to three quarters of the tokens and judged on the rest, by turns, so that it cannot win by
//! its many parameters.

use std::collections::BTreeMap;

use plumbline_core::TokenId;

use super::case::{Case, maximise};
use super::cause::Cause;
use super::hypothesis::{Prediction, Tried};
use super::likelihood::log_density;

/// Ids that get a bias at most.
const MOST_IDS: usize = 96;
/// Rounds over them.
const ROUNDS: usize = 2;
/// Nats by which a bias must raise the likelihood to be kept.
const LEAST_GAIN: f64 = 2.5;
/// Share of `|d|` to explain: ids that the fitted part does not have keep their difference.
const LEAST_EXPLAINED: f64 = 0.25;
/// Parts of which each is predicted from the others.
const PARTS: usize = 4;
/// Floors that the median token may keep. Under a bias on some ids most tokens are at the floor, what is left comes from a
/// few: 0.9 to 1.9 with biases on 8 to 64 ids. Other weights lower the mean too, and leave 17 and more with the typical token.
const MOST_TYPICAL: f64 = 5.0;
/// Tokens below which parts say nothing.
const LEAST_TOKENS: usize = 48;

/// One row as this hypothesis needs it.
struct Sample {
    sequence: usize,
    token: usize,
    id: TokenId,
    /// `d` in nats.
    ratio: f64,
    /// Log-sum-exp of the row at the temperature of the numbers.
    total: f64,
    scale: f64,
}

/// Probabilities of one id in all samples.
type Mass = Vec<f64>;

pub(super) fn hypotheses(case: &mut Case<'_>) {
    // A bias `b` of the logits is one of `b / T` of the numbers.
    let Some(temperature) = super::head::temperature(case) else { return };
    let samples: Vec<Sample> = case
        .rows
        .iter()
        .enumerate()
        .flat_map(|(sequence, rows)| {
            rows.iter().enumerate().filter_map(move |(token, row)| Some((sequence, token, row.as_ref()?)))
        })
        .map(|(sequence, token, row)| {
            let observed = &case.observed[sequence].tokens[token];
            let total = row.log_sum(|logit| logit / temperature);
            Sample { sequence, token, id: observed.id, ratio: observed.log_ratio(), total, scale: observed.scale }
        })
        .collect();
    if samples.len() < LEAST_TOKENS {
        return;
    }
    let mut values: BTreeMap<(usize, usize), f64> = BTreeMap::new();
    let mut strongest: Option<(TokenId, f64)> = None;
    let mut count = 0;
    for part in 0..PARTS {
        let biases = fitted(case, &samples, temperature, part);
        count = count.max(biases.len());
        for (sample, value) in
            samples.iter().zip(predicted(case, &samples, temperature, &biases)).enumerate().filter_map(
                |(index, pair)| {
                    // By position, so that every sequence is in all parts.
                    (index % PARTS == part).then_some(pair)
                },
            )
        {
            values.insert((sample.sequence, sample.token), value);
        }
        for (id, bias) in biases {
            if strongest.is_none_or(|(_, other)| bias.abs() > f64::abs(other)) {
                strongest = Some((id, bias));
            }
        }
    }
    let Some((id, bias)) = strongest else { return };
    if typical_residual(case, &samples, &values) > MOST_TYPICAL {
        return;
    }
    let fits = case.fits(|sequence, token| {
        values.get(&(sequence, token)).map_or(Prediction::Unknown, |value| Prediction::Value(*value))
    });
    let said = format!(
        "the difference goes with the token: a bias on {count} ids, the largest {:+.2} on the id {id}",
        bias * temperature
    );
    case.tried.push(Tried { least_explained: LEAST_EXPLAINED, ..Tried::new(Cause::HeadBias, said, fits) });
}

/// Median of what is left of `|d|`, in floors, over the predicted tokens.
fn typical_residual(case: &Case<'_>, samples: &[Sample], values: &BTreeMap<(usize, usize), f64>) -> f64 {
    let left = |sample: &Sample| {
        let value = values.get(&(sample.sequence, sample.token))?;
        let engine = case.observed[sample.sequence].tokens[sample.token].engine;
        Some((engine - value).abs() / sample.scale)
    };
    let mut left: Vec<f64> = samples.iter().filter_map(left).collect();
    left.sort_by(f64::total_cmp);
    left.get(left.len() / 2).copied().unwrap_or(0.0)
}

/// Probability of an id in every sample at the temperature of the numbers; 0 where its sequence does not have the id, and the logit was not kept.
fn mass(case: &Case<'_>, samples: &[Sample], temperature: f64, id: TokenId) -> Mass {
    samples
        .iter()
        .map(|sample| {
            let own = case.own[sample.sequence].binary_search(&id).ok();
            let row = case.rows[sample.sequence][sample.token].as_ref();
            own.zip(row).map_or(0.0, |(own, row)| (f64::from(row.own[own]) / temperature - sample.total).exp())
        })
        .collect()
}

/// Biases by id, fitted to the samples of all parts but one.
fn fitted(case: &Case<'_>, samples: &[Sample], temperature: f64, without: usize) -> Vec<(TokenId, f64)> {
    let mut by_id: BTreeMap<TokenId, f64> = BTreeMap::new();
    for (_, sample) in samples.iter().enumerate().filter(|(at, _)| at % PARTS != without) {
        *by_id.entry(sample.id).or_default() += sample.ratio.abs() / sample.scale;
    }
    let mut ids: Vec<(TokenId, f64)> = by_id.into_iter().collect();
    ids.sort_by(|a, b| b.1.total_cmp(&a.1));
    ids.truncate(MOST_IDS);
    let masses: Vec<Mass> = ids.iter().map(|(id, _)| mass(case, samples, temperature, *id)).collect();
    // Which of the ids each sample's own token is.
    let own: Vec<Option<usize>> =
        samples.iter().map(|sample| ids.iter().position(|(id, _)| *id == sample.id)).collect();
    let mut biases = vec![0.0; ids.len()];
    // What the biases add to the softmax's sum, as a share of it.
    let mut added = vec![0.0; samples.len()];
    let grid: Vec<f64> = (-12..=12).map(|step| 0.25 * f64::from(step)).collect();
    for _ in 0..ROUNDS {
        for (index, mass) in masses.iter().enumerate() {
            let old = f64::exp_m1(biases[index]);
            let touched: Vec<usize> = (0..samples.len())
                .filter(|at| at % PARTS != without && (mass[*at] > 1e-3 || own[*at] == Some(index)))
                .collect();
            let likelihood = |bias: f64| -> f64 {
                let change = bias.exp_m1() - old;
                touched
                    .iter()
                    .map(|at| {
                        let (at, sample) = (*at, &samples[*at]);
                        let own = own[at].map_or(0.0, |own| if own == index { bias } else { biases[own] });
                        let shift = own - (added[at] + mass[at] * change).max(-0.999).ln_1p();
                        log_density(sample.ratio + shift, 1.2 * sample.scale)
                    })
                    .sum()
            };
            let none = likelihood(0.0);
            let best = maximise(&grid, likelihood).filter(|best| likelihood(*best) > none + LEAST_GAIN).unwrap_or(0.0);
            let change = best.exp_m1() - old;
            added.iter_mut().zip(mass).for_each(|(added, mass)| *added += mass * change);
            biases[index] = best;
        }
    }
    ids.into_iter().map(|(id, _)| id).zip(biases).filter(|(_, bias)| *bias != 0.0).collect()
}

/// The engine's numbers under biases, for every sample.
fn predicted(case: &Case<'_>, samples: &[Sample], temperature: f64, biases: &[(TokenId, f64)]) -> Vec<f64> {
    let mut added = vec![0.0; samples.len()];
    for (id, bias) in biases {
        let mass = mass(case, samples, temperature, *id);
        added.iter_mut().zip(mass).for_each(|(added, mass)| *added += mass * bias.exp_m1());
    }
    samples
        .iter()
        .zip(added)
        .map(|(sample, added)| {
            let own = biases.iter().find(|(id, _)| *id == sample.id).map_or(0.0, |(_, bias)| *bias);
            let reference = case.observed[sample.sequence].tokens[sample.token].reference;
            reference + own - added.max(-0.999).ln_1p()
        })
        .collect()
}
