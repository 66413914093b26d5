//! Reading dumps record by record.

use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::error::Fault;
use super::records::{RecordError, Records};
use super::{DumpError, DumpFormat, DumpOptions, DumpRollout, Place, source};

/// Opens a file or a folder of recorded rollouts. Blocking, as is reading on.
///
/// A file: JSON lines, an array of objects, or objects one after the other; plain, gzip or zstd, which its first bytes say.
/// A folder: all such files in it and three levels below (`*.jsonl`, `*.json`, `.gz`, `.zst`), in the natural order of their
/// names; one that is still written to is read as far as it goes.
///
/// # Errors
/// [`DumpError`] if the path cannot be read.
pub fn open_dump(path: &Path, options: &DumpOptions) -> Result<Dump, DumpError> {
    let (files, bytes) = source::files(path).map_err(|error| whole(path, format!("cannot be opened: {error}")))?;
    Ok(Dump {
        files: files.into(),
        bytes,
        read: Arc::default(),
        options: options.clone(),
        current: None,
        ready: VecDeque::new(),
        format: None,
        records: 0,
        left_out: 0,
        record: Vec::new(),
    })
}

/// The rollouts of a dump, in order. An error is about one record, or one file that cannot be read any further; reading goes
/// on behind it.
pub struct Dump {
    files: VecDeque<PathBuf>,
    bytes: u64,
    read: Arc<AtomicU64>,
    options: DumpOptions,
    current: Option<Open>,
    /// What the last record held.
    ready: VecDeque<Result<DumpRollout, DumpError>>,
    format: Option<DumpFormat>,
    records: u64,
    left_out: u64,
    /// Its memory is used again.
    record: Vec<u8>,
}

/// The file that is being read.
struct Open {
    path: PathBuf,
    name: String,
    step: Option<String>,
    records: Records,
    format: Option<DumpFormat>,
}

impl Dump {
    /// The format of the file that is being read; `None` before its first record.
    #[must_use]
    pub fn format(&self) -> Option<DumpFormat> {
        self.format
    }

    /// Records so far, bad ones included.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Records so far without a token in the loss: they are no rollouts.
    #[must_use]
    pub fn without_tokens(&self) -> u64 {
        self.left_out
    }

    /// Bytes of all files, as they lie on disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many of them have been read; a handle that may be watched from elsewhere.
    #[must_use]
    pub fn bytes_read(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.read)
    }

    /// The next record's rollouts into `ready`; `false` at the end.
    fn advance(&mut self) -> bool {
        let Some(open) = &mut self.current else {
            let Some(path) = self.files.pop_front() else { return false };
            match source::open(&path, Arc::clone(&self.read)) {
                Ok(stream) => {
                    let records = Records::new(stream, self.options.max_record_bytes);
                    let (name, step) = (source::stem(&path), step_of(&path));
                    self.format = self.options.format;
                    self.current = Some(Open { path, name, step, records, format: self.options.format });
                }
                Err(error) => self.ready.push_back(Err(whole(&path, format!("cannot be opened: {error}")))),
            }
            return true;
        };
        let line = match open.records.next(&mut self.record) {
            None => {
                self.current = None;
                return true;
            }
            Some(Ok(line)) => line,
            Some(Err(RecordError::Bad { line, reason } | RecordError::End { line, reason })) => {
                self.records += 1;
                self.ready.push_back(Err(open.error(line, Fault::record(reason))));
                return true;
            }
        };
        self.records += 1;
        let format = match open.format.map_or_else(|| DumpFormat::detect(&self.record), Ok) {
            Ok(format) => format,
            Err(fault) => {
                self.ready.push_back(Err(open.error(line, fault)));
                return true;
            }
        };
        open.format = Some(format);
        self.format = Some(format);
        let place = Place { file: &open.name, step: open.step.as_deref(), line, options: &self.options };
        match format.read(&self.record, &place) {
            Ok(rollouts) if rollouts.is_empty() => self.left_out += 1,
            Ok(rollouts) => {
                let own = rollouts.into_iter().map(|rollout| rollout.map_err(|fault| open.error(line, fault)));
                self.ready.extend(own);
            }
            Err(fault) => self.ready.push_back(Err(open.error(line, fault))),
        }
        true
    }
}

impl Iterator for Dump {
    type Item = Result<DumpRollout, DumpError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Some(ready);
            }
            if !self.advance() {
                return None;
            }
        }
    }
}

impl Open {
    fn error(&self, line: u64, fault: Fault) -> DumpError {
        DumpError { path: self.path.clone(), line: Some(line), field: fault.field, reason: fault.reason }
    }
}

impl fmt::Debug for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dump").field("files", &self.files).field("records", &self.records).finish_non_exhaustive()
    }
}

fn whole(path: &Path, reason: String) -> DumpError {
    DumpError { path: path.to_owned(), line: None, field: None, reason }
}

/// The training step of a file by its name (`train_data_step12.jsonl`) or its folder's (`step_12`).
fn step_of(path: &Path) -> Option<String> {
    let name = source::stem(path);
    let folder = path.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    [name.strip_prefix("train_data_step"), folder.as_deref().and_then(|folder| folder.strip_prefix("step_"))]
        .into_iter()
        .flatten()
        .find(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests;
