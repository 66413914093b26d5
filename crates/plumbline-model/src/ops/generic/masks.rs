//! Causal masks, made once and cut to size: on a GPU, making and uploading one for every block of every layer takes longer
//! than the attention itself.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Result, Tensor};

/// The masks that a model's attention has needed so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Masks {
    made: Arc<Mutex<Vec<Template>>>,
}

/// A mask that is cut to those of smaller blocks: what a block's first row sees before its own position ends at column
/// `before`.
#[derive(Clone, Debug)]
struct Template {
    window: Option<usize>,
    before: usize,
    mask: Tensor,
}

impl Masks {
    /// `[len, before + len]`, 0 where row `i` sees column `j`, minus infinity elsewhere. A row's own column is `before + i`; it
    /// sees that and those before it, in a window no more than that many.
    pub(super) fn get(
        &self,
        (len, before): (usize, usize),
        window: Option<usize>,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        // One for each size of blocks: wide blocks have few keys, and blocks that see many keys are narrow.
        let rows = len.next_power_of_two();
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let place = made.iter().position(|template| {
            let mask = &template.mask;
            template.window == window
                && mask.dims().first() == Some(&rows)
                && mask.dtype() == dtype
                && mask.device().same_device(device)
        });
        let template = match place.map(|place| made.swap_remove(place)) {
            Some(template) if template.before >= before => template,
            _ => Template::new(rows, before.next_power_of_two(), window, dtype, device)?,
        };
        made.push(template.clone());
        template.mask.narrow(0, 0, len)?.narrow(1, template.before - before, before + len)
    }
}

impl Template {
    fn new(len: usize, before: usize, window: Option<usize>, dtype: DType, device: &Device) -> Result<Self> {
        let mut values = Vec::with_capacity(len * (before + len));
        for row in 0..len {
            let own = before + row;
            let oldest = window.map_or(0, |window| (own + 1).saturating_sub(window));
            values.extend(
                (0..before + len).map(|column| if (oldest..=own).contains(&column) { 0f32 } else { f32::NEG_INFINITY }),
            );
        }
        let mask = Tensor::from_vec(values, (len, before + len), device)?.to_dtype(dtype)?;
        Ok(Self { window, before, mask })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever was asked for before, in whatever order, each mask is the one that its definition says.
    #[test]
    fn masks_are_cut_from_one_that_is_large_enough() {
        let masks = Masks::default();
        for (len, before) in [(3, 2), (1, 0), (5, 7), (2, 30), (8, 1), (5, 7)] {
            for window in [None, Some(1), Some(4)] {
                for dtype in [DType::F32, DType::F64] {
                    let mask = masks.get((len, before), window, dtype, &Device::Cpu).unwrap();
                    assert_eq!((mask.dims(), mask.dtype()), ([len, before + len].as_slice(), dtype));
                    let rows = mask.to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap();
                    for (row, values) in rows.iter().enumerate() {
                        for (column, value) in values.iter().enumerate() {
                            let (own, width) = (before + row, window.unwrap_or(usize::MAX));
                            let seen = column <= own && own - column < width;
                            assert_eq!(*value, if seen { 0.0 } else { f32::NEG_INFINITY }, "{row} {column} {window:?}");
                        }
                    }
                }
            }
        }
        // Of 1, 2, 4 and 8 rows.
        assert_eq!(
            masks.made.lock().unwrap().len(),
            3 * 2 * 4,
            "one for each window, number format and size of blocks"
        );
    }
}
