//! Every operation against its slow twin.

mod attention;
mod head;
mod loops;
mod rounding;
mod rows;

use candle_core::{DType, Device, Tensor};

use super::*;
use crate::ops::GenericOps;
use crate::spec::NormKind;

const CHUNKS: ChunkBytes = ChunkBytes { head: 1 << 20, mlp: 1 << 12 };

/// Weights and activations of the same values, in f32 for us and in f64 for the twin.
struct Both {
    ours: CpuOps,
    twin: GenericOps,
}

impl Both {
    fn new() -> Self {
        Self { ours: CpuOps::new(CHUNKS, None), twin: GenericOps::new(CHUNKS) }
    }

    fn rows(&self, x: &Tensor) -> Matrix {
        let (rows, width) = x.dims2().unwrap();
        let mut matrix = self.ours.pool.take(rows, width);
        matrix.values_mut().copy_from_slice(&x.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        matrix
    }
}

/// Values of a reasonable size, the same for the same seed.
fn random(shape: &[usize], seed: u64) -> Tensor {
    let count: usize = shape.iter().product();
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let values: Vec<f32> = (0..count).map(|_| 2.0 * (uniform() + uniform() + uniform())).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn double(x: &Tensor) -> Tensor {
    x.to_dtype(DType::F64).unwrap()
}

fn linear(outputs: usize, inputs: usize, bias: bool, seed: u64) -> Linear {
    let weight = (random(&[outputs, inputs], seed) / (inputs as f64).sqrt()).unwrap();
    Linear { weight, bias: bias.then(|| random(&[outputs], seed + 1)) }
}

fn double_linear(linear: &Linear) -> Linear {
    Linear { weight: double(&linear.weight), bias: linear.bias.as_ref().map(double) }
}

fn norm(shape: &[usize], kind: NormKind, bias: bool, seed: u64) -> Norm {
    let weight = random(shape, seed);
    Norm { kind, eps: 1e-6, weight, weight_offset: 0.0, bias: bias.then(|| random(shape, seed + 1)) }
}

fn double_norm(norm: &Norm) -> Norm {
    Norm { weight: double(&norm.weight), bias: norm.bias.as_ref().map(double), ..norm.clone() }
}

/// Largest difference relative to the size of the values.
fn error(ours: &Matrix, twin: &Tensor) -> f64 {
    let twin: Vec<f64> = twin.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap();
    assert_eq!(ours.values().len(), twin.len());
    let size = twin.iter().fold(1.0, |size: f64, x| size.max(x.abs()));
    ours.values()
        .iter()
        .zip(&twin)
        .map(|(ours, twin)| (f64::from(*ours) - twin).abs() / size)
        .fold(0.0, |a, b| if b.is_nan() { f64::INFINITY } else { a.max(b) })
}
