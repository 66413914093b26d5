//! Temperatures and truncations in numbers that should not have them, or should have.

use plumbline_core::{LogprobsMode, Processed, Sampling};

use super::case::{Case, logarithmic, maximise, total};
use super::cause::Cause;
use super::hypothesis::{Fit, Prediction};
use super::row::{Sorted, Truncation};

/// Price in nats of a parameter that was fitted, not stated.
const FITTED: f64 = 6.0;
/// Price of one that was stated: it could not be chosen.
const STATED: f64 = 1.0;

/// Tries them all.
pub(super) fn hypotheses(case: &mut Case<'_>) {
    let Some(stated) = shared_sampling(case) else { return };
    let mode = case.rollout(0).logprobs_mode;
    temperatures(case, &stated, mode);
    truncations(case, &stated, mode);
}

/// The sampling parameters of the suspicious sequences, if they all have the same.
pub(super) fn shared_sampling(case: &Case<'_>) -> Option<Sampling> {
    let first = case.rollout(0);
    let same = (0..case.observed.len())
        .map(|sequence| case.rollout(sequence))
        .all(|rollout| rollout.sampling == first.sampling && rollout.logprobs_mode == first.logprobs_mode);
    same.then_some(first.sampling)
}

/// The stated temperature, if it is not 1.
pub(super) fn stated_temperature(sampling: &Sampling) -> Option<f64> {
    (!sampling.is_greedy() && sampling.temperature != 1.0).then_some(sampling.temperature)
}

fn temperatures(case: &mut Case<'_>, sampling: &Sampling, mode: LogprobsMode) {
    let stated = stated_temperature(sampling);
    let raw = |case: &Case<'_>, factor: f64| {
        case.fits(|sequence, token| Prediction::Value(case.observed[sequence].tokens[token].raw * factor))
    };
    if mode != LogprobsMode::Raw {
        if !sampling.active_transforms().is_empty() && mode == LogprobsMode::Processed {
            let said = format!("the numbers are raw, stated as after {}", sampling.active_transforms().join(", "));
            let fits = raw(case, 1.0);
            case.record(Cause::ProcessingNotApplied, said, STATED, fits);
            if let Some(temperature) = stated {
                let said = format!("the numbers are after temperature {temperature} only");
                at_temperature(case, Cause::ProcessingNotApplied, said, STATED, temperature);
            }
        } else if let Some(temperature) = stated {
            let said = format!("the numbers are raw, not at the stated temperature {temperature}");
            let fits = raw(case, 1.0);
            case.record(Cause::TemperatureNotApplied, said, STATED, fits);
            let said = format!("the temperature {temperature} was applied twice");
            at_temperature(case, Cause::TemperatureApplied, said, STATED, temperature * temperature);
        }
    } else if let Some(temperature) = stated {
        let said = format!("the numbers are at the sampling temperature {temperature}, stated as raw");
        at_temperature(case, Cause::TemperatureApplied, said, STATED, temperature);
    }
    if let Some(temperature) = stated {
        let said = format!("the logprob itself was divided by the temperature {temperature}, after the softmax");
        let fits = raw(case, 1.0 / temperature);
        case.record(Cause::TemperatureAfterSoftmax, said, STATED, fits);
    }
    let grid = logarithmic(0.2, 5.0, 25);
    let is_new =
        |factor: &f64| (factor - 1.0).abs() > 0.02 && stated.is_none_or(|stated| (factor * stated - 1.0).abs() > 0.03);
    if let Some(factor) = maximise(&grid, |factor| total(&raw(case, factor))).filter(is_new) {
        let what = if (factor * std::f64::consts::LN_2 - 1.0).abs() < 0.01 {
            "the numbers are logarithms to base 2".to_owned()
        } else {
            format!("the numbers are the raw logprobs divided by {:.3}", 1.0 / factor)
        };
        let fits = raw(case, factor);
        case.record(Cause::TemperatureAfterSoftmax, what, FITTED, fits);
    }
    let fits_at = |case: &Case<'_>, temperature: f64| {
        case.fits(|sequence, token| match &case.rows[sequence][token] {
            Some(row) => Prediction::Value(row.logprob(|logit| logit / temperature)),
            None => Prediction::Unknown,
        })
    };
    let reference = if mode == LogprobsMode::Raw { 1.0 } else { stated.unwrap_or(1.0) };
    // What was stated, or is tried above without a fitted parameter, is not to be found again a little beside it.
    let known: Vec<f64> = stated.map_or(vec![1.0], |stated| vec![1.0, stated, stated * stated]);
    let rough_at = |case: &Case<'_>, temperature: f64| {
        case.rough_fits(|sequence, token| match &case.rows[sequence][token] {
            Some(row) => Prediction::Value(row.logprob(|logit| logit / temperature)),
            None => Prediction::Unknown,
        })
    };
    let fitted = maximise(&grid, |temperature| total(&rough_at(case, temperature)));
    if let Some(fitted) = fitted.filter(|fitted| known.iter().all(|known| (fitted / known - 1.0).abs() > 0.03)) {
        let fits = fits_at(case, fitted);
        let said = format!("the numbers are at temperature {fitted:.3} where {reference} was stated");
        case.record(Cause::TemperatureApplied, said, FITTED, fits);
    }
}

