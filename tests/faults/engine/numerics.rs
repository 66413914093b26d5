//! Number formats of the simulated engine.

use crate::rng::Rng;

/// In what the engine keeps its weights and intermediate results.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Precision {
    F32,
    /// This many explicit mantissa bits, as wide an exponent as f32 has: 7 is bf16.
    Mantissa(u32),
}

pub(crate) const BF16: Precision = Precision::Mantissa(7);

/// The value with `bits` explicit mantissa bits, ties to even.
pub(crate) fn with_mantissa(value: f32, bits: u32) -> f32 {
    let dropped = 23 - bits;
    let raw = value.to_bits();
    let half = (1u32 << (dropped - 1)) - 1 + ((raw >> dropped) & 1);
    f32::from_bits(raw.wrapping_add(half) & !((1u32 << dropped) - 1))
}

/// Rounds what a layer's operations leave behind.
///
/// Kernels sum in different orders from batch to batch, so that two faithful engines round in different places: values are
/// moved by up to 2^-16 of themselves before they are rounded, by a seed.
#[derive(Clone, Debug)]
pub(crate) struct Rounding {
    precision: Precision,
    order: Rng,
}

const ORDER_EFFECT: f32 = 1.0 / 65_536.0;

impl Rounding {
    pub(crate) fn new(precision: Precision, seed: u64) -> Self {
        Self { precision, order: Rng::new(seed) }
    }

    pub(crate) fn apply(&mut self, values: &mut [f32]) {
        let Precision::Mantissa(bits) = self.precision else { return };
        for pair in values.chunks_mut(2) {
            let random = self.order.next();
            for (value, random) in pair.iter_mut().zip([random as u32, (random >> 32) as u32]) {
                let moved = *value * (1.0 + ORDER_EFFECT * (random as f32 / 2_147_483_648.0 - 1.0));
                *value = with_mantissa(moved, bits);
            }
        }
    }
}

/// Stored keys and values of less than 16 bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum KvFormat {
    /// 3 mantissa bits, largest 448, subnormal below 2^-6.
    E4m3,
    /// 2 mantissa bits, largest 57344, subnormal below 2^-14.
    E5m2,
}

impl KvFormat {
    pub(crate) fn round(self, value: f32) -> f32 {
        let (bits, smallest, largest) = match self {
            Self::E4m3 => (3, 1.0 / 64.0, 448.0),
            Self::E5m2 => (2, 1.0 / 16_384.0, 57_344.0),
        };
        if value.abs() < smallest {
            let step = smallest / (1 << bits) as f32;
            return (value / step).round() * step;
        }
        with_mantissa(value, bits).clamp(-largest, largest)
    }
}

#[test]
fn roundings_are_to_nearest() {
    assert_eq!(with_mantissa(1.0 + 1.0 / 256.0, 7), 1.0, "a tie goes to even");
    assert_eq!(with_mantissa(1.0 + 3.0 / 256.0, 7), 1.0 + 2.0 / 128.0, "a tie goes to even");
    assert_eq!(with_mantissa(-1.0 - 1.1 / 256.0, 7), -1.0 - 1.0 / 128.0);
    assert_eq!(KvFormat::E4m3.round(1.06), 1.0);
    assert_eq!(KvFormat::E4m3.round(1000.0), 448.0);
    assert_eq!(KvFormat::E4m3.round(0.002), 1.0 / 512.0);
    assert_eq!(KvFormat::E5m2.round(1.13), 1.25);
    let mut values = [0.1f32, -3.3, 1234.5];
    let exact = values;
    Rounding::new(Precision::F32, 1).apply(&mut values);
    assert_eq!(values, exact);
    Rounding::new(BF16, 1).apply(&mut values);
    for (rounded, exact) in values.iter().zip(exact) {
        assert!(*rounded != exact && ((rounded - exact) / exact).abs() < 1.0 / 256.0 + 2.0 * ORDER_EFFECT);
        assert_eq!(with_mantissa(*rounded, 7), *rounded);
    }
}
