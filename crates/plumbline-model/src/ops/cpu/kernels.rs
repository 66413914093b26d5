//! Loops over rows of f32, compiled twice on x86-64: for AVX2 with FMA, and for any machine. Which one runs is decided at
//! run time. Other architectures have one baseline (NEON on aarch64).
//!
//! The loop bodies are safe code; the only unsafe act is to call the variant whose CPU features were just found.

#![allow(unsafe_code)]

use super::lanes;
use crate::spec::{Activation, NormKind};

/// Number of independent sums in a reduction: two vectors of f64.
const LANES: usize = 8;
/// Values that a loop of expensive functions computes before they are summed. Two plain loops become vector code where one
/// that does both does not.
const PIECE: usize = 256;

/// Defines a function whose body, generic over `FMA`, is compiled for several CPUs.
macro_rules! vectorised {
    ($(#[$meta:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $output:ty)? $body:block) => {
        $(#[$meta])*
        pub(super) fn $name($($argument: $type),*) $(-> $output)? {
            #[inline(always)]
            fn body<const FMA: bool>($($argument: $type),*) $(-> $output)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn wide($($argument: $type),*) $(-> $output)? {
                    body::<true>($($argument),*)
                }
                if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                    // SAFETY: `wide` is safe code whose only requirement are the CPU features that were just detected.
                    return unsafe { wide($($argument),*) };
                }
                body::<false>($($argument),*)
            }
            #[cfg(not(target_arch = "x86_64"))]
            body::<{ cfg!(target_arch = "aarch64") }>($($argument),*)
        }

        /// What runs on a CPU without the features that are looked for.
        #[cfg(test)]
        pub(super) mod $name {
            #![allow(unused_imports, clippy::wildcard_imports, reason = "each body uses its own part")]
            use super::*;

            pub(crate) fn portable($($argument: $type),*) $(-> $output)? {
                #[inline(always)]
                fn body<const FMA: bool>($($argument: $type),*) $(-> $output)? $body
                body::<false>($($argument),*)
            }
        }
    };
}

vectorised! {
    /// `act(x)` in place.
    fn activate(x: &mut [f32], activation: Activation) {
        match activation {
            Activation::Silu => x.iter_mut().for_each(|x| *x = lanes::silu::<FMA>(*x)),
            Activation::Gelu => x.iter_mut().for_each(|x| *x = lanes::gelu::<FMA>(*x)),
            Activation::GeluTanh => x.iter_mut().for_each(|x| *x = lanes::gelu_tanh::<FMA>(*x)),
            Activation::Relu => x.iter_mut().for_each(|x| *x = lanes::relu(*x)),
        }
    }
}

vectorised! {
    /// `act(gate) * up` in place of the gate.
    fn gate(gate: &mut [f32], up: &[f32], activation: Activation) {
        let pairs = gate.iter_mut().zip(up);
        match activation {
            Activation::Silu => pairs.for_each(|(x, up)| *x = lanes::silu::<FMA>(*x) * up),
            Activation::Gelu => pairs.for_each(|(x, up)| *x = lanes::gelu::<FMA>(*x) * up),
            Activation::GeluTanh => pairs.for_each(|(x, up)| *x = lanes::gelu_tanh::<FMA>(*x) * up),
            Activation::Relu => pairs.for_each(|(x, up)| *x = lanes::relu(*x) * up),
        }
    }
}

vectorised! {
    /// `x * factor` in place.
    fn scale(x: &mut [f32], factor: f32) {
        x.iter_mut().for_each(|x| *x *= factor);
    }
}

vectorised! {
    /// `x + factor * delta` in place.
    fn add_scaled(x: &mut [f32], delta: &[f32], factor: f32) {
        if factor == 1.0 {
            x.iter_mut().zip(delta).for_each(|(x, delta)| *x += delta);
        } else {
            x.iter_mut().zip(delta).for_each(|(x, delta)| *x += factor * delta);
        }
    }
}

vectorised! {
    /// `cap * tanh(x / cap)` in place.
    fn softcap(x: &mut [f32], cap: f32) {
        let inverse = 1.0 / cap;
        x.iter_mut().for_each(|x| *x = cap * lanes::tanh::<FMA>(*x * inverse));
    }
}

