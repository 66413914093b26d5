//! Where in a sequence the numbers go wrong: one stretch of tokens that differs while the rest does not.

use super::likelihood::{self, log_density};
use super::observed::Observed;

/// A stretch of tokens, as indices into the observed ones, outside of which there is only noise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Segment {
    pub(super) from: usize,
    pub(super) to: usize,
    /// Log-likelihood above that of "as posted, with larger noise everywhere", in nats, after the price of the bounds.
    pub(super) gain: f64,
    /// Mean `|d|` within, in nats.
    pub(super) mae: f64,
    /// Mean `d` within.
    pub(super) bias: f64,
    /// Mean `|d|` within, in multiples of the floor.
    pub(super) multiple: f64,
    /// Mean `|d|` of the last third over that of the first third.
    pub(super) decay: f64,
}

/// Sizes of the noise within, in multiples of the floor.
const WITHIN: [f64; 6] = [2.5, 5.0, 10.0, 25.0, 60.0, 200.0];
/// Sizes of the noise outside: a bf16 engine's, a better one's, an f32 engine's.
const OUTSIDE: [f64; 4] = [1.1, 0.5, 0.05, 0.002];
/// Longest stretch that is looked for anywhere; longer ones must reach an end of the sequence.
const LONGEST_INSIDE: usize = 48;

/// The best stretch; `None` for sequences too short to have an inside and an outside.
pub(super) fn find(observed: &Observed) -> Option<Segment> {
    let tokens = &observed.tokens;
    if tokens.len() < 4 {
        return None;
    }
    let everywhere: Vec<(f64, f64)> = tokens.iter().map(|token| (token.log_ratio(), token.scale)).collect();
    let everywhere = likelihood::fit(&everywhere).log_likelihood;
    let mut best: Option<(f64, usize, usize)> = None;
    for outside in OUTSIDE {
        let quiet: Vec<f64> =
            tokens.iter().map(|token| log_density(token.log_ratio(), outside * token.scale)).collect();
        let all_quiet: f64 = quiet.iter().sum();
        for within in WITHIN.iter().filter(|within| **within >= 2.0 * outside) {
            let gains: Vec<f64> = tokens
                .iter()
                .zip(&quiet)
                .map(|(token, quiet)| log_density(token.log_ratio(), within * token.scale) - quiet)
                .collect();
            let (gain, from, to) = best_stretch(&gains);
            if best.is_none_or(|(other, ..)| all_quiet + gain > other) {
                best = Some((all_quiet + gain, from, to));
            }
        }
    }
    let (likelihood, from, to) = best?;
    let price = 2.0 + (tokens.len() as f64).ln() * if to == tokens.len() { 1.0 } else { 2.0 };
    let mean = |range: std::ops::Range<usize>| {
        let count = range.len().max(1) as f64;
        tokens[range].iter().map(|token| token.log_ratio().abs()).sum::<f64>() / count
    };
    let third = ((to - from) / 3).max(1);
    let inside = &tokens[from..to];
    let floor: f64 = inside.iter().map(|token| token.floor).sum();
    let mae = mean(from..to);
    Some(Segment {
        from,
        to,
        gain: likelihood - everywhere - price,
        mae,
        bias: inside.iter().map(super::observed::Token::log_ratio).sum::<f64>() / inside.len().max(1) as f64,
        multiple: mae * inside.len() as f64 / floor.max(1e-12),
        decay: mean(to - third..to) / mean(from..from + third).max(1e-12),
    })
}

/// The non-empty stretch with the largest sum: any that reaches the end or the beginning, or a short one inside.
fn best_stretch(gains: &[f64]) -> (f64, usize, usize) {
    let len = gains.len();
    let mut best = (f64::NEG_INFINITY, 0, len);
    let mut consider = |sum: f64, from: usize, to: usize| {
        if sum > best.0 {
            best = (sum, from, to);
        }
    };
    let mut suffix = 0.0;
    for from in (0..len).rev() {
        suffix += gains[from];
        consider(suffix, from, len);
    }
    let mut prefix = 0.0;
    for (index, gain) in gains.iter().enumerate() {
        prefix += gain;
        consider(prefix, 0, index + 1);
    }
    for from in 0..len {
        let mut sum = 0.0;
        for (to, gain) in gains.iter().enumerate().skip(from).take(LONGEST_INSIDE) {
            sum += gain;
            consider(sum, from, to + 1);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::observed;
    use super::*;

    proptest! {
        /// A tail of larger differences is found where it begins, whatever the noise before it.
        #[test]
        fn the_beginning_of_a_tail_is_found(seed in 0u64..500, quiet in 12usize..40, loud in 8usize..30, size in 0.2f64..1.0) {
            let mut noise = super::super::testing::Noise(seed);
            let residuals: Vec<f64> = (0..quiet + loud)
                .map(|index| if index < quiet { 0.01 * noise.laplace() } else { size * (0.5 + noise.laplace().abs()) })
                .collect();
            let found = find(&observed(&residuals, 0.01)).unwrap();
            prop_assert!(found.from.abs_diff(quiet) <= 2, "{found:?}, {quiet}");
            prop_assert_eq!(found.to, quiet + loud);
            prop_assert!(found.gain > 8.0);
        }

        /// Noise has no stretch.
        #[test]
        fn noise_has_none(seed in 0u64..500, len in 8usize..120, factor in 0.01f64..4.0) {
            let mut noise = super::super::testing::Noise(seed);
            let residuals: Vec<f64> = (0..len).map(|_| factor * 0.01 * noise.laplace()).collect();
            let found = find(&observed(&residuals, 0.01)).unwrap();
            prop_assert!(found.gain < 8.0, "{found:?}");
        }
    }
}
