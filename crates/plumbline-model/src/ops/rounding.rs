//! What a bf16 engine rounds: the one place that says so, for all operations.
//!
//! The weights of a product, the embedding and the tables of rotary embeddings are rounded before they are used. Then every
//! operation gives its result rounded, as a tensor library does that keeps its tensors in bf16 and computes in f32 between
//! them. Inside of the operations:
//!
//! - products and attention sum in f32; a bias is added before the result is rounded;
//! - an RMS norm is rounded before and after it is multiplied with its weight, as in vLLM's and Hugging Face's kernels. A
//!   LayerNorm, and an RMS norm whose weight is stored around 0 (Gemma), are rounded once;
//! - residual additions are rounded, and the norm after one sees the rounded sum;
//! - queries and keys are rounded after their norm and again once they are turned;
//! - attention keeps scores, soft-cap and softmax in f32, rounds the weights that multiply the values and then the result;
//! - a gated MLP rounds the two projections, the activation and the product;
//! - what an expert adds is rounded after its weight and after the addition; a router's softmax is not;
//! - logits are rounded where the lm_head is in bf16, again after their multiplier and soft-cap; statistics never are.

use candle_core::{DType, Result, Tensor};
use plumbline_core::Variant;

/// Which results are rounded to bf16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rounding {
    /// Weights (the lm_head's too) and every intermediate result but the logits.
    pub(crate) body: bool,
    /// The logits.
    pub(crate) logits: bool,
}

impl Rounding {
    /// What a variant rounds; `None` if it is not about number formats.
    pub(crate) fn of(variant: &Variant) -> Option<Self> {
        match variant {
            Variant::Bf16 { head } => Some(Self { body: true, logits: *head }),
            Variant::Bf16Head => Some(Self { body: false, logits: true }),
            _ => None,
        }
    }

    /// A result of the body.
    pub(super) fn narrow(self, values: &mut [f32]) {
        if self.body {
            round(values);
        }
    }

    /// Logits.
    pub(super) fn narrow_logits(self, values: &mut [f32]) {
        if self.logits {
            round(values);
        }
    }

    /// A factor that an engine holds as a tensor.
    pub(super) fn narrow_factor(self, factor: f64) -> f64 {
        if self.body { f64::from(rounded(factor as f32)) } else { factor }
    }

    /// A result of the body.
    pub(crate) fn narrow_tensor(self, tensor: Tensor) -> Result<Tensor> {
        if self.body { round_tensor(&tensor) } else { Ok(tensor) }
    }

    /// Logits.
    pub(super) fn narrow_logits_tensor(self, tensor: Tensor) -> Result<Tensor> {
        if self.logits { round_tensor(&tensor) } else { Ok(tensor) }
    }
}

/// The nearest bf16, the even one of two; NaN stays NaN.
fn rounded(x: f32) -> f32 {
    const QUIET: u32 = 0x0040_0000;
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    f32::from_bits(if x.is_nan() { bits | QUIET } else { nearest } & 0xffff_0000)
}

/// Rounds values to bf16.
pub(super) fn round(values: &mut [f32]) {
    values.iter_mut().for_each(|x| *x = rounded(*x));
}

/// Whether [`round`] would change nothing.
pub(super) fn is_bf16(values: &[f32]) -> bool {
    values.iter().fold(0, |bits, x| bits | x.to_bits()) & 0xffff == 0
}

fn round_tensor(tensor: &Tensor) -> Result<Tensor> {
    tensor.to_dtype(DType::BF16)?.to_dtype(tensor.dtype())
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn rounding_is_that_of_the_half_crate(bits: u32) {
            // The places where bits decide: ties, carries, infinities, NaN, zeros, subnormal numbers.
            for bits in [bits, bits & 0xffff_8000, bits | 0x7f80_0000, bits & 0x807f_ffff, bits | 0x7fff, bits & 0xffff_0000] {
                let x = f32::from_bits(bits);
                let mut ours = [x];
                round(&mut ours);
                let theirs = bf16::from_f32(x).to_f32();
                prop_assert_eq!(ours[0].to_bits(), theirs.to_bits(), "{:x}", bits);
                prop_assert!(is_bf16(&ours));
                prop_assert_eq!(is_bf16(&[x]) , bits & 0xffff == 0);
            }
        }
    }

    #[test]
    fn a_variant_about_something_else_rounds_nothing() {
        assert_eq!(Rounding::of(&Variant::RopeUnscaled), None);
        let mut values = [1.0 + f32::EPSILON];
        Rounding::default().narrow(&mut values);
        Rounding::of(&Variant::Bf16Head).unwrap().narrow(&mut values);
        Rounding::of(&Variant::Bf16 { head: false }).unwrap().narrow_logits(&mut values);
        assert_eq!(values, [1.0 + f32::EPSILON]);
        Rounding::of(&Variant::Bf16 { head: false }).unwrap().narrow(&mut values);
        assert_eq!(values, [1.0]);
    }
}