fn at_temperature(case: &mut Case<'_>, cause: Cause, said: String, price: f64, temperature: f64) {
    case.try_rows(cause, said, price, |row| Prediction::Value(row.logprob(|logit| logit / temperature)));
}

/// The sorted rows of every sequence at one temperature.
type SortedRows = Vec<Vec<Option<Sorted>>>;

fn truncations(case: &mut Case<'_>, sampling: &Sampling, mode: LogprobsMode) {
    let stated = stated_temperature(sampling);
    let temperatures: Vec<f64> = match (mode, stated) {
        (LogprobsMode::Raw, Some(temperature)) => vec![1.0, temperature],
        (_, Some(temperature)) => vec![temperature],
        (_, None) => vec![1.0],
    };
    let truncates = !sampling.is_greedy();
    for temperature in temperatures {
        let sorted: SortedRows = case
            .rows
            .iter()
            .map(|rows| rows.iter().map(|row| row.as_ref().map(|row| row.sorted(temperature))).collect())
            .collect();
        let at = if temperature == 1.0 { String::new() } else { format!(" at temperature {temperature}") };
        let top_k = if truncates { sampling.top_k.max(0) as usize } else { 0 };
        let known = [
            (Cause::TopKRenormalised, Truncation { top_k, ..Truncation::NONE }, format!("top-k {top_k}")),
            (
                Cause::TopPRenormalised,
                Truncation { top_p: sampling.top_p, ..Truncation::NONE },
                format!("top-p {}", sampling.top_p),
            ),
            (
                Cause::MinPRenormalised,
                Truncation { min_p: sampling.min_p, ..Truncation::NONE },
                format!("min-p {}", sampling.min_p),
            ),
        ];
        for (cause, rule, name) in known.into_iter().filter(|(_, rule, _)| truncates && *rule != Truncation::NONE) {
            let fits = fits_of(case, &sorted, rule);
            case.record(cause, format!("renormalised over the stated {name}{at}"), STATED, fits);
        }
        fitted(case, &sorted, temperature, &at);
    }
}

