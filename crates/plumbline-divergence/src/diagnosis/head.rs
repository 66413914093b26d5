//! Faults between the last hidden state and the probabilities.

use plumbline_core::LogprobsMode;

use super::case::{Case, logarithmic, maximise, total};
use super::cause::Cause;
use super::hypothesis::{Fit, Prediction, Tried};
use super::row::{Row, to_bf16};
use super::sampling::{shared_sampling, stated_temperature};

const FITTED: f64 = 6.0;
const STATED: f64 = 1.0;

pub(super) fn hypotheses(case: &mut Case<'_>) {
    lattice(case);
    let Some(temperature) = temperature(case) else { return };
    low_precision(case);
    softcap(case, temperature);
    padding(case, temperature);
}

/// The temperature that is part of the stated mode. `None` for numbers after penalties or truncation, of which a row alone
/// does not say what another head would make of them, and where no sequence has numbers.
pub(super) fn temperature(case: &Case<'_>) -> Option<f64> {
    if case.observed.is_empty() {
        return None;
    }
    let is_processed = case.rollout(0).logprobs_mode == LogprobsMode::Processed;
    if is_processed && shared_sampling(case).is_none_or(|sampling| !sampling.active_transforms().is_empty()) {
        return None;
    }
    Some(match (case.rollout(0).logprobs_mode, shared_sampling(case)) {
        (LogprobsMode::Raw, _) | (_, None) => 1.0,
        (_, Some(sampling)) => stated_temperature(&sampling).unwrap_or(1.0),
    })
}

/// Logits rounded to bf16.
pub(super) fn low_precision(case: &mut Case<'_>) {
    let said = "the logits are rounded to bf16 before the softmax";
    case.try_rows(Cause::LowPrecisionHead, said, STATED, |row| Prediction::Value(row.rounded));
}

/// Numbers below this in size are on a fine lattice anyway, or exactly 0.
const COARSE: f64 = 0.01;
/// Numbers on the lattice that cannot be by chance: each has one chance in 2^16.
const LEAST_ON_LATTICE: usize = 4;

/// Nats that the coincidence is worth: less than it is, so that it never outweighs a difference that is not rounding.
const NO_CHANCE: f64 = 30.0;

/// Logprobs that are all bf16 numbers.
pub(super) fn lattice(case: &mut Case<'_>) {
    let mut said = Vec::new();
    let mut fits = Vec::new();
    for observed in &case.observed {
        let coarse: Vec<f64> =
            observed.tokens.iter().map(|token| token.engine).filter(|engine| engine.abs() > COARSE).collect();
        let on_it = coarse.iter().all(|engine| f64::from(to_bf16(*engine as f32)) == *engine);
        let found = on_it && coarse.len() >= LEAST_ON_LATTICE;
        said.push(format!("all {} numbers are multiples of a bf16 step: the softmax itself is in bf16", coarse.len()));
        fits.push(found.then(|| {
            let rounded = |token: usize| {
                let token = &observed.tokens[token];
                // Within half a step the reference agrees exactly; beyond it, what is left is another difference.
                let step = token.engine.abs() / 256.0;
                let left = token.reference - token.engine;
                Prediction::Value(token.engine + left.signum() * (left.abs() - step).max(0.0))
            };
            super::hypothesis::fit(observed, rounded).map(|fit| fit.minus(-NO_CHANCE))
        }));
    }
    let fits = fits.into_iter().map(|fit| fit.flatten()).collect();
    case.tried.push(Tried { said, ..Tried::new(Cause::LowPrecisionHead, "", fits) });
}

/// A soft-cap that only one side has, or another one.
fn softcap(case: &mut Case<'_>, temperature: f64) {
    let own = case.input.model.logit_softcap;
    // `c * tanh(z / c)` undone; at the cap itself the logit is anything above.
    let uncapped = move |logit: f64| match own {
        Some(cap) => cap * (logit / cap).clamp(-1.0 + 1e-9, 1.0 - 1e-9).atanh(),
        None => logit,
    };
    let capped = move |cap: f64| move |logit: f64| cap * (uncapped(logit) / cap).tanh() / temperature;
    let fits = |case: &Case<'_>, cap: f64| -> Vec<Option<Fit>> {
        case.fits(|sequence, token| value(&case.rows[sequence][token], capped(cap)))
    };
    let rough = |case: &Case<'_>, cap: f64| -> f64 {
        total(&case.rough_fits(|sequence, token| value(&case.rows[sequence][token], capped(cap))))
    };
    if own.is_some() {
        let said = "the logits are not soft-capped, those of the model are";
        case.try_rows(Cause::SoftcapMismatch, said, STATED, |row| {
            Prediction::Value(row.logprob(|logit| uncapped(logit) / temperature))
        });
    }
    if let Some(cap) = maximise(&logarithmic(3.0, 150.0, 20), |cap| rough(case, cap)) {
        let found = fits(case, cap);
        let model = own.map_or("the model has none".to_owned(), |own| format!("the model's is {own}"));
        let said = format!("the logits are soft-capped at about {cap:.1}; {model}");
        case.record(Cause::SoftcapMismatch, said, FITTED, found);
    }
}

fn value(row: &Option<Row>, function: impl Fn(f64) -> f64) -> Prediction {
    row.as_ref().map_or(Prediction::Unknown, |row| Prediction::Value(row.logprob(function)))
}

/// Rows of zeros behind the vocabulary, or ids without a token that are left out.
fn padding(case: &mut Case<'_>, temperature: f64) {
    let totals: Vec<Vec<f64>> = case
        .rows
        .iter()
        .map(|rows| rows.iter().map(|row| row.as_ref().map_or(0.0, |row| row.log_sum(|z| z / temperature))).collect())
        .collect();
    let fits = |case: &Case<'_>, rows: f64| -> Vec<Option<Fit>> {
        case.fits(|sequence, token| match &case.rows[sequence][token] {
            Some(row) => {
                let total = totals[sequence][token];
                Prediction::Value(row.target / temperature - total - (rows * (-total).exp()).ln_1p())
            }
            None => Prediction::Unknown,
        })
    };
    if let Some(rows) = maximise(&logarithmic(1.0, 1e6, 30), |rows| total(&fits(case, rows))) {
        let found = fits(case, rows);
        let said = format!("about {rows:.0} rows with logit 0 behind the vocabulary take part in the softmax");
        case.record(Cause::PaddedVocabulary, said, FITTED, found);
    }
    let model = case.input.model;
    if let Some(used) = model.tokenizer_size.filter(|used| *used < model.vocab_size && temperature == 1.0) {
        let said = format!(
            "the {} rows behind the tokenizer's {used} ids take no part in the softmax",
            model.vocab_size - used
        );
        case.try_rows(Cause::PaddedVocabulary, said, STATED, |row| {
            Prediction::Value(row.target - row.total - (-row.unused.min(1.0 - 1e-12)).ln_1p())
        });
    }
}
