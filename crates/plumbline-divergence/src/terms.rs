//! The terms that are summed per token, each as a function of `d = r - e` (or of both logprobs), without cancellation.
//!
//! A faithful f32 engine has `|d|` near 1e-6, where the textbook forms of the estimators lose all their digits. The forms
//! here keep full relative precision for every `d`.

/// Log ratios and negative mean logprobs are limited to +- this before `exp`, so that one token cannot overflow a sum.
/// verl uses the same bound. Every limited exponent is counted.
pub const EXPONENT_LIMIT: f64 = 20.0;

/// Importance ratios are cut at this for the truncated effective sample size (default of verl and slime).
pub const TRUNCATION_CAP: f64 = 2.0;

/// Probabilities are kept this far from 0 and 1 in the Bernoulli KL divergence.
pub const PROBABILITY_EPSILON: f64 = 1e-12;

/// Below this the series replaces the direct form, which there starts to lose digits.
const SERIES_BOUND: f64 = 0.01;

/// `x` limited to +-[`EXPONENT_LIMIT`].
pub(crate) fn limit(x: f64) -> f64 {
    x.clamp(-EXPONENT_LIMIT, EXPONENT_LIMIT)
}

/// `exp(x)` with a limited exponent.
pub(crate) fn limited_exp(x: f64) -> f64 {
    limit(x).exp()
}

/// k3 estimator `exp(d) - 1 - d >= 0`; its mean under the engine estimates `KL(engine || reference)`. With `-d` it is the
/// reverse estimator.
pub(crate) fn k3(d: f64) -> f64 {
    if d.abs() < SERIES_BOUND { exp_excess_series(d) } else { limit(d).exp_m1() - d }
}

/// Jensen-Shannon term in NeMo-RL's form: half the k3 terms of `e` and of `r` against their mixture
/// `M = ln((exp e + exp r) / 2)`. As `exp(e - M) + exp(r - M) = 2`, it is `M - (e + r) / 2 = ln cosh(d / 2)`, which
/// cannot overflow and needs no limit.
pub(crate) fn js(d: f64) -> f64 {
    let half = (d / 2.0).abs();
    if half < 1.0 {
        0.5 * half.sinh().powi(2).ln_1p()
    } else {
        half + (-2.0 * half).exp().ln_1p() - std::f64::consts::LN_2
    }
}

/// `exp(reference) - exp(engine)`.
pub(crate) fn probability_difference(engine: f64, reference: f64) -> f64 {
    let d = reference - engine;
    // The larger of the two in front: then nothing overflows.
    if d > 0.0 { -reference.exp() * (-d).exp_m1() } else { engine.exp() * d.exp_m1() }
}

/// KL divergence between "this token or any other" under the reference (`p`) and under the engine (`q`):
/// `p ln(p/q) + (1-p) ln((1-p)/(1-q))`, both kept within [`PROBABILITY_EPSILON`] of 0 and 1 (which makes the origin
/// script's further clip of logprobs to [-80, 0] redundant).
pub(crate) fn bernoulli_kl(engine: f64, reference: f64) -> f64 {
    let (low, high) = (PROBABILITY_EPSILON.ln(), (-PROBABILITY_EPSILON).ln_1p());
    let (log_p, log_q) = (reference.clamp(low, high), engine.clamp(low, high));
    let d = log_p - log_q;
    // With x = q/p - 1 and y = (1-q)/(1-p) - 1 the divergence is p (x - ln(1+x)) + (1-p) (y - ln(1+y)), because
    // p x + (1-p) y = 0. Both terms are >= 0, and x - ln(1+x) is exp(-d) - 1 + d.
    let p = log_p.exp();
    let other = -log_p.exp_m1();
    let own_term = if d.abs() < SERIES_BOUND { exp_excess_series(-d) } else { (-d).exp_m1() + d };
    let y = -p * (-d).exp_m1() / other;
    let other_term =
        if y.abs() < SERIES_BOUND { log_excess_series(y) } else { y + other.ln() - (-log_q.exp_m1()).ln() };
    p * own_term + other * other_term
}

/// `exp(x) - 1 - x` for `|x| < SERIES_BOUND`.
fn exp_excess_series(x: f64) -> f64 {
    let mut sum = 0.0;
    for k in (3..=9).rev() {
        sum = (1.0 + sum) * x / f64::from(k);
    }
    x * x / 2.0 * (1.0 + sum)
}

/// `x - ln(1 + x)` for `|x| < SERIES_BOUND`.
fn log_excess_series(x: f64) -> f64 {
    let sum = (3..=12).rev().fold(0.0, |sum, k| 1.0 / f64::from(k) - x * sum);
    x * x * (0.5 - x * sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(actual: f64, expected: f64, tolerance: f64) {
        assert!((actual - expected).abs() <= tolerance * expected.abs(), "{actual:e} is not {expected:e}");
    }

    /// Values of the exact functions, from 50-digit arithmetic.
    #[test]
    fn terms_keep_their_digits_near_zero_and_far_away() {
        for (d, expected) in [
            (1e-9, 5.000_000_001_666_667e-19),
            (-1e-6, 4.999_998_333_333_749e-13),
            (9.99e-3, 5.006_663_299_955_588e-5),
            (0.01, 5.016_708_416_805_754e-5),
            (-0.01, 4.983_374_916_805_358e-5),
            (1.0, 0.718_281_828_459_045_2),
            (-5.0, 4.006_737_946_999_086),
        ] {
            close(k3(d), expected, 1e-13);
        }
        for (d, expected) in [
            (1e-6, 1.249_999_999_999_947_7e-13),
            (1.0, 0.120_114_506_958_277_52),
            (-2.0, 0.433_780_830_483_027_2),
            (1e3, 499.306_852_819_440_06),
        ] {
            close(js(d), expected, 1e-14);
            assert_eq!(js(d), js(-d));
        }
    }

    #[test]
    fn series_and_direct_forms_meet() {
        let x: f64 = 0.009_999;
        close(exp_excess_series(x), x.exp_m1() - x, 1e-12);
        close(log_excess_series(-x), -x - (-x).ln_1p(), 1e-12);
    }

    #[test]
    fn k3_stays_finite_and_positive_beyond_the_limit() {
        assert_eq!(k3(-9000.0), (-20f64).exp_m1() + 9000.0);
        assert!(k3(9000.0) > 4e8);
    }

    #[test]
    fn probability_difference_never_overflows() {
        close(probability_difference(-1.0, -1.0 + 1e-9), 3.678_794_413_553_836_5e-10, 1e-7);
        assert_eq!(probability_difference(-9000.0, 0.0), 1.0);
        assert_eq!(probability_difference(0.0, -9000.0), -1.0);
        assert_eq!(probability_difference(-2.0, -2.0), 0.0);
    }

    #[test]
    fn bernoulli_kl_has_its_textbook_values() {
        let textbook = |p: f64, q: f64| p * (p / q).ln() + (1.0 - p) * ((1.0 - p) / (1.0 - q)).ln();
        for (p, q) in [(0.5, 0.25), (0.9, 0.2), (0.01, 0.99), (0.3, 0.301)] {
            close(bernoulli_kl(f64::ln(q), f64::ln(p)), textbook(p, q), 1e-9);
        }
        assert_eq!(bernoulli_kl(-0.5, -0.5), 0.0);
        close(bernoulli_kl(0.0, -100.0), (1.0 - 1e-12) * (1e12f64 * (1.0 - 1e-12)).ln() + 1e-12 * 1e-12f64.ln(), 1e-12);
    }
}
