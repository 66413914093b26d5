//! Positions that mean something else to the engine: rotary embeddings and attention windows.

use plumbline_core::Variant;

use super::case::Case;
use super::cause::Cause;
use super::prober::Budgeted;
use super::reforward::{Question, panel, try_all};
use super::segment;

/// Price in nats of a value from the usual ones, and of a fitted one.
const USUAL: f64 = 3.0;
const FITTED: f64 = 7.0;

pub(super) fn hypotheses(case: &mut Case<'_>, prober: &mut Budgeted<'_>) {
    rotary(case, prober);
    windows(case, prober);
}

fn rotary(case: &mut Case<'_>, prober: &mut Budgeted<'_>) {
    let mut variants: Vec<(Variant, f64, String)> = Vec::new();
    if prober.supports(&Variant::RopeUnscaled) {
        variants.push((Variant::RopeUnscaled, USUAL, "without the configured scaling of the rotary embeddings".into()));
    }
    let base = case.input.model.rope_theta;
    let mut bases: Vec<f64> = vec![1e4, 1e5, 5e5, 1e6, 1e7];
    bases.extend(base.iter().flat_map(|base| [0.5, 2.0, 4.0, 10.0, 100.0].map(|factor| base * factor)));
    bases.retain(|candidate| base.is_none_or(|base| (candidate / base - 1.0).abs() > 1e-6));
    bases.sort_by(f64::total_cmp);
    bases.dedup();
    for theta in bases {
        variants.push((Variant::RopeTheta(theta), USUAL, format!("with the rotary base {theta}")));
    }
    for factor in [0.25, 0.5, 2.0, 4.0, 8.0] {
        variants.push((Variant::RopeFactor(factor), USUAL, format!("with positions divided by {factor}")));
    }
    let asked = ask(case, prober, Cause::RopeMismatch, variants);
    // Between the usual values: one more round around the best one, if it is not exact but better than nothing.
    let Some((variant, _)) = asked.filter(|(_, gain)| *gain > 0.0) else { return };
    if case.is_settled() {
        return;
    }
    let around: Vec<(Variant, f64, String)> = [0.6, 0.75, 0.87, 1.15, 1.33, 1.66]
        .into_iter()
        .filter_map(|step| match variant {
            Variant::RopeTheta(theta) => {
                let theta = theta * step;
                Some((Variant::RopeTheta(theta), FITTED, format!("with a rotary base near {theta:.0}")))
            }
            Variant::RopeFactor(factor) => {
                let factor = factor * step;
                Some((Variant::RopeFactor(factor), FITTED, format!("with positions divided by about {factor:.2}")))
            }
            _ => None,
        })
        .collect();
    ask(case, prober, Cause::RopeMismatch, around);
}

fn windows(case: &mut Case<'_>, prober: &mut Budgeted<'_>) {
    let words = |window: Option<usize>| match window {
        Some(window) => format!("with an attention window of {window} tokens"),
        None => "with full attention where the model has a window".into(),
    };
    let own = case.input.model.sliding_window;
    let mut windows: Vec<(Option<usize>, f64)> = Vec::new();
    if let Some(own) = own {
        windows.extend([(None, USUAL), (Some(own + 1), USUAL), (Some(own.saturating_sub(1).max(1)), USUAL)]);
    }
    let longest = panel(case).into_iter().map(|sequence| {
        let rollout = case.rollout(sequence);
        rollout.prompt_token_ids.len() + rollout.completion_token_ids.len()
    });
    let longest = longest.max().unwrap_or(0);
    let powers = (3..=16).map(|power| 1usize << power).filter(|window| *window < longest && Some(*window) != own);
    windows.extend(powers.map(|window| (Some(window), USUAL)));
    // The row that first reaches beyond the window is the first that differs.
    for sequence in panel(case) {
        let observed = &case.observed[sequence];
        if let Some(found) = segment::find(observed).filter(|found| found.gain > case.config.margin && found.from > 0) {
            let row = case.rollout(sequence).prompt_token_ids.len() + observed.tokens[found.from].at - 1;
            let candidates = (row.saturating_sub(2).max(1)..=row + 1).map(|window| (Some(window), FITTED));
            windows.extend(candidates.filter(|(window, _)| *window != own));
        }
    }
    let mut known = Vec::new();
    windows.retain(|(window, _)| {
        let is_new = !known.contains(window);
        known.push(*window);
        is_new
    });
    let variants = windows.into_iter().map(|(window, price)| (Variant::SlidingWindow(window), price, words(window)));
    let variants: Vec<_> = variants.collect();
    let asked = ask(case, prober, Cause::SlidingWindowMismatch, variants);
    // Windows between powers of two: the search goes on where it is better than nothing.
    let Some((Variant::SlidingWindow(Some(mut best)), mut gain)) = asked.filter(|(_, gain)| *gain > 0.0) else {
        return;
    };
    let mut step = best / 4;
    while step > 0 && !case.is_settled() {
        let candidates = [best.saturating_sub(step).max(1), best + step];
        let variants = candidates.map(|window| (Variant::SlidingWindow(Some(window)), FITTED, words(Some(window))));
        let asked = ask(case, prober, Cause::SlidingWindowMismatch, variants.to_vec());
        let Some((variant, found)) = asked else { return };
        match variant {
            Variant::SlidingWindow(Some(window)) if found > gain => (best, gain) = (window, found),
            _ => step /= 2,
        }
    }
}

/// Asks for variants that the model supports; the best one and its gain on the panel.
fn ask(
    case: &mut Case<'_>,
    prober: &mut Budgeted<'_>,
    cause: Cause,
    variants: Vec<(Variant, f64, String)>,
) -> Option<(Variant, f64)> {
    let supported: Vec<_> = variants.into_iter().filter(|(variant, ..)| prober.supports(variant)).collect();
    let questions: Vec<Question> = supported
        .iter()
        .map(|(variant, price, words)| {
            Question::of_variant(cause, format!("the engine computed {words}"), *price, *variant)
        })
        .collect();
    let gains = try_all(case, prober, &questions, usize::MAX);
    let answered = supported.iter().zip(gains).filter_map(|((variant, ..), gain)| Some((*variant, gain?)));
    answered.max_by(|a, b| a.1.total_cmp(&b.1))
}
