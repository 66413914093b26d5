//! Random weights: any name and shape, for throughput measurements without a checkpoint.

use candle_core::{DType, Device, Tensor};

use super::{TensorInfo, TensorSource, WeightsError};

/// A source that has every tensor, in whatever shape is asked for.
#[derive(Debug, Default)]
pub(crate) struct RandomWeights;

/// The usual initializer range.
const STANDARD_DEVIATION: f64 = 0.02;

impl RandomWeights {
    pub(crate) fn new() -> Self {
        Self
    }
}

impl TensorSource for RandomWeights {
    fn names(&self) -> Vec<String> {
        Vec::new()
    }

    fn info(&self, _name: &str, expected: &[usize]) -> Option<TensorInfo> {
        Some(TensorInfo { shape: expected.to_vec() })
    }

    fn load(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor, WeightsError> {
        let of_norm = name.ends_with(".weight") && shape.len() == 1;
        let tensor = if of_norm {
            Tensor::ones(shape, dtype, device)
        } else {
            Tensor::randn(0f32, STANDARD_DEVIATION as f32, shape, device).and_then(|tensor| tensor.to_dtype(dtype))
        };
        tensor.map_err(|source| WeightsError::Tensor { name: name.into(), reason: source.to_string() })
    }
}
