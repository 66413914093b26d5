//! Compressed bytes.

use rusqlite::ToSql;
use rusqlite::types::{FromSql, FromSqlResult, ToSqlOutput, ValueRef};

use crate::StoreError;

const LEVEL: i32 = 3;
/// Longer values are not compressed: a damaged length must not become any allocation.
const MAX_BYTES: usize = 1 << 30;

/// How the bytes behind the first one are to be read.
const PLAIN: u8 = 0;
const ZSTD: u8 = 1;

/// Bytes as they are stored: compressed, or as they were where that is shorter. Packing and opening are CPU-bound.
#[derive(Clone, PartialEq, Eq)]
pub struct Packed(Vec<u8>);

impl Packed {
    /// Compresses.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let (how, content) = match zstd::bulk::compress(bytes, LEVEL) {
            Ok(compressed) if compressed.len() < bytes.len() && bytes.len() <= MAX_BYTES => (ZSTD, compressed),
            // Either way nothing is lost.
            _ => (PLAIN, bytes.to_vec()),
        };
        let mut packed = Vec::with_capacity(1 + content.len());
        packed.push(how);
        packed.extend(content);
        Self(packed)
    }

    /// The bytes.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if they were changed since they were stored.
    pub fn open(&self) -> Result<Vec<u8>, StoreError> {
        match self.0.split_first() {
            Some((&PLAIN, content)) => Ok(content.to_vec()),
            Some((&ZSTD, content)) => {
                let size = zstd::zstd_safe::get_frame_content_size(content).ok().flatten();
                let size = size.and_then(|size| usize::try_from(size).ok()).filter(|size| *size <= MAX_BYTES);
                let size = size.ok_or_else(|| damaged("its size is not known"))?;
                zstd::bulk::decompress(content, size).map_err(|error| damaged(&error.to_string()))
            }
            _ => Err(damaged("unknown packing")),
        }
    }

    /// Bytes that it takes on the disk.
    #[must_use]
    pub fn packed_len(&self) -> usize {
        self.0.len()
    }
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Packed({} bytes)", self.0.len())
    }
}

impl ToSql for Packed {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.0.as_slice()))
    }
}

impl FromSql for Packed {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Ok(Self(value.as_blob()?.to_vec()))
    }
}

fn damaged(reason: &str) -> StoreError {
    StoreError::Damaged { what: "bytes", reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bytes_come_back(bytes in proptest::collection::vec(any::<u8>(), 0..200), repeated in 0usize..50) {
            let bytes = bytes.repeat(repeated);
            prop_assert_eq!(Packed::new(&bytes).open().unwrap(), bytes);
        }

        #[test]
        fn damage_is_an_error_or_other_bytes_but_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Packed(bytes).open();
        }
    }

    #[test]
    fn text_gets_smaller_and_cut_bytes_are_refused() {
        let packed = Packed::new(&b"token ".repeat(100));
        assert!(packed.packed_len() < 60);
        let cut = Packed(packed.0[..packed.packed_len() - 4].to_vec());
        assert!(matches!(cut.open(), Err(StoreError::Damaged { .. })));
        assert!(matches!(Packed(Vec::new()).open(), Err(StoreError::Damaged { .. })));
    }
}
