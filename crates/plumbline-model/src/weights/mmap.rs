//! Read-only memory maps of GGUF files.

#![allow(unsafe_code)]

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use super::WeightsError;

/// Maps a file read-only.
pub(super) fn map(path: &Path) -> Result<Mmap, WeightsError> {
    let read_error = |source| WeightsError::Read { path: path.into(), source };
    let file = File::open(path).map_err(read_error)?;
    // SAFETY: the map is read-only and only ever seen as `&[u8]`. Its bytes stay valid as long as nobody truncates or
    // rewrites the file in place while it is mapped. Every tensor is copied out of the map during load and the map is
    // dropped with the source when load ends, so the window is the load at the start of the process, of a file that its
    // user named; checkpoints that come later are safetensors, which are not mapped. Bytes that change in that window can
    // give wrong weights, but no Rust value with an invalid representation: all is plain bytes until converted.
    unsafe { Mmap::map(&file) }.map_err(read_error)
}
