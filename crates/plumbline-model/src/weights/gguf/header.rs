//! The header of a GGUF file: metadata, and where each tensor lies.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Read here rather than by candle, whose reader does not
//! say which tensor is of a type it lacks, keeps the last of two entries with one name, and panics on an alignment of 0.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::quantized::GgmlDType;
use serde_json::{Map, Value};

/// Metadata, and the tensors by name.
pub(super) struct Header {
    pub(super) metadata: Map<String, Value>,
    pub(super) tensors: BTreeMap<String, Stored>,
}

/// A tensor of the file. `shape` is outermost first, as everywhere but in GGUF itself.
pub(super) struct Stored {
    pub(super) dtype: GgmlDType,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Range<usize>,
}

const DEFAULT_ALIGNMENT: usize = 32;
const MAX_DIMENSIONS: u32 = 4;

/// Tensor types that can be dequantised, with their number in the file.
const TYPES: &[(u32, GgmlDType)] = &[
    (0, GgmlDType::F32),
    (1, GgmlDType::F16),
    (2, GgmlDType::Q4_0),
    (3, GgmlDType::Q4_1),
    (6, GgmlDType::Q5_0),
    (7, GgmlDType::Q5_1),
    (8, GgmlDType::Q8_0),
    (10, GgmlDType::Q2K),
    (11, GgmlDType::Q3K),
    (12, GgmlDType::Q4K),
    (13, GgmlDType::Q5K),
    (14, GgmlDType::Q6K),
    (30, GgmlDType::BF16),
];

/// Names of tensor types that cannot, for the error.
const OTHER_TYPES: &[(u32, &str)] = &[
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

impl Header {
    /// Reads the header of a whole file.
    pub(super) fn read(file: &[u8]) -> Result<Self, String> {
        let mut reader = Reader { file, at: 0 };
        if reader.bytes(4, "the magic number")? != b"GGUF" {
            return Err("does not begin with GGUF".into());
        }
        let version = reader.u32("the version")?;
        if !(2..=3).contains(&version) {
            return Err(format!("GGUF version {version} is not supported; supported are 2 and 3, little-endian"));
        }
        let (tensor_count, key_count) = (reader.u64("the tensor count")?, reader.u64("the metadata count")?);
        let mut metadata = Map::new();
        for _ in 0..key_count {
            let key = reader.string("a metadata key")?;
            let kind = reader.u32(&key)?;
            let value = reader.value(kind, &key)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(format!("metadata key `{key}` is there twice"));
            }
        }
        let mut infos = Vec::new();
        for _ in 0..tensor_count {
            infos.push(reader.tensor_info()?);
        }
        let data = reader.at.next_multiple_of(alignment(&metadata)?);
        let mut tensors = BTreeMap::new();
        for info in infos {
            let name = info.name.clone();
            let stored = info.locate(data, file.len())?;
            if tensors.insert(name.clone(), stored).is_some() {
                return Err(format!("tensor `{name}` is stored twice"));
            }
        }
        Ok(Self { metadata, tensors })
    }
}

/// Where tensors may begin. Multiples of 8, as the format demands, so that every type can be read in place.
fn alignment(metadata: &Map<String, Value>) -> Result<usize, String> {
    let Some(value) = metadata.get("general.alignment") else {
        return Ok(DEFAULT_ALIGNMENT);
    };
    let alignment = value.as_u64().and_then(|alignment| usize::try_from(alignment).ok());
    alignment
        .filter(|alignment| *alignment > 0 && *alignment <= 1 << 20 && alignment.is_multiple_of(8))
        .ok_or_else(|| format!("`general.alignment` = {value} is not a multiple of 8"))
}