/// Everything that the parameters ask for at once, where that is more than one thing: named after the one that alone explains
/// most.
pub(super) fn together(case: &mut Case<'_>) {
    let Some(sampling) = shared_sampling(case).filter(|_| case.rollout(0).logprobs_mode != LogprobsMode::Processed)
    else {
        return;
    };
    let truncates = !sampling.is_greedy();
    let parts = [
        (Cause::TemperatureApplied, stated_temperature(&sampling).is_some()),
        (Cause::TopKRenormalised, truncates && sampling.top_k > 0),
        (Cause::TopPRenormalised, truncates && sampling.top_p < 1.0),
        (Cause::MinPRenormalised, truncates && sampling.min_p > 0.0),
        (
            Cause::PenaltiesApplied,
            sampling.repetition_penalty != 1.0 || sampling.presence_penalty != 0.0 || sampling.frequency_penalty != 0.0,
        ),
    ];
    let active: Vec<Cause> = parts.into_iter().filter(|(_, is_active)| *is_active).map(|(cause, _)| cause).collect();
    if active.len() < 2 {
        return;
    }
    let of_active = case.tried.iter().filter(|tried| active.contains(&tried.cause));
    let strongest = of_active.max_by(|a, b| a.pooled().gain.total_cmp(&b.pooled().gain)).map(|tried| tried.cause);
    let cause = strongest.unwrap_or(active[0]);
    let names: Vec<String> = stated_temperature(&sampling)
        .map(|temperature| format!("temperature {temperature}"))
        .into_iter()
        .chain(sampling.active_transforms().into_iter().map(|name| name.replace('_', " ")))
        .collect();
    let said = format!("the numbers are after all stated processing ({})", names.join(", "));
    case.try_rows(cause, said, STATED, |row| match row.processed {
        Some(Processed::Logprob(value)) => Prediction::Value(value),
        Some(Processed::OutsideSupport) => Prediction::Impossible,
        None => Prediction::Unknown,
    });
}

/// Truncations that were not stated: one parameter each.
fn fitted(case: &mut Case<'_>, sorted: &SortedRows, temperature: f64, at: &str) {
    let gain = |case: &Case<'_>, rule: Truncation| {
        total(&case.rough_fits(|sequence, token| truncated(&sorted[sequence][token], rule)))
    };
    let share: Vec<f64> = (1..40).map(|step| 1.0 - f64::from(step) * 0.0125).rev().chain([0.99, 0.995]).collect();
    if let Some(top_p) = maximise(&share, |top_p| gain(case, Truncation { top_p, ..Truncation::NONE })) {
        let fits = fits_of(case, sorted, Truncation { top_p, ..Truncation::NONE });
        let said = format!("renormalised over a nucleus of about {top_p:.3}{at}");
        case.record_beyond(temperature, Cause::TopPRenormalised, said, FITTED, fits);
    }
    let counts: Vec<f64> = logarithmic(1.0, 1500.0, 44);
    let whole = |count: f64| Truncation { top_k: count.round() as usize, ..Truncation::NONE };
    if let Some(top_k) = maximise(&counts, |count| gain(case, whole(count))) {
        let fits = fits_of(case, sorted, whole(top_k));
        let said = format!("renormalised over the top {top_k:.0}{at}");
        case.record_beyond(temperature, Cause::TopKRenormalised, said, FITTED, fits);
    }
    let shares = logarithmic(1e-4, 0.6, 32);
    if let Some(min_p) = maximise(&shares, |min_p| gain(case, Truncation { min_p, ..Truncation::NONE })) {
        let fits = fits_of(case, sorted, Truncation { min_p, ..Truncation::NONE });
        let said = format!("renormalised over a min-p of about {min_p:.4}{at}");
        case.record_beyond(temperature, Cause::MinPRenormalised, said, FITTED, fits);
    }
}

fn fits_of(case: &Case<'_>, sorted: &SortedRows, rule: Truncation) -> Vec<Option<Fit>> {
    case.fits(|sequence, token| truncated(&sorted[sequence][token], rule))
}

fn truncated(sorted: &Option<Sorted>, rule: Truncation) -> Prediction {
    match sorted {
        None => Prediction::Unknown,
        Some(sorted) => sorted.truncated(rule).map_or(Prediction::Impossible, Prediction::Value),
    }
}
