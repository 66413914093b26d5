//! Rotary embedding tables: cosines and sines by position, gathered for the rows of a batch.

use std::collections::BTreeMap;

use candle_core::{D, DType, Device, Result, Tensor};
use plumbline_core::Segment;

use crate::ops::Rounding;
use crate::spec::RopeSpec;

/// Cosines and sines of one rotary embedding, kept by regime and grown as longer sequences come.
///
/// Angles are computed in f64 from inverse frequencies in f32 (as Hugging Face stores them) and rounded once.
#[derive(Clone, Debug)]
pub(crate) struct RopeCache {
    spec: RopeSpec,
    dtype: DType,
    device: Device,
    tables: BTreeMap<usize, PositionTable>,
}

/// Cosines and sines of positions `0..len`, `[len, dim / 2]`.
#[derive(Clone, Debug)]
struct PositionTable {
    len: usize,
    cos: Tensor,
    sin: Tensor,
}

/// Cosines and sines of one batch, `[rows, 1, dim / 2]`.
#[derive(Debug)]
pub(crate) struct RopeTable {
    cos: Tensor,
    sin: Tensor,
    interleaved: bool,
}

/// Regimes kept from batch to batch; dynamic embeddings have one for each sequence length.
const KEPT_REGIMES: usize = 4;

impl RopeCache {
    pub(crate) fn new(spec: &RopeSpec, dtype: DType, device: &Device) -> Self {
        Self { spec: spec.clone(), dtype, device: device.clone(), tables: BTreeMap::new() }
    }

    /// The table for the rows of these segments.
    pub(crate) fn table(&mut self, segments: &[Segment]) -> Result<RopeTable> {
        if self.tables.len() > KEPT_REGIMES {
            self.tables.clear();
        }
        let (mut cos, mut sin) = (Vec::with_capacity(segments.len()), Vec::with_capacity(segments.len()));
        for segment in segments {
            let end = segment.position + segment.len;
            // The sequence's last token is only a target and has no row.
            let table = self.positions(self.spec.regime(end + 1), end)?;
            cos.push(table.cos.narrow(0, segment.position, segment.len)?);
            sin.push(table.sin.narrow(0, segment.position, segment.len)?);
        }
        let join = |parts: &[Tensor]| Tensor::cat(parts, 0)?.unsqueeze(1);
        Ok(RopeTable { cos: join(&cos)?, sin: join(&sin)?, interleaved: self.spec.interleaved })
    }

    /// At least `len` positions of a regime.
    fn positions(&mut self, regime: usize, len: usize) -> Result<&PositionTable> {
        let known = self.tables.get(&regime).map_or(0, |table| table.len);
        if known < len {
            let table = self.build(regime, len.next_power_of_two())?;
            self.tables.insert(regime, table);
        }
        self.tables.get(&regime).ok_or_else(|| candle_core::Error::Msg("no rotary table was built".into()))
    }

    fn build(&self, regime: usize, len: usize) -> Result<PositionTable> {
        let frequencies: Vec<f64> = self.spec.inverse_frequencies(regime).into_iter().map(f64::from).collect();
        let angles: Vec<f64> = (0..len)
            .flat_map(|position| frequencies.iter().map(move |frequency| position as f64 * frequency))
            .collect();
        let factor = self.spec.attention_factor();
        let table = |function: fn(f64) -> f64| {
            let values: Vec<f64> = angles.iter().map(|angle| function(*angle) * factor).collect();
            Tensor::from_vec(values, (len, frequencies.len()), &Device::Cpu)?
                .to_dtype(self.dtype)?
                .to_device(&self.device)
        };
        Ok(PositionTable { len, cos: table(f64::cos)?, sin: table(f64::sin)? })
    }
}

impl RopeTable {
    /// `[rows, 1, dim / 2]`
    pub(crate) fn cos(&self) -> &Tensor {
        &self.cos
    }

    /// `[rows, 1, dim / 2]`
    pub(crate) fn sin(&self) -> &Tensor {
        &self.sin
    }

    /// Whether neighbouring channels form a pair.
    pub(crate) fn interleaved(&self) -> bool {
        self.interleaved
    }

    /// The same table, rounded.
    pub(crate) fn narrowed(&self, rounding: Rounding) -> Result<Self> {
        let narrow = |table: &Tensor| rounding.narrow_tensor(table.clone());
        Ok(Self { cos: narrow(&self.cos)?, sin: narrow(&self.sin)?, interleaved: self.interleaved })
    }

    /// Rotates the leading channels of each head of `[rows, heads, head_dim]`.
    ///
    /// Interleaved pairs come out as halves: the dot products of queries and keys that are both laid out so are the same.
    pub(crate) fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, heads, width) = x.dims3()?;
        let half = self.cos.dim(D::Minus1)?;
        let (first, second) = if self.interleaved {
            let pairs = x.narrow(2, 0, 2 * half)?.contiguous()?.reshape((rows, heads, half, 2))?;
            (pairs.narrow(3, 0, 1)?.squeeze(3)?, pairs.narrow(3, 1, 1)?.squeeze(3)?)
        } else {
            (x.narrow(2, 0, half)?, x.narrow(2, half, half)?)
        };
        let turned_first = (first.broadcast_mul(&self.cos)? - second.broadcast_mul(&self.sin)?)?;
        let turned_second = (second.broadcast_mul(&self.cos)? + first.broadcast_mul(&self.sin)?)?;
        let rest = width - 2 * half;
        if rest == 0 {
            Tensor::cat(&[turned_first, turned_second], 2)
        } else {
            Tensor::cat(&[turned_first, turned_second, x.narrow(2, 2 * half, rest)?], 2)
        }
    }
}
