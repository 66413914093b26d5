//! Elementwise functions of one f32, written so that a loop over them becomes vector code: no branches, no calls.
//!
//! `FMA` says whether the surrounding function is compiled for a machine with fused multiply-add.

/// `a * b + c`
#[inline(always)]
fn madd<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// `ln` of the smallest normal number, rounded up: below it [`exp`] is 0.
const EXP_LOWEST: f32 = -87.336_54;
/// Above it [`exp`] is held, so that it stays finite.
const EXP_HIGHEST: f32 = 88.0;

/// `e^x` (Cody and Waite's reduction, Cephes' polynomial); 0 for minus infinity, NaN for NaN.
#[inline(always)]
pub(super) fn exp<const FMA: bool>(x: f32) -> f32 {
    // Adding and subtracting 1.5 * 2^23 rounds to a whole number, whose bits are then the sum's low bits.
    const ROUND: f32 = 12_582_912.0;
    // Comparisons are written so that a NaN falls through.
    let held = if x < EXP_LOWEST { EXP_LOWEST } else { x };
    let held = if held > EXP_HIGHEST { EXP_HIGHEST } else { held };
    let rounded = madd::<FMA>(held, std::f32::consts::LOG2_E, ROUND);
    let power = rounded - ROUND;
    let rest = madd::<FMA>(power, -0.693_359_4, held);
    let rest = madd::<FMA>(power, 2.121_944_4e-4, rest);
    let series = madd::<FMA>(1.987_569_2e-4, rest, 1.398_2e-3);
    let series = madd::<FMA>(series, rest, 8.333_452e-3);
    let series = madd::<FMA>(series, rest, 4.166_579_6e-2);
    let series = madd::<FMA>(series, rest, 1.666_666_5e-1);
    let series = madd::<FMA>(series, rest, 0.5);
    let value = madd::<FMA>(series, rest * rest, rest) + 1.0;
    let scale = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    if x < EXP_LOWEST { 0.0 } else { value * scale }
}

/// `1 / (1 + e^-x)`
#[inline(always)]
pub(super) fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// `x * sigmoid(x)`
#[inline(always)]
pub(super) fn silu<const FMA: bool>(x: f32) -> f32 {
    x / (1.0 + exp::<FMA>(-x))
}

/// Hyperbolic tangent: Cephes' polynomial for small arguments, `1 - 2 / (e^2x + 1)` for others.
#[inline(always)]
pub(super) fn tanh<const FMA: bool>(x: f32) -> f32 {
    let (size, square) = (x.abs(), x * x);
    let series = madd::<FMA>(-5.704_988_7e-3, square, 2.063_909e-2);
    let series = madd::<FMA>(series, square, -5.373_971_6e-2);
    let series = madd::<FMA>(series, square, 1.333_144_2e-1);
    let series = madd::<FMA>(series, square, -3.333_328e-1);
    let small = madd::<FMA>(series * square, x, x);
    let large = (1.0 - 2.0 / (exp::<FMA>(2.0 * size) + 1.0)).copysign(x);
    if size < 0.625 { small } else { large }
}

/// Complementary error function of a number that is not negative (Chebyshev fit, Numerical Recipes' `erfcc`).
#[inline(always)]
fn erfc<const FMA: bool>(x: f32) -> f32 {
    let t = 1.0 / madd::<FMA>(0.5, x, 1.0);
    let series = madd::<FMA>(t, 0.170_872_77, -0.822_152_23);
    let series = madd::<FMA>(t, series, 1.488_515_9);
    let series = madd::<FMA>(t, series, -1.135_204);
    let series = madd::<FMA>(t, series, 0.278_868_07);
    let series = madd::<FMA>(t, series, -0.186_288_06);
    let series = madd::<FMA>(t, series, 0.096_784_18);
    let series = madd::<FMA>(t, series, 0.374_091_96);
    let series = madd::<FMA>(t, series, 1.000_023_7);
    let series = madd::<FMA>(t, series, -1.265_512_2);
    t * exp::<FMA>(madd::<FMA>(-x, x, series))
}

/// `x * Phi(x)`
#[inline(always)]
pub(super) fn gelu<const FMA: bool>(x: f32) -> f32 {
    let tail = 0.5 * x * erfc::<FMA>(x.abs() * std::f32::consts::FRAC_1_SQRT_2);
    if x < 0.0 { tail } else { x - tail }
}

