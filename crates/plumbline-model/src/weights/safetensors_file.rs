//! The safetensors format: one file, an index with shards, or bytes in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use safetensors::tensor::Metadata;
use safetensors::{SafeTensorError, SafeTensors};
use serde::Deserialize;

use super::{TensorInfo, TensorSource, WeightsError, mmap};

/// Tensors of one or several safetensors files.
pub(super) struct SafetensorsFile {
    files: Vec<Bytes>,
    tensors: BTreeMap<String, Stored>,
}

enum Bytes {
    Mapped(Mmap),
    Static(&'static [u8]),
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Static(bytes) => bytes,
        }
    }
}

struct Stored {
    file: usize,
    bytes: Range<usize>,
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
            opened.add(path, Bytes::Mapped(mmap::map(path)?))?;
        }
        Ok(opened)
    }

    pub(super) fn from_static(name: &str, bytes: &'static [u8]) -> Result<Self, WeightsError> {
        let mut opened = Self { files: Vec::new(), tensors: BTreeMap::new() };
        opened.add(Path::new(name), Bytes::Static(bytes))?;
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

    fn add(&mut self, path: &Path, bytes: Bytes) -> Result<(), WeightsError> {
        let malformed = |reason: String| WeightsError::Malformed { path: path.into(), reason };
        let slice = bytes.as_slice();
        // Checks the header and that the tensors cover the rest of the file exactly.
        let (header, metadata): (usize, Metadata) =
            SafeTensors::read_metadata(slice).map_err(|error| malformed(describe(&error, slice)))?;
        let data = header + size_of::<u64>();
        let file = self.files.len();
        for (name, info) in metadata.tensors() {
            let (begin, end) = info.data_offsets;
            let stored = Stored { file, bytes: data + begin..data + end, dtype: info.dtype, shape: info.shape.clone() };
            if self.tensors.insert(name.clone(), stored).is_some() {
                return Err(malformed(format!("tensor `{name}` is stored twice")));
            }
        }
        self.files.push(bytes);
        Ok(())
    }
}

/// The reason with the tensor's name, which the library leaves out where the file is shorter than its header says.
fn describe(error: &SafeTensorError, file: &[u8]) -> String {
    let cut = match error {
        SafeTensorError::MetadataIncompleteBuffer => first_cut_tensor(file),
        _ => None,
    };
    cut.map_or_else(|| error.to_string(), |name| format!("the file ends inside tensor `{name}`"))
}

/// The first tensor that ends beyond the file.
fn first_cut_tensor(file: &[u8]) -> Option<String> {
    let (size, rest) = file.split_first_chunk()?;
    let (header, data) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*size)).ok()?)?;
    let metadata: Metadata = serde_json::from_slice(header).ok()?;
    let cut = metadata.tensors().into_iter().filter(|(_, info)| info.data_offsets.1 > data.len());
    cut.min_by_key(|(_, info)| info.data_offsets).map(|(name, _)| name)
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
        let bytes = &self.files[stored.file].as_slice()[stored.bytes.clone()];
        Tensor::from_raw_buffer(bytes, from, shape, &Device::Cpu)
            .and_then(|tensor| tensor.to_dtype(dtype))
            .and_then(|tensor| tensor.to_device(device))
            .map_err(|source| error(source.to_string()))
    }
}
