//! How well numbers fit, on one scale for all hypotheses: a log-likelihood under noise in the shape of the floor.
//!
//! The difference of one token is taken as a mixture of a Laplace distribution, whose scale is the floor expected of that
//! token times one factor for the sequence, and a broad one for the few tokens that no smooth noise explains. The factor is
//! fitted anew under each hypothesis, so that an engine in f32 is judged as sharply as its small noise allows, and a
//! hypothesis gains nothing from the mere size of an engine's noise.

/// Share of tokens that may be anywhere.
const OUTLIERS: f64 = 0.02;
/// Mean `|d|` of those, in nats.
const OUTLIER_SCALE: f64 = 1.0;
/// Smallest factor: no hypothesis is rewarded for agreement below a thousandth of the floor.
const SMALLEST_FACTOR: f64 = 1e-3;

/// The best fit of the noise to some residuals.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct NoiseFit {
    /// Nats.
    pub(super) log_likelihood: f64,
    /// The factor on the floor.
    pub(super) factor: f64,
}

/// Log-density of one residual at a scale, both in nats.
pub(super) fn log_density(residual: f64, scale: f64) -> f64 {
    let size = residual.abs();
    let narrow = (1.0 - OUTLIERS) / (2.0 * scale) * (-size / scale).exp();
    let broad = OUTLIERS / (2.0 * OUTLIER_SCALE) * (-size / OUTLIER_SCALE).exp();
    (narrow + broad).ln().max(f64::MIN / 1e10)
}

/// Log-density of a token of which a hypothesis says only that it may be anywhere.
pub(super) fn log_density_anywhere(residual: f64) -> f64 {
    let scale = 2.0 * OUTLIER_SCALE;
    -residual.abs() / scale - (2.0 * scale).ln()
}

/// Fits the factor to `(residual, floor)` pairs; floors are above 0.
pub(super) fn fit(samples: &[(f64, f64)]) -> NoiseFit {
    let mut multiples: Vec<f64> = samples.iter().map(|(residual, floor)| residual.abs() / floor).collect();
    if multiples.is_empty() {
        return NoiseFit { log_likelihood: 0.0, factor: 1.0 };
    }
    let mean = multiples.iter().sum::<f64>() / multiples.len() as f64;
    let middle = multiples.len() / 2;
    let (_, median, _) = multiples.select_nth_unstable_by(middle, f64::total_cmp);
    let robust = *median / std::f64::consts::LN_2;
    // The optimum is between the robust and the plain estimate; a few steps between them are enough to rank by.
    [robust / 1.6, robust, robust * 1.6, robust * 2.5, (robust * mean).sqrt(), mean]
        .into_iter()
        .map(|factor| factor.max(SMALLEST_FACTOR))
        .map(|factor| NoiseFit { log_likelihood: at(samples, factor), factor })
        .max_by(|a, b| a.log_likelihood.total_cmp(&b.log_likelihood))
        .unwrap_or(NoiseFit { log_likelihood: 0.0, factor: 1.0 })
}

/// Log-likelihood at a given factor.
pub(super) fn at(samples: &[(f64, f64)], factor: f64) -> f64 {
    samples.iter().map(|(residual, floor)| log_density(*residual, factor * floor)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_is_found_and_outliers_do_not_move_it() {
        // Quantiles of a Laplace distribution of mean |x| 0.02, against a floor of 0.01.
        let mut samples: Vec<(f64, f64)> =
            (0..200).map(|i| (-0.02 * (1.0 - (f64::from(i) + 0.5) / 200.0).ln(), 0.01)).collect();
        let clean = fit(&samples);
        assert!((clean.factor - 2.0).abs() < 0.3, "{clean:?}");
        samples.extend([(3.0, 0.01), (-2.0, 0.01)]);
        let dirty = fit(&samples);
        assert!((dirty.factor - 2.0).abs() < 0.5, "{dirty:?}");
    }

    #[test]
    fn exact_agreement_is_finite_and_better_than_noise() {
        let exact = fit(&[(0.0, 0.01); 10]);
        let noisy = fit(&[(0.01, 0.01); 10]);
        assert!(exact.log_likelihood.is_finite() && exact.log_likelihood > noisy.log_likelihood + 40.0);
        assert_eq!(fit(&[]).log_likelihood, 0.0);
    }

    #[test]
    fn densities_stay_finite_far_away() {
        assert!(log_density(1e6, 1e-6).is_finite());
        assert!(log_density(5.0, 1e-3) > log_density(5.0, 1e-3) - 1.0);
    }
}
