//! Numbers that belong to other tokens, of the same sequence or of another.

use super::case::Case;
use super::cause::Cause;
use super::hypothesis::{Fit, Prediction, Tried, fit};
use super::observed::Observed;

/// Shifts that are common to all sequences.
const SHIFTS: [isize; 4] = [-2, -1, 1, 2];
/// Lags of a single sequence.
const FARTHEST_LAG: isize = 64;
/// Overlapping tokens below which a lag says nothing.
const LEAST_OVERLAP: usize = 6;
/// Price in nats of choosing among the shifts.
const SHIFT_PRICE: f64 = 3.0;

pub(super) fn hypotheses(case: &mut Case<'_>) {
    for shift in SHIFTS {
        let fits = case.fits(|sequence, token| shifted(&case.observed[sequence], token, shift));
        let enough = |fit: &Fit| fit.tokens >= LEAST_OVERLAP;
        let fits = fits.into_iter().map(|fit| fit.filter(enough)).collect();
        case.record(Cause::ShiftedLogprobs, shift_words(shift), SHIFT_PRICE, fits);
    }
    lags(case);
    swapped(case);
}

fn shift_words(shift: isize) -> String {
    let (amount, to) = (shift.unsigned_abs(), if shift > 0 { "after" } else { "before" });
    let tokens = if amount == 1 { "token" } else { "tokens" };
    format!("each number belongs to the place {amount} {tokens} {to} its own")
}

/// The number of token `t` as if it were that of token `t + shift`.
fn shifted(observed: &Observed, token: usize, shift: isize) -> Prediction {
    let place = observed.tokens[token].place.checked_add_signed(shift);
    let other = place.and_then(|place| observed.at_place(place));
    other.map_or(Prediction::Unknown, |other| Prediction::Value(observed.tokens[other].reference))
}

/// Each sequence with its own lag.
fn lags(case: &mut Case<'_>) {
    let mut said = Vec::new();
    let mut fits = Vec::new();
    for observed in &case.observed {
        let longest = (observed.tokens.len() / 2) as isize;
        let reach = FARTHEST_LAG.min(longest);
        let best = (-reach..=reach)
            .filter(|lag| *lag != 0)
            .filter_map(|lag| Some((lag, fit(observed, |token| shifted(observed, token, lag))?)))
            .filter(|(_, fit)| fit.tokens >= 2 * LEAST_OVERLAP)
            .max_by(|a, b| a.1.gain.total_cmp(&b.1.gain));
        said.push(best.map_or_else(String::new, |(lag, _)| shift_words(lag)));
        fits.push(best.map(|(_, fit)| fit.minus(SHIFT_PRICE + (2.0 * reach as f64).ln())));
    }
    case.tried.push(Tried { said, ..Tried::new(Cause::ShiftedLogprobs, "", fits) });
}

/// Share of a sequence's tokens that another one has to cover to be its source.
const LEAST_COVER: f64 = 0.6;

/// Numbers of another sequence of the request.
fn swapped(case: &mut Case<'_>) {
    let all = case.input.sequences;
    let mut said = Vec::new();
    let mut fits = Vec::new();
    for observed in &case.observed {
        let reference =
            |other: usize, at: usize| all[other].comparison.tokens.get(at).and_then(|token| token.reference);
        let distance = |other: usize| -> Option<f64> {
            let differences: Vec<f64> = observed
                .tokens
                .iter()
                .filter_map(|token| Some((reference(other, token.at)? - token.engine).abs().min(1.0)))
                .collect();
            let enough = differences.len() >= LEAST_OVERLAP
                && differences.len() as f64 >= LEAST_COVER * observed.tokens.len() as f64;
            enough.then(|| differences.iter().sum::<f64>() / differences.len() as f64)
        };
        let others = (0..all.len()).filter(|other| *other != observed.index);
        let nearest = others
            .filter_map(|other| Some((other, distance(other)?)))
            .min_by(|a, b| a.1.total_cmp(&b.1))
            .map(|(other, _)| other);
        let best = nearest.and_then(|other| {
            let of = |token: usize| {
                reference(other, observed.tokens[token].at).map_or(Prediction::Unknown, Prediction::Value)
            };
            fit(observed, of)
        });
        said.push(nearest.map_or_else(String::new, |other| {
            format!("the numbers are those of the sequence {}", all[other].rollout.id)
        }));
        fits.push(best.map(|fit| fit.minus(SHIFT_PRICE + (all.len() as f64).ln())));
    }
    case.tried.push(Tried { said, ..Tried::new(Cause::RowsSwapped, "", fits) });
}
