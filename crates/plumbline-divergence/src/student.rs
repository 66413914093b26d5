//! Quantiles of Student's t distribution for any real number of degrees of freedom.

/// Above this the quantile comes from its expansion in `1 / degrees`, which there is exact to 1e-13; the continued fraction
/// would need more and more steps.
const EXPANSION_FROM: f64 = 400.0;
/// A standard normal variable stays within +- this with probability 0.95.
const NORMAL_95: f64 = 1.959_963_984_540_054;
/// The same for 0.99.
const NORMAL_99: f64 = 2.575_829_303_548_901;

/// `t` with `P(|T| > t) = 0.05`. `degrees` is finite and at least 1.
pub(crate) fn t_95(degrees: f64) -> f64 {
    two_sided(0.05, NORMAL_95, degrees)
}

/// `t` with `P(|T| > t) = 0.01`. `degrees` is finite and at least 1.
pub(crate) fn t_99(degrees: f64) -> f64 {
    two_sided(0.01, NORMAL_99, degrees)
}

fn two_sided(outside: f64, normal: f64, degrees: f64) -> f64 {
    if degrees >= EXPANSION_FROM { expansion(normal, degrees) } else { bisect(outside, normal, degrees) }
}

/// Cornish-Fisher expansion (Abramowitz and Stegun 26.7.5).
fn expansion(z: f64, degrees: f64) -> f64 {
    let s = z * z;
    let g1 = (s + 1.0) / 4.0;
    let g2 = ((5.0 * s + 16.0) * s + 3.0) / 96.0;
    let g3 = (((3.0 * s + 19.0) * s + 17.0) * s - 15.0) / 384.0;
    let g4 = ((((79.0 * s + 776.0) * s + 1482.0) * s - 1920.0) * s - 945.0) / 92_160.0;
    z * (1.0 + (g1 + (g2 + (g3 + g4 / degrees) / degrees) / degrees) / degrees)
}

fn bisect(outside: f64, normal: f64, degrees: f64) -> f64 {
    // The normal quantile is below, the one of a single degree of freedom (64 for 0.01) above.
    let (mut low, mut high) = (normal, 100.0);
    while let middle = f64::midpoint(low, high)
        && middle > low
        && middle < high
    {
        if tail(middle, degrees) > outside { low = middle } else { high = middle }
    }
    high
}

/// `P(|T| > t)`: the regularised incomplete beta function `I_x(degrees / 2, 1 / 2)` at `x = degrees / (degrees + t^2)`.
fn tail(t: f64, degrees: f64) -> f64 {
    let (a, b) = (degrees / 2.0, 0.5);
    let total = degrees + t * t;
    let (x, y) = (degrees / total, t * t / total);
    let front = (a * x.ln() + b * y.ln() + ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b)).exp();
    if x < (a + 1.0) / (a + b + 2.0) {
        front / a * beta_fraction(a, b, x)
    } else {
        1.0 - front / b * beta_fraction(b, a, y)
    }
}

/// Continued fraction of the incomplete beta function by Lentz's method (DLMF 8.17.22).
fn beta_fraction(a: f64, b: f64, x: f64) -> f64 {
    let mut d = 1.0 / (1.0 - (a + b) * x / (a + 1.0));
    let (mut c, mut value) = (1.0, d);
    for step in 1..=1000 {
        let m = f64::from(step);
        for coefficient in [
            m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0)),
        ] {
            d = 1.0 / (1.0 + coefficient * d);
            c = 1.0 + coefficient / c;
            value *= c * d;
        }
        if (c * d - 1.0).abs() < 1e-16 {
            break;
        }
    }
    value
}

/// `ln Gamma(x)` for `x > 0`: Stirling's series after shifting the argument above 15.
fn ln_gamma(x: f64) -> f64 {
    let (mut shifted, mut product) = (x, 1.0);
    while shifted < 15.0 {
        product *= shifted;
        shifted += 1.0;
    }
    let square = 1.0 / (shifted * shifted);
    let series = (1.0 / 12.0
        - square
            * (1.0 / 360.0
                - square
                    * (1.0 / 1260.0 - square * (1.0 / 1680.0 - square * (1.0 / 1188.0 - square * 691.0 / 360_360.0)))))
        / shifted;
    (shifted - 0.5) * shifted.ln() - shifted + 0.5 * (2.0 * std::f64::consts::PI).ln() + series - product.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From `scipy.stats.t.isf(p / 2, degrees)` (scipy 1.17.1).
    #[test]
    fn quantiles_are_those_of_scipy() {
        for (degrees, five, one) in [
            (1.0, 12.706204736174705, 63.65674116287158),
            (1.5, 6.016663104427933, 17.82031051446281),
            (2.0, 4.302652729749464, 9.924843200918293),
            (3.0, 3.1824463052837086, 5.840909309733357),
            (4.25, 2.7132058471460603, 4.424306015374943),
            (7.0, 2.3646242515927844, 3.4994832973504932),
            (10.5, 2.2138402929187886, 3.135759476312723),
            (29.0, 2.045229642132704, 2.7563859036706053),
            (99.9, 1.983995838076939, 2.6259415427286292),
            (399.0, 1.9659272959208824, 2.588207164030976),
            (400.0, 1.965912343229463, 2.58817608003474),
            (1234.5, 1.9618874833313455, 2.5798177297333225),
            (1e6, 1.9599663568141072, 2.5758342201053344),
            (1e12, 1.9599639845424264, 2.5758293035538173),
        ] {
            let close =
                |actual: f64, expected: f64| assert!((actual / expected - 1.0).abs() < 1e-11, "{degrees}: {actual}");
            close(t_95(degrees), five);
            close(t_99(degrees), one);
        }
    }
}
