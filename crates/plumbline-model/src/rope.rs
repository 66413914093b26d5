//! Rotary embedding tables: cosines and sines by position, gathered for the rows of a batch.

use candle_core::{D, DType, Device, Result, Tensor};

use crate::spec::RopeSpec;

/// Cosines and sines of one rotary embedding for positions `0..len`, grown as longer sequences come.
///
/// Angles are computed in f64 from inverse frequencies in f32 (as Hugging Face stores them) and rounded once.
#[derive(Debug)]
pub(crate) struct RopeCache {
    inverse_frequencies: Vec<f64>,
    dtype: DType,
    device: Device,
    len: usize,
    cos: Tensor,
    sin: Tensor,
}

/// Cosines and sines of one batch, `[rows, 1, dim / 2]`.
#[derive(Debug)]
pub(crate) struct RopeTable {
    cos: Tensor,
    sin: Tensor,
}

impl RopeCache {
    pub(crate) fn new(spec: &RopeSpec, dtype: DType, device: &Device) -> Result<Self> {
        let inverse_frequencies: Vec<f64> = spec.inverse_frequencies().into_iter().map(f64::from).collect();
        let empty = Tensor::zeros((0, inverse_frequencies.len()), dtype, device)?;
        Ok(Self { inverse_frequencies, dtype, device: device.clone(), len: 0, cos: empty.clone(), sin: empty })
    }

    /// The table for rows at these positions.
    pub(crate) fn table(&mut self, position_ids: &[u32]) -> Result<RopeTable> {
        let needed = position_ids.iter().max().map_or(0, |last| *last as usize + 1);
        if needed > self.len {
            self.grow(needed.next_power_of_two())?;
        }
        let index = Tensor::new(position_ids, &self.device)?;
        let gather = |table: &Tensor| table.index_select(&index, 0)?.unsqueeze(1);
        Ok(RopeTable { cos: gather(&self.cos)?, sin: gather(&self.sin)? })
    }

    fn grow(&mut self, len: usize) -> Result<()> {
        let shape = (len, self.inverse_frequencies.len());
        let angles: Vec<f64> = (0..len)
            .flat_map(|position| self.inverse_frequencies.iter().map(move |frequency| position as f64 * frequency))
            .collect();
        let table = |function: fn(f64) -> f64| {
            Tensor::from_vec(angles.iter().copied().map(function).collect::<Vec<f64>>(), shape, &Device::Cpu)?
                .to_dtype(self.dtype)?
                .to_device(&self.device)
        };
        (self.cos, self.sin) = (table(f64::cos)?, table(f64::sin)?);
        self.len = len;
        Ok(())
    }
}

impl RopeTable {
    /// Rotates the leading channels of each head of `[rows, heads, head_dim]`: channel `i` pairs with `i + dim / 2`.
    pub(crate) fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let half = self.cos.dim(D::Minus1)?;
        let (first, second) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
        let turned_first = (first.broadcast_mul(&self.cos)? - second.broadcast_mul(&self.sin)?)?;
        let turned_second = (second.broadcast_mul(&self.cos)? + first.broadcast_mul(&self.sin)?)?;
        let rest = x.dim(2)? - 2 * half;
        if rest == 0 {
            Tensor::cat(&[turned_first, turned_second], 2)
        } else {
            Tensor::cat(&[turned_first, turned_second, x.narrow(2, 2 * half, rest)?], 2)
        }
    }
}
