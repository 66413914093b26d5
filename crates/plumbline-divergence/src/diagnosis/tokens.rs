//! Differences that begin at a token: another token there, another text from there, other ids for the same text.

use plumbline_core::{Rollout, TokenId};

use super::case::Case;
use super::cause::Cause;
use super::health::END;
use super::hypothesis::{Fit, Prediction, Tried, fit};
use super::likelihood::{log_density, log_density_anywhere};
use super::observed::Observed;
use super::segment::{self, Segment};

/// Price in nats of a change of lag.
const CHANGE: f64 = 7.0;
/// Lags that are followed, on either side.
const FARTHEST: isize = 8;

/// The stretch of each sequence in which it differs, where there is one.
pub(super) fn segments(case: &Case<'_>) -> Vec<Option<Segment>> {
    let found = case.observed.iter().map(segment::find);
    found.map(|found| found.filter(|segment| segment.gain > case.config.margin)).collect()
}

/// Hypotheses that need no further forward.
pub(super) fn hypotheses(case: &mut Case<'_>) {
    terminal(case);
    drifting_lag(case);
}

/// Only the last tokens differ.
fn terminal(case: &mut Case<'_>) {
    let mut said = Vec::new();
    let mut fits = Vec::new();
    let eos = &case.input.model.eos_token_ids;
    for (sequence, observed) in case.observed.iter().enumerate() {
        let rollout = case.rollout(sequence);
        let len = rollout.completion_token_ids.len();
        let count = observed.tokens.len();
        let reaches_end = observed.tokens.last().is_some_and(|token| token.at + 1 == len);
        let best = (1..=END.min(count.saturating_sub(1)))
            .filter(|_| reaches_end)
            .filter_map(|ends| {
                let predictions = |token: usize| {
                    if token + ends >= count {
                        Prediction::Anything
                    } else {
                        Prediction::Value(observed.tokens[token].reference)
                    }
                };
                Some((ends, fit(observed, predictions)?.minus(1.0 + ends as f64)))
            })
            .max_by(|a, b| a.1.gain.total_cmp(&b.1.gain));
        said.push(best.map_or_else(String::new, |(ends, _)| {
            let last = &observed.tokens[count - 1];
            let probability = case.sequence(sequence).scores.eos_probability.get(last.place).copied().unwrap_or(0.0);
            let kind = if eos.contains(&last.id) { "an end token" } else { "not an end token" };
            format!(
                "only the last {ends} of {count} numbers differ; the last is {:.4} where the reference has {:.4}, for {kind}, \
                 and the reference ends there with probability {probability:.4}",
                last.engine, last.reference
            )
        }));
        fits.push(best.map(|(_, fit)| fit));
    }
    case.tried.push(Tried { said, ..Tried::new(Cause::TerminalToken, "", fits) });
}

/// The number of token `t` is that of token `t + lag`, and the lag changes along the sequence: ids that came from encoding
/// the text anew are fewer or more than those that were sampled. The best path over lags, found by dynamic programming.
fn drifting_lag(case: &mut Case<'_>) {
    let mut said = Vec::new();
    let mut fits = Vec::new();
    for observed in &case.observed {
        let found = lag_path(observed);
        said.push(found.as_ref().map_or_else(String::new, |(_, changes)| {
            let at: Vec<String> = changes.iter().take(4).map(|(at, lag)| format!("{lag:+} from token {at}")).collect();
            format!("the numbers belong to ids that were encoded anew: they are shifted by {}", at.join(", "))
        }));
        fits.push(found.map(|(fit, _)| fit));
    }
    case.tried.push(Tried { said, ..Tried::new(Cause::Retokenised, "", fits) });
}

type Changes = Vec<(usize, isize)>;

/// The best path that begins without a lag and changes at least once.
fn lag_path(observed: &Observed) -> Option<(Fit, Changes)> {
    let tokens = &observed.tokens;
    let lags: Vec<isize> = (-FARTHEST..=FARTHEST).collect();
    if tokens.len() < 2 * END {
        return None;
    }
    let value = |token: usize, lag: isize| -> Option<f64> {
        let place = tokens[token].place.checked_add_signed(lag)?;
        observed.at_place(place).map(|other| tokens[other].reference)
    };
    let density = |token: usize, lag: isize| match value(token, lag) {
        Some(value) => log_density(value - tokens[token].engine, 1.5 * tokens[token].scale),
        None => log_density_anywhere(tokens[token].log_ratio()),
    };
    let mut best: Vec<f64> = lags.iter().map(|lag| if *lag == 0 { density(0, 0) } else { f64::NEG_INFINITY }).collect();
    let mut from: Vec<Vec<usize>> = Vec::with_capacity(tokens.len());
    for token in 1..tokens.len() {
        let leader = (0..lags.len()).max_by(|a, b| best[*a].total_cmp(&best[*b]))?;
        let previous: Vec<usize> =
            (0..lags.len()).map(|lag| if best[leader] - CHANGE > best[lag] { leader } else { lag }).collect();
        best = (0..lags.len())
            .map(|lag| {
                let stay = if previous[lag] == lag { best[lag] } else { best[leader] - CHANGE };
                stay + density(token, lags[lag])
            })
            .collect();
        from.push(previous);
    }
    let mut state = (0..lags.len()).max_by(|a, b| best[*a].total_cmp(&best[*b]))?;
    let mut path = vec![lags[state]];
    for previous in from.iter().rev() {
        state = previous[state];
        path.push(lags[state]);
    }
    path.reverse();
    let changes: Changes = (1..path.len())
        .filter(|token| path[*token] != path[token - 1])
        .map(|token| (tokens[token].at, path[token]))
        .collect();
    if changes.is_empty() {
        return None;
    }
    let fitted = fit(observed, |token| match value(token, path[token]) {
        Some(value) => Prediction::Value(value),
        None => Prediction::Anything,
    })?;
    Some((fitted.minus(changes.len() as f64 * CHANGE), changes))
}

/// A rollout with one completion token replaced, up to `after` tokens behind it.
pub(super) fn with_token(rollout: &Rollout, at: usize, ids: &[TokenId], after: usize) -> Rollout {
    let completion = &rollout.completion_token_ids;
    let end = (at + 1 + after).min(completion.len());
    let altered = [&completion[..at], ids, &completion[at + 1..end]].concat();
    let mut logprobs = rollout.logprobs.clone();
    logprobs.resize(altered.len(), None);
    Rollout { completion_token_ids: altered, logprobs, loss_mask: None, ..rollout.clone() }
}
