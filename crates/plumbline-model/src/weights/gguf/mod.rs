//! The GGUF format of llama.cpp: quantised tensors are dequantised to f32, names and layout are turned back into Hugging
//! Face's.

mod architecture;
mod config;
mod header;
mod keys;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::quantized::ggml_file::qtensor_from_ggml;
use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use serde_json::{Map, Value};

use super::{TensorInfo, TensorSource, WeightsError, mmap};
use architecture::{ARCHITECTURES, Architecture, Undo};
use config::{ROPE_FACTORS, ROPE_FREQUENCIES, Synthesised, Tensors};
use header::{Header, Stored};

/// Tensors of a GGUF file under Hugging Face's names.
pub(super) struct GgufFile {
    map: Mmap,
    tensors: BTreeMap<String, (Stored, Undo)>,
}

impl GgufFile {
    /// Opens a file; answers its tensors and the configuration that its metadata amounts to.
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<u8>), WeightsError> {
        let map = mmap::map(path)?;
        let malformed = |reason: String| WeightsError::Malformed { path: PathBuf::from(path), reason };
        let Header { metadata, tensors } = Header::read(&map).map_err(malformed)?;
        let architecture = identify(&metadata).map_err(malformed)?;
        let file = InFile { map: &map, tensors: &tensors };
        let Synthesised { json, heads, kv_heads } = architecture.config(&metadata, &file).map_err(malformed)?;

        let mut renamed = BTreeMap::new();
        for (gguf_name, stored) in tensors {
            if architecture.reads_as_config(&gguf_name) {
                continue;
            }
            // A tensor that is not known keeps its name, so that the loader reports it under that.
            let name = architecture.hugging_face_name(&gguf_name).unwrap_or_else(|| gguf_name.clone());
            let undo = architecture.undo(&name, heads, kv_heads);
            if renamed.insert(name, (stored, undo)).is_some() {
                return Err(malformed(format!("tensor `{gguf_name}` is another name of one that is there")));
            }
        }
        Ok((Self { map, tensors: renamed }, json.to_string().into_bytes()))
    }
}

/// The architecture of a file that holds a whole model.
fn identify(metadata: &Map<String, Value>) -> Result<&'static Architecture, String> {
    let text = |key: &str| metadata.get(key).and_then(Value::as_str);
    if let Some(kind) = text("general.type").filter(|kind| *kind != "model") {
        return Err(format!("`general.type` = {kind}: only a `model` can be loaded"));
    }
    if let Some(parts) = metadata.get("split.count").and_then(Value::as_u64).filter(|parts| *parts > 1) {
        return Err(format!("`split.count` = {parts}: the parts of a split model must be merged first"));
    }
    let name = text("general.architecture").ok_or("lacks `general.architecture`")?;
    ARCHITECTURES.iter().find(|architecture| architecture.name == name).ok_or_else(|| {
        let supported: Vec<&str> = ARCHITECTURES.iter().map(|architecture| architecture.name).collect();
        format!("architecture `{name}` is not supported; supported: {}", supported.join(", "))
    })
}

impl Architecture {
    /// Whether a tensor is part of the configuration rather than of the weights.
    fn reads_as_config(&self, name: &str) -> bool {
        match self.name {
            "llama" => name == ROPE_FREQUENCIES,
            "phi3" => [ROPE_FACTORS.0, ROPE_FACTORS.1].contains(&name),
            _ => false,
        }
    }
}

/// The tensors of a mapped file under their own names.
struct InFile<'a> {
    map: &'a [u8],
    tensors: &'a BTreeMap<String, Stored>,
}

impl Tensors for InFile<'_> {
    fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.tensors.get(name)?.shape)
    }

    fn values(&self, name: &str) -> Result<Option<Vec<f64>>, String> {
        let Some(stored) = self.tensors.get(name) else {
            return Ok(None);
        };
        let values: Vec<f64> = dequantise(self.map, stored)
            .and_then(|tensor| tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1())
            .map_err(|error| format!("tensor `{name}`: {error}"))?;
        match values.iter().find(|value| !value.is_finite() || **value <= 0.0) {
            Some(value) => Err(format!("tensor `{name}` holds {value}, which divides no frequency")),
            None => Ok(Some(values)),
        }
    }
}

impl TensorSource for GgufFile {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn info(&self, name: &str, _expected: &[usize]) -> Option<TensorInfo> {
        Some(TensorInfo { shape: self.tensors.get(name)?.0.shape.clone() })
    }

    fn load(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor, WeightsError> {
        let error = |reason: String| WeightsError::Tensor { name: name.into(), reason };
        let (stored, undo) = self.tensors.get(name).ok_or_else(|| error("not in the checkpoint".into()))?;
        dequantise(&self.map, stored)
            .and_then(|tensor| undo.apply(tensor))
            .and_then(|tensor| tensor.reshape(shape)?.to_dtype(dtype)?.to_device(device))
            .map_err(|source| error(source.to_string()))
    }
}

/// A tensor in f32.
fn dequantise(file: &[u8], stored: &Stored) -> candle_core::Result<Tensor> {
    qtensor_from_ggml(stored.dtype, &file[stored.bytes.clone()], stored.shape.clone(), &Device::Cpu)?
        .dequantize(&Device::Cpu)
}

impl Undo {
    fn apply(self, tensor: Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Nothing => Ok(tensor),
            Self::PlusOne => tensor - 1.0,
            Self::Permutation { heads } => {
                // `[heads, pair, half]` as stored, `[heads, half, pair]` in Hugging Face.
                let rows = tensor.dim(0)?;
                let pairs = (heads, rows / heads / 2, 2, tensor.elem_count() / rows);
                tensor.reshape(pairs)?.transpose(1, 2)?.contiguous()?.reshape(tensor.shape())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each `TYPE` of the fixture is a tensor of that type, and `TYPE.expected` what `gguf-py` dequantises it to.
    #[test]
    fn every_quantisation_agrees_with_gguf_py() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/gguf/quantisations.gguf");
        let file = std::fs::read(path).unwrap();
        let header = Header::read(&file).unwrap();
        let values = |name: &str| -> Vec<f32> {
            dequantise(&file, &header.tensors[name]).unwrap().flatten_all().unwrap().to_vec1().unwrap()
        };
        let types: Vec<&String> = header.tensors.keys().filter(|name| !name.ends_with(".expected")).collect();
        assert_eq!(types.len(), 13, "{types:?}");
        for name in types {
            let expected = values(&format!("{name}.expected"));
            let largest = expected.iter().fold(0_f32, |largest, value| largest.max(value.abs()));
            assert!(largest > 0.1, "{name} is empty");
            for (ours, theirs) in values(name).iter().zip(&expected) {
                assert!((ours - theirs).abs() <= 1e-6 * largest, "{name}: {ours} is not {theirs}");
            }
        }
    }

    #[test]
    fn permuted_rows_are_put_back() {
        let stored = Tensor::new(&[0f32, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0], &Device::Cpu).unwrap();
        let restored = Undo::Permutation { heads: 2 }.apply(stored).unwrap();
        assert_eq!(restored.to_vec1::<f32>().unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    }
}
