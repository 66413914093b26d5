//! The safetensors format: one file, an index with shards, or bytes in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::Metadata;
use serde::Deserialize;

use super::contents::Contents;
use super::{TensorInfo, TensorSource, WeightsError};

/// Tensors of one or several safetensors files.
pub(super) struct SafetensorsFile {
    files: Vec<Contents>,
    tensors: BTreeMap<String, Stored>,
}

/// Bytes of a header at most, as the safetensors library has it.
const MAX_HEADER_BYTES: u64 = 100_000_000;

struct Stored {
    file: usize,
    bytes: Range<u64>,
    dtype: safetensors::Dtype,
    shape: Vec<usize>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl SafetensorsFile {
    pub(super) fn open(paths: &[PathBuf]) -> Result<Self, WeightsError> {
        let mut opened = Self { files: Vec::new(), tensors: BTreeMap::new() };
        for path in paths {
            let contents = Contents::open(path).map_err(|source| WeightsError::Read { path: path.into(), source })?;
            opened.add(path, contents)?;
        }
        Ok(opened)
    }

    pub(super) fn from_static(name: &str, bytes: &'static [u8]) -> Result<Self, WeightsError> {
        let mut opened = Self { files: Vec::new(), tensors: BTreeMap::new() };
        opened.add(Path::new(name), Contents::Static(bytes))?;
        Ok(opened)
    }

    pub(super) fn open_shards(directory: &Path, index_path: &Path) -> Result<Self, WeightsError> {
        let text =
            std::fs::read(index_path).map_err(|source| WeightsError::Read { path: index_path.into(), source })?;
        let malformed = |reason: String| WeightsError::Malformed { path: index_path.into(), reason };
        let index: Index = serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
        let shards: BTreeSet<&String> = index.weight_map.values().collect();
        let mut paths = Vec::new();
        for shard in shards {
            let name = Path::new(shard);
            // An index must not reach outside its folder.
            if name.components().count() != 1 || name.file_name() != Some(name.as_os_str()) {
                return Err(malformed(format!("shard name `{shard}` is not a plain file name")));
            }
            paths.push(directory.join(name));
        }
        let opened = Self::open(&paths)?;
        match index.weight_map.keys().find(|name| !opened.tensors.contains_key(*name)) {
            Some(absent) => Err(malformed(format!("no shard has the tensor `{absent}`"))),
            None => Ok(opened),
        }
    }

    fn add(&mut self, path: &Path, contents: Contents) -> Result<(), WeightsError> {
        let malformed = |reason: String| WeightsError::Malformed { path: path.into(), reason };
        let (metadata, data) = header(&contents).map_err(malformed)?;
        let file = self.files.len();
        for (name, info) in metadata.tensors() {
            let (begin, end) = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
            let stored = Stored { file, bytes: data + begin..data + end, dtype: info.dtype, shape: info.shape.clone() };
            if self.tensors.insert(name.clone(), stored).is_some() {
                return Err(malformed(format!("tensor `{name}` is stored twice")));
            }
        }
        self.files.push(contents);
        Ok(())
    }
}

/// The header, and where the tensors begin. Their ranges cover the rest of the file exactly, one after the other.
fn header(contents: &Contents) -> Result<(Metadata, u64), String> {
    const SIZE_BYTES: u64 = size_of::<u64>() as u64;
    let reading = |error: std::io::Error| format!("cannot be read: {error}");
    let len = contents.len().map_err(reading)?;
    if len < SIZE_BYTES {
        return Err("the file ends before its header".into());
    }
    let size = contents.read(0..SIZE_BYTES).map_err(reading)?;
    let size = u64::from_le_bytes(size.as_ref().try_into().map_err(|_| "the header has no size")?);
    if size > MAX_HEADER_BYTES || size > len - SIZE_BYTES {
        return Err(format!("its header has {size} bytes, the file {len}"));
    }
    let data = SIZE_BYTES + size;
    let json = contents.read(SIZE_BYTES..data).map_err(reading)?;
    // Checks offsets, shapes and sizes against each other.
    let metadata: Metadata =
        serde_json::from_slice(&json).map_err(|error| format!("its header is invalid: {error}"))?;
    let mut tensors: Vec<_> = metadata.tensors().into_iter().collect();
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    if let Some((name, _)) = tensors.iter().find(|(_, info)| info.data_offsets.1 as u64 > len - data) {
        return Err(format!("the file ends inside tensor `{name}`"));
    }
    let end = tensors.last().map_or(0, |(_, info)| info.data_offsets.1 as u64);
    if end != len - data {
        return Err(format!("the file has {} bytes after its last tensor", len - data - end));
    }
    Ok((metadata, data))
}

impl TensorSource for SafetensorsFile {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn info(&self, name: &str, _expected: &[usize]) -> Option<TensorInfo> {
        Some(TensorInfo { shape: self.tensors.get(name)?.shape.clone() })
    }

    fn load(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor, WeightsError> {
        let error = |reason: String| WeightsError::Tensor { name: name.into(), reason };
        let stored = self.tensors.get(name).ok_or_else(|| error("not in the checkpoint".into()))?;
        let from = match stored.dtype {
            safetensors::Dtype::F64 => DType::F64,
            safetensors::Dtype::F32 => DType::F32,
            safetensors::Dtype::F16 => DType::F16,
            safetensors::Dtype::BF16 => DType::BF16,
            other => return Err(error(format!("stored as {other:?}; supported are F64, F32, F16 and BF16"))),
        };
        self.files[stored.file]
            .tensor(stored.bytes.clone(), from, shape, dtype, device)
            .map_err(|source| error(source.to_string()))
    }
}
