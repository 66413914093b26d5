//! The bytes of a weight file, read where they are needed.
//!
//! Checkpoints are loaded while the service runs, from folders that a trainer writes to. A memory map of a file that is cut
//! meanwhile would kill the process; a read of it is an error like any other.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use candle_core::{DType, Device, Shape, Tensor, WithDType};

/// Bytes that are read and converted at a time: bounds what a load needs above the weights themselves.
const PIECE_BYTES: usize = 16 << 20;

/// A file, or bytes that are part of the binary.
pub(super) enum Contents {
    File(File),
    Static(&'static [u8]),
}

impl Contents {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        File::open(path).map(Self::File)
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        match self {
            Self::File(file) => Ok(file.metadata()?.len()),
            Self::Static(bytes) => Ok(bytes.len() as u64),
        }
    }

    /// The bytes of a range; an error if it reaches beyond the end.
    pub(super) fn read(&self, range: Range<u64>) -> io::Result<Cow<'static, [u8]>> {
        let size = |value: u64| usize::try_from(value).map_err(io::Error::other);
        match self {
            Self::File(file) => {
                let mut bytes = vec![0; size(range.end - range.start)?];
                file.read_exact_at(&mut bytes, range.start)?;
                Ok(Cow::Owned(bytes))
            }
            Self::Static(bytes) => {
                let part = bytes.get(size(range.start)?..size(range.end)?);
                part.map(Cow::Borrowed).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            }
        }
    }

    /// The tensor that is stored in a range as numbers of `from`, converted to `dtype`.
    pub(super) fn tensor(
        &self,
        range: Range<u64>,
        from: DType,
        shape: &[usize],
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        match dtype {
            DType::F32 => self.converted::<f32>(range, from, shape)?,
            DType::F64 => self.converted::<f64>(range, from, shape)?,
            DType::BF16 => self.converted::<half::bf16>(range, from, shape)?,
            DType::F16 => self.converted::<half::f16>(range, from, shape)?,
            other => candle_core::bail!("weights are not held as {other:?}"),
        }
        .to_device(device)
    }

    fn converted<T: WithDType>(&self, range: Range<u64>, from: DType, shape: &[usize]) -> candle_core::Result<Tensor> {
        let shape = Shape::from(shape);
        let mut values: Vec<T> = Vec::with_capacity(shape.elem_count());
        let mut start = range.start;
        while start < range.end {
            let end = range.end.min(start + PIECE_BYTES as u64);
            let bytes = self.read(start..end)?;
            let piece = Tensor::from_raw_buffer(&bytes, from, &[bytes.len() / from.size_in_bytes()], &Device::Cpu)?;
            values.extend(piece.to_dtype(T::DTYPE)?.to_vec1::<T>()?);
            start = end;
        }
        Tensor::from_vec(values, shape, &Device::Cpu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_the_whole() {
        let count = PIECE_BYTES / 2 * 2 + 3;
        let numbers: Vec<half::bf16> = (0..count).map(|at| half::bf16::from_f32((at % 251) as f32)).collect();
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let path = std::env::temp_dir().join(format!("plumbline-contents-{}", std::process::id()));
        std::fs::write(&path, &bytes).unwrap();
        let contents = Contents::open(&path).unwrap();
        assert_eq!(contents.len().unwrap(), bytes.len() as u64);
        let range = 0..bytes.len() as u64;
        let tensor = contents.tensor(range.clone(), DType::BF16, &[count], DType::F32, &Device::Cpu).unwrap();
        let values = tensor.to_vec1::<f32>().unwrap();
        assert!(values.len() == count && values.iter().enumerate().all(|(at, value)| *value == (at % 251) as f32));
        let same = contents.tensor(range.clone(), DType::BF16, &[count], DType::BF16, &Device::Cpu).unwrap();
        assert_eq!(same.to_vec1::<half::bf16>().unwrap(), numbers);
        // Cut while it is open.
        File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
        assert!(contents.tensor(range, DType::BF16, &[count], DType::F32, &Device::Cpu).is_err());
        std::fs::remove_file(&path).unwrap();
    }
}
