//! A forward whose weights are read as they are needed and dropped again: slow, in the memory of one layer.

use candle_core::Result;
use plumbline_core::PackedBatch;

use super::{Decoder, Layer};
use crate::ops::Ops;
use crate::weights::WeightLoader;

impl Decoder {
    /// [`Decoder::hidden_states`] of a decoder that was loaded without layers ([`Decoder::load_ends`]): each is read from the
    /// checkpoint, used and dropped. The caller must still ask the loader to [`WeightLoader::finish`] before it believes the
    /// result.
    pub(crate) fn streamed_hidden_states<O: Ops>(
        &mut self,
        batch: &PackedBatch,
        ops: &O,
        loader: &WeightLoader<'_>,
    ) -> Result<O::Rows> {
        let tables = self.tables(batch)?;
        let mut x = self.embed(batch, ops)?;
        for spec in &self.spec.layers {
            let layer = Layer::load(spec, self.spec.hidden_size, loader).map_err(candle_core::Error::wrap)?;
            x = layer.forward(x, spec, &tables, batch.segments(), ops)?;
        }
        Ok(x)
    }
}
