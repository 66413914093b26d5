//! Files of a run that later runs read again.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    serde_json::from_reader(BufReader::new(file)).with_context(|| format!("{} is damaged", path.display()))
}

/// Whole or not at all: a run may be killed at any moment.
pub(super) fn write_json<T: Serialize>(path: &Path, value: &T) -> anyhow::Result<()> {
    let written = || -> anyhow::Result<()> {
        let temporary = path.with_extension("tmp");
        let mut file = BufWriter::new(File::create(&temporary)?);
        serde_json::to_writer(&mut file, value)?;
        file.write_all(b"\n")?;
        file.into_inner()?.sync_all()?;
        fs::rename(&temporary, path)?;
        Ok(())
    };
    written().with_context(|| format!("cannot write {}", path.display()))
}

/// A file of JSON lines that grows, each line whole or, after a kill, cut off at the end.
#[derive(Debug)]
pub(super) struct Log<T> {
    path: PathBuf,
    file: File,
    of: PhantomData<fn(T)>,
}

impl<T: Serialize + DeserializeOwned> Log<T> {
    /// Opens or creates it. A last line that was cut off is taken away.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let opened = || -> std::io::Result<File> {
            let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
            let whole = end_of_last_line(&mut file)?;
            if whole < file.metadata()?.len() {
                tracing::warn!(file = %path.display(), "the last line was cut off, it is left out");
                file.set_len(whole)?;
            }
            file.seek(SeekFrom::End(0))?;
            Ok(file)
        };
        let file = opened().with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Self { path: path.to_owned(), file, of: PhantomData })
    }

    /// Everything in it, in the order of writing.
    pub(super) fn read(&self) -> anyhow::Result<impl Iterator<Item = anyhow::Result<T>> + use<T>> {
        let path = self.path.clone();
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        Ok(BufReader::new(file).lines().enumerate().map(move |(index, line)| {
            let place = || format!("{} line {}", path.display(), index + 1);
            serde_json::from_str(&line.with_context(place)?).with_context(place)
        }))
    }

    /// Adds a line in one write, so that another reader sees it whole.
    pub(super) fn append(&mut self, value: &T) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.file.write_all(&line).with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// Offset behind the last line end.
fn end_of_last_line(file: &mut File) -> std::io::Result<u64> {
    const STEP: u64 = 64 << 10;
    let mut end = file.metadata()?.len();
    let mut buffer = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(STEP);
        file.seek(SeekFrom::Start(start))?;
        buffer.clear();
        (&mut *file).take(end - start).read_to_end(&mut buffer)?;
        if let Some(at) = buffer.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_goes_on_after_a_line_that_was_cut_off() {
        let path = std::env::temp_dir().join(format!("plumbline-log-{}.jsonl", std::process::id()));
        let read = |log: &Log<Vec<u32>>| log.read().unwrap().collect::<anyhow::Result<Vec<_>>>();
        fs::write(&path, format!("[1]\n[2]\n[{}", "3,".repeat(100_000))).unwrap();
        let mut log = Log::open(&path).unwrap();
        log.append(&vec![4]).unwrap();
        assert_eq!(read(&log).unwrap(), [vec![1], vec![2], vec![4]]);
        drop(log);
        fs::write(&path, "[1]\nnonsense\n").unwrap();
        let error = format!("{:#}", read(&Log::open(&path).unwrap()).unwrap_err());
        assert!(error.contains("line 2"), "{error}");
        fs::write(&path, "[1").unwrap();
        assert!(read(&Log::open(&path).unwrap()).unwrap().is_empty());
        fs::remove_file(&path).unwrap();
    }
}
