//! Weights, which are candle tensors, as slices.

use std::ops::Deref;

use candle_core::{Error, Result, Storage, Tensor};

/// A read lock on a contiguous f32 tensor on the host.
pub(super) struct Weights<'a> {
    /// candle's guard, whose type it does not export.
    storage: Box<dyn Deref<Target = Storage> + 'a>,
    start: usize,
    end: usize,
}

impl<'a> Weights<'a> {
    pub(super) fn of(tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let Some((start, end)) = layout.contiguous_offsets() else {
            return Err(Error::RequiresContiguous { op: "cpu kernel" }.bt());
        };
        Ok(Self { storage: Box::new(storage), start, end })
    }

    pub(super) fn values(&self) -> Result<&[f32]> {
        match &**self.storage {
            Storage::Cpu(storage) => Ok(&storage.as_slice::<f32>()?[self.start..self.end]),
            _ => Err(Error::Msg("a weight of the CPU kernels is not on the host".into())),
        }
    }
}