struct Reader<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize, what: &str) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.file.len());
        let end = end.ok_or_else(|| format!("the file ends inside {what}"))?;
        let bytes = &self.file[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N, what)?);
        Ok(array)
    }

    fn u32(&mut self, what: &str) -> Result<u32, String> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, String> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn string(&mut self, what: &str) -> Result<String, String> {
        let count = usize::try_from(self.u64(what)?).map_err(|_| format!("the file ends inside {what}"))?;
        Ok(String::from_utf8_lossy(self.bytes(count, what)?).into_owned())
    }

    fn value(&mut self, kind: u32, key: &str) -> Result<Value, String> {
        if kind != 9 {
            return self.scalar(kind, key);
        }
        let (item_kind, count) = (self.u32(key)?, self.u64(key)?);
        // Every item takes bytes of the file, so that a lying count ends with the file.
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(self.scalar(item_kind, key)?);
        }
        Ok(Value::Array(items))
    }

    /// A float that JSON has no number for becomes `null`, which nothing accepts in place of a number.
    fn scalar(&mut self, kind: u32, key: &str) -> Result<Value, String> {
        Ok(match kind {
            0 => u8::from_le_bytes(self.array(key)?).into(),
            1 => i8::from_le_bytes(self.array(key)?).into(),
            2 => u16::from_le_bytes(self.array(key)?).into(),
            3 => i16::from_le_bytes(self.array(key)?).into(),
            4 => self.u32(key)?.into(),
            5 => i32::from_le_bytes(self.array(key)?).into(),
            6 => f64::from(f32::from_le_bytes(self.array(key)?)).into(),
            7 => match self.array::<1>(key)? {
                [0] => false.into(),
                [1] => true.into(),
                [other] => return Err(format!("metadata key `{key}`: {other} is neither true nor false")),
            },
            8 => self.string(key)?.into(),
            10 => self.u64(key)?.into(),
            11 => i64::from_le_bytes(self.array(key)?).into(),
            12 => f64::from_le_bytes(self.array(key)?).into(),
            other => return Err(format!("metadata key `{key}` has a value of unknown type {other}")),
        })
    }

    fn tensor_info(&mut self) -> Result<TensorInfo, String> {
        let name = self.string("a tensor name")?;
        let count = self.u32(&name)?;
        if count > MAX_DIMENSIONS {
            return Err(format!("tensor `{name}` has {count} dimensions; the format knows {MAX_DIMENSIONS}"));
        }
        let mut shape = Vec::new();
        for _ in 0..count {
            let size = self.u64(&name)?;
            shape.push(usize::try_from(size).map_err(|_| format!("tensor `{name}` has a dimension of {size}"))?);
        }
        shape.reverse();
        Ok(TensorInfo { shape, kind: self.u32(&name)?, offset: self.u64(&name)?, name })
    }
}

/// A tensor as the header describes it.
struct TensorInfo {
    name: String,
    shape: Vec<usize>,
    kind: u32,
    offset: u64,
}

impl TensorInfo {
    /// Finds its bytes in a file of `file_len` bytes whose tensors begin at `data`.
    fn locate(self, data: usize, file_len: usize) -> Result<Stored, String> {
        let Self { name, shape, kind, offset } = self;
        let Some((_, dtype)) = TYPES.iter().find(|(number, _)| *number == kind) else {
            let known = OTHER_TYPES.iter().find(|(number, _)| *number == kind).map(|(_, name)| *name);
            let kind = known.map_or_else(|| format!("unknown type {kind}"), |known| format!("type {known}"));
            let supported = TYPES.iter().map(|(_, dtype)| format!("{dtype:?}")).collect::<Vec<_>>().join(", ");
            return Err(format!("tensor `{name}` is stored as {kind}; supported are {supported}"));
        };
        let block = dtype.block_size();
        let row = shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(block) {
            return Err(format!(
                "tensor `{name}` has rows of {row}, which {dtype:?} cannot store in blocks of {block}"
            ));
        }
        let size = shape
            .iter()
            .try_fold(1_usize, |product, size| product.checked_mul(*size))
            .and_then(|elements| (elements / block).checked_mul(dtype.type_size()));
        let begin = usize::try_from(offset).ok().and_then(|offset| data.checked_add(offset));
        let bytes = begin.zip(size).and_then(|(begin, size)| Some(begin..begin.checked_add(size)?));
        match bytes.filter(|bytes| bytes.end <= file_len) {
            Some(bytes) if bytes.start.is_multiple_of(8) => Ok(Stored { dtype: *dtype, shape, bytes }),
            Some(bytes) => Err(format!("tensor `{name}` begins at byte {}, which is not aligned", bytes.start)),
            None => Err(format!("the file ends inside tensor `{name}`")),
        }
    }
}
