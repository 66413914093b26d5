//! The weights of a checkpoint, and what an engine may have done to them.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::numerics::with_mantissa;
use crate::rng::Rng;

/// One stored tensor in f32; a vector has one row.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) values: Vec<f32>,
}

/// Tensors by the names they have in the file.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoint(pub(crate) BTreeMap<String, Matrix>);

impl Checkpoint {
    pub(crate) fn load(file: &Path) -> Self {
        let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
        let matrix = |tensor: Tensor| {
            let columns = tensor.dims().last().copied().unwrap();
            let values: Vec<f32> = tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            Matrix { rows: values.len() / columns, columns, values }
        };
        Self(tensors.into_iter().map(|(name, tensor)| (name, matrix(tensor))).collect())
    }

    fn map_matrices(&self, mut change: impl FnMut(&mut Matrix)) -> Self {
        let mut changed = self.clone();
        changed.0.values_mut().filter(|matrix| matrix.rows > 1).for_each(&mut change);
        changed
    }

    /// Every weight moved by `share` of its matrix's root mean square: other weights of the same kind.
    pub(crate) fn noised(&self, share: f64, rng: &mut Rng) -> Self {
        self.map_matrices(|matrix| {
            let squares: f64 = matrix.values.iter().map(|value| f64::from(*value).powi(2)).sum();
            let scale = share * (squares / matrix.values.len() as f64).sqrt();
            matrix.values.iter_mut().for_each(|value| *value += (scale * rng.normal()) as f32);
        })
    }

    /// Symmetric integer weights with one scale per `group` inputs of an output, as weight-only quantisation stores them.
    pub(crate) fn quantised(&self, bits: u32, group: usize) -> Self {
        let steps = ((1 << (bits - 1)) - 1) as f32;
        self.map_matrices(|matrix| {
            for weights in matrix.values.chunks_mut(group) {
                let largest = weights.iter().fold(0f32, |largest, value| largest.max(value.abs()));
                if largest > 0.0 {
                    let scale = largest / steps;
                    weights.iter_mut().for_each(|value| *value = (*value / scale).round() * scale);
                }
            }
        })
    }

    /// With a LoRA adapter merged.
    pub(crate) fn merged(&self, adapter: &Adapter) -> Self {
        let mut merged = self.clone();
        for (name, (down, up)) in &adapter.layers {
            let weight = merged.0.get_mut(name).unwrap();
            for (row, outputs) in weight.values.chunks_mut(down.columns).enumerate() {
                for (column, value) in outputs.iter_mut().enumerate() {
                    let product: f32 = (0..adapter.rank)
                        .map(|rank| up.values[row * adapter.rank + rank] * down.values[rank * down.columns + column])
                        .sum();
                    *value += adapter.scale() * product;
                }
            }
        }
        merged
    }
}

/// A LoRA adapter of random weights.
#[derive(Clone, Debug)]
pub(crate) struct Adapter {
    rank: usize,
    alpha: usize,
    modules: Vec<&'static str>,
    /// For the name of the base weight: `A` `[rank, in]` and `B` `[out, rank]`.
    layers: BTreeMap<String, (Matrix, Matrix)>,
}

impl Adapter {
    /// For some projections of every layer. The product of its halves has about `size` times the root mean square of a
    /// weight.
    pub(crate) fn random(base: &Checkpoint, modules: &[&'static str], size: f64, rng: &mut Rng) -> Self {
        let (rank, alpha) = (8, 16);
        let of_modules =
            base.0.iter().filter(|(name, _)| modules.iter().any(|module| name.ends_with(&format!("{module}.weight"))));
        let layers = of_modules.map(|(name, weight)| {
            let squares: f64 = weight.values.iter().map(|value| f64::from(*value).powi(2)).sum();
            let wanted = size * (squares / weight.values.len() as f64).sqrt();
            let each = (wanted / (rank as f64).sqrt() / (alpha as f64 / rank as f64)).sqrt();
            let mut matrix = |rows: usize, columns: usize| Matrix {
                rows,
                columns,
                values: (0..rows * columns).map(|_| with_mantissa((each * rng.normal()) as f32, 7)).collect(),
            };
            (name.clone(), (matrix(rank, weight.columns), matrix(weight.rows, rank)))
        });
        Self { rank, alpha, modules: modules.to_vec(), layers: layers.collect() }
    }

    fn scale(&self) -> f32 {
        self.alpha as f32 / self.rank as f32
    }

    /// Writes it as PEFT does.
    pub(crate) fn save(&self, folder: &Path) {
        let tensor =
            |matrix: &Matrix| Tensor::from_slice(&matrix.values, (matrix.rows, matrix.columns), &Device::Cpu).unwrap();
        let mut tensors = HashMap::new();
        for (name, (down, up)) in &self.layers {
            let module = name.strip_suffix(".weight").unwrap();
            tensors.insert(format!("base_model.model.{module}.lora_A.weight"), tensor(down));
            tensors.insert(format!("base_model.model.{module}.lora_B.weight"), tensor(up));
        }
        candle_core::safetensors::save(&tensors, folder.join("adapter_model.safetensors")).unwrap();
        let config = serde_json::json!({
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": self.rank, "lora_alpha": self.alpha, "bias": "none",
            "target_modules": self.modules, "fan_in_fan_out": false, "use_rslora": false, "use_dora": false,
        });
        std::fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    }
}