vectorised! {
    /// The largest value; minus infinity of nothing.
    fn max(x: &[f32]) -> f32 {
        let mut largest = [f32::NEG_INFINITY; LANES];
        let chunks = x.chunks_exact(LANES);
        for rest in chunks.remainder() {
            largest[0] = if *rest > largest[0] { *rest } else { largest[0] };
        }
        for chunk in chunks {
            for lane in 0..LANES {
                largest[lane] = if chunk[lane] > largest[lane] { chunk[lane] } else { largest[lane] };
            }
        }
        largest.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
}

vectorised! {
    /// Number of values above `threshold`.
    fn count_above(x: &[f32], threshold: f32) -> u32 {
        x.iter().map(|x| u32::from(*x > threshold)).sum()
    }
}

vectorised! {
    /// Sum in f64, always in the same order for the same length.
    fn sum(x: &[f32]) -> f64 {
        let mut sums = [0f64; LANES];
        add_to(&mut sums, x);
        sums.into_iter().sum()
    }
}

vectorised! {
    /// Sum of `(x - offset)^2` in f64.
    fn sum_squares(x: &[f32], offset: f32) -> f64 {
        let mut sums = [0f64; LANES];
        let chunks = x.chunks_exact(LANES);
        for (lane, rest) in chunks.remainder().iter().enumerate() {
            let distance = f64::from(*rest - offset);
            sums[lane] += distance * distance;
        }
        for chunk in chunks {
            for lane in 0..LANES {
                let distance = f64::from(chunk[lane] - offset);
                sums[lane] += distance * distance;
            }
        }
        sums.into_iter().sum()
    }
}

vectorised! {
    /// `(x - offset) * factor * weight`
    fn normalise(output: &mut [f32], x: &[f32], weight: &[f32], offset: f32, factor: f32) {
        for ((output, x), weight) in output.iter_mut().zip(x).zip(weight) {
            *output = (*x - offset) * factor * weight;
        }
    }
}

vectorised! {
    /// Sum of products, always in the same order for the same length.
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        let mut sums = [[0f32; LANES]; 4];
        let (a_chunks, b_chunks) = (a.chunks_exact(4 * LANES), b.chunks_exact(4 * LANES));
        for (index, (a, b)) in a_chunks.remainder().iter().zip(b_chunks.remainder()).enumerate() {
            sums[index / LANES][index % LANES] += a * b;
        }
        for (a, b) in a_chunks.zip(b_chunks) {
            for row in 0..4 {
                for lane in 0..LANES {
                    let (a, b) = (a[row * LANES + lane], b[row * LANES + lane]);
                    let sum = &mut sums[row][lane];
                    *sum = if FMA { a.mul_add(b, *sum) } else { a * b + *sum };
                }
            }
        }
        let mut total = [0f32; LANES];
        for lane in 0..LANES {
            total[lane] = (sums[0][lane] + sums[1][lane]) + (sums[2][lane] + sums[3][lane]);
        }
        total.into_iter().sum()
    }
}

vectorised! {
    /// `e^(x - max)` in place; the sum of that.
    fn exp_below(x: &mut [f32], max: f32) -> f64 {
        x.iter_mut().for_each(|x| *x = lanes::exp::<FMA>(*x - max));
        let mut sums = [0f64; LANES];
        add_to(&mut sums, x);
        sums.into_iter().sum()
    }
}

vectorised! {
    /// Sums of `e^(x - max)` and of `e^(x - max) * (x - max)`, for values not above `max`.
    fn exp_sums(x: &[f32], max: f32) -> (f64, f64) {
        let (mut sums, mut weighted) = ([0f64; LANES], [0f64; LANES]);
        let (mut weights, mut shares) = ([0f32; PIECE], [0f32; PIECE]);
        for x in x.chunks(PIECE) {
            let (weights, shares) = (&mut weights[..x.len()], &mut shares[..x.len()]);
            for ((x, weight), share) in x.iter().zip(&mut *weights).zip(&mut *shares) {
                let below = *x - max;
                *weight = lanes::exp::<FMA>(below);
                // Where the weight is 0 so is the share, even at minus infinity.
                *share = if *weight == 0.0 { 0.0 } else { *weight * below };
            }
            add_to(&mut sums, weights);
            add_to(&mut weighted, shares);
        }
        (sums.into_iter().sum(), weighted.into_iter().sum())
    }
}

vectorised! {
    /// Sum of `e^((x - max) * factor)`.
    fn exp_sum_scaled(x: &[f32], max: f32, factor: f32) -> f64 {
        let mut sums = [0f64; LANES];
        let mut weights = [0f32; PIECE];
        for x in x.chunks(PIECE) {
            let weights = &mut weights[..x.len()];
            for (x, weight) in x.iter().zip(&mut *weights) {
                *weight = lanes::exp::<FMA>((*x - max) * factor);
            }
            add_to(&mut sums, weights);
        }
        sums.into_iter().sum()
    }
}

vectorised! {
    /// Turns the pairs (`first[i]`, `second[i]`) by the angles whose cosines and sines are given.
    fn rotate(first: &mut [f32], second: &mut [f32], cos: &[f32], sin: &[f32]) {
        for (((first, second), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            let (a, b) = (*first, *second);
            *first = a * cos - b * sin;
            *second = b * cos + a * sin;
        }
    }
}

/// Adds values to independent sums, always in the same order for the same length.
#[inline(always)]
fn add_to(sums: &mut [f64; LANES], x: &[f32]) {
    let chunks = x.chunks_exact(LANES);
    for (sum, rest) in sums.iter_mut().zip(chunks.remainder()) {
        *sum += f64::from(*rest);
    }
    for chunk in chunks {
        for lane in 0..LANES {
            sums[lane] += f64::from(chunk[lane]);
        }
    }
}

/// Normalises `x` into `output`; `weight` and `bias` are as long as both.
pub(super) fn norm_row(output: &mut [f32], x: &[f32], kind: NormKind, eps: f64, weight: &[f32], bias: Option<&[f32]>) {
    let width = x.len() as f64;
    let mean = match kind {
        NormKind::Rms => 0.0,
        NormKind::Layer => (sum(x) / width) as f32,
    };
    let factor = (1.0 / (sum_squares(x, mean) / width + eps).sqrt()) as f32;
    normalise(output, x, weight, mean, factor);
    if let Some(bias) = bias {
        add_scaled(output, bias, 1.0);
    }
}