/// GELU's approximation by tanh, as `x * sigmoid(2 u)` with `u = sqrt(2 / pi) (x + 0.044715 x^3)`.
#[inline(always)]
pub(super) fn gelu_tanh<const FMA: bool>(x: f32) -> f32 {
    let inner = madd::<FMA>(0.044_715 * x * x, x, x);
    x / (1.0 + exp::<FMA>(-1.595_769 * inner))
}

/// `max(x, 0)`, NaN for NaN.
#[inline(always)]
pub(super) fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Largest error of `ours` over `range`, relative to the larger of `|exact|` and `floor`.
    fn error(range: (f32, f32), floor: f64, ours: fn(f32) -> f32, exact: fn(f64) -> f64) -> f64 {
        let steps = 2_000_000;
        (0..=steps)
            .map(|step| {
                let x = range.0 + (range.1 - range.0) * (step as f32 / steps as f32);
                let exact = exact(f64::from(x));
                (f64::from(ours(x)) - exact).abs() / exact.abs().max(floor)
            })
            .fold(0.0, f64::max)
    }

    /// Maclaurin series or continued fraction, whichever converges.
    fn exact_erf(x: f64) -> f64 {
        if x.abs() > 3.0 {
            let tail = (1..=60).rev().fold(0.0, |tail, k| f64::from(k) / 2.0 / (x.abs() + tail));
            let complement = (-x * x).exp() / std::f64::consts::PI.sqrt() / (x.abs() + tail);
            return (1.0 - complement).copysign(x);
        }
        let (mut term, mut sum) = (x, x);
        for n in 1..80 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn errors_stay_within_a_few_roundings() {
        let exact_gelu = |x: f64| 0.5 * x * (1.0 + exact_erf(x * std::f64::consts::FRAC_1_SQRT_2));
        let exact_gelu_tanh =
            |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh());
        let exact_silu = |x: f64| x / (1.0 + (-x).exp());
        let cases = [
            ("exp", error((-87.3, 0.0), 0.0, exp::<true>, f64::exp), 1.2e-7),
            ("exp above 0", error((0.0, 87.9), 0.0, exp::<true>, f64::exp), 1.2e-7),
            ("exp without fma", error((-87.3, 87.9), 0.0, exp::<false>, f64::exp), 2e-7),
            ("tanh", error((-9.0, 9.0), 0.0, tanh::<true>, f64::tanh), 4e-7),
            ("erfc", error((0.0, 5.0), 1e-2, erfc::<true>, |x| 1.0 - exact_erf(x)), 5e-7),
            ("sigmoid", error((-80.0, 80.0), 0.0, sigmoid::<true>, |x| 1.0 / (1.0 + (-x).exp())), 3e-7),
            ("silu", error((-80.0, 80.0), 0.0, silu::<true>, exact_silu), 3e-7),
            // The left tails of these two are small differences: exact to the spacing of floats around 1.
            ("gelu", error((-10.0, 10.0), 1.0, gelu::<true>, exact_gelu), 5e-7),
            ("gelu_tanh", error((-10.0, 10.0), 1.0, gelu_tanh::<true>, exact_gelu_tanh), 5e-7),
        ];
        for (name, found, allowed) in cases {
            eprintln!("{name:16} {found:.2e}");
            assert!(found <= allowed, "{name}: {found:.2e} > {allowed:.0e}");
        }
    }

    #[test]
    fn special_values_are_kept() {
        for exp in [exp::<true>, exp::<false>] {
            assert_eq!(exp(0.0), 1.0);
            assert_eq!(exp(f32::NEG_INFINITY), 0.0);
            assert_eq!(exp(-100.0), 0.0);
            assert!(exp(f32::NAN).is_nan());
            assert!(exp(1000.0).is_finite());
        }
        for function in [silu::<true>, gelu::<true>, gelu_tanh::<true>, tanh::<true>, relu] {
            assert!(function(f32::NAN).is_nan());
            assert_eq!(function(0.0), 0.0);
        }
        assert_eq!((relu(-3.0), relu(2.5)), (0.0, 2.5));
        assert_eq!((tanh::<true>(50.0), tanh::<true>(-50.0)), (1.0, -1.0));
    }
}
