//! Files of a dump: where they lie, and their bytes as a stream, decompressed.

use std::cmp::Ordering;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bytes that are read from disk at a time.
const BUFFER: usize = 1 << 18;

/// Folders below a given one that are looked into: `token_exports/step_7/rank_0.jsonl`.
const DEPTH: usize = 3;

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// The stream of a file's bytes.
pub(super) type Stream = Box<dyn BufRead + Send>;

/// Opens a file; gzip and zstd are known by their first bytes, whatever its name. `read` counts bytes as they lie on disk.
pub(super) fn open(path: &Path, read: Arc<AtomicU64>) -> io::Result<Stream> {
    let mut file = BufReader::with_capacity(BUFFER, Counted { file: File::open(path)?, read });
    let start = file.fill_buf()?;
    if start.starts_with(GZIP) {
        // A file may consist of several streams, one after the other.
        let stream = flate2::bufread::MultiGzDecoder::new(file);
        Ok(Box::new(BufReader::with_capacity(BUFFER, stream)))
    } else if start.starts_with(ZSTD) {
        let stream = zstd::Decoder::with_buffer(file)?;
        Ok(Box::new(BufReader::with_capacity(BUFFER, stream)))
    } else {
        Ok(Box::new(file))
    }
}

struct Counted {
    file: File,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.read(buffer)?;
        self.read.fetch_add(bytes as u64, Relaxed);
        Ok(bytes)
    }
}

/// The files that a path stands for, in order, and their bytes together: the file itself, or what a folder holds of JSON
/// lines (`*.jsonl`, `*.json`, compressed or not), numbers in names in their natural order.
pub(super) fn files(path: &Path) -> io::Result<(Vec<PathBuf>, u64)> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_dir() {
        return Ok((vec![path.to_owned()], metadata.len()));
    }
    let mut found = Vec::new();
    collect(path, DEPTH, &mut found)?;
    found.sort_by(|(a, _), (b, _)| natural(&a.to_string_lossy(), &b.to_string_lossy()));
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the folder has no .jsonl or .json file"));
    }
    let bytes = found.iter().map(|(_, bytes)| bytes).sum();
    Ok((found.into_iter().map(|(path, _)| path).collect(), bytes))
}

fn collect(folder: &Path, depth: usize, found: &mut Vec<(PathBuf, u64)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, metadata) = (entry.path(), fs::metadata(entry.path())?);
        if metadata.is_dir() {
            if depth > 1 {
                collect(&path, depth - 1, found)?;
            }
        } else if is_json(&entry.file_name().to_string_lossy()) {
            found.push((path, metadata.len()));
        }
    }
    Ok(())
}

fn is_json(name: &str) -> bool {
    let name = [".gz", ".zst"].iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name);
    !name.starts_with('.') && (name.ends_with(".jsonl") || name.ends_with(".json"))
}

/// The name of a file without what says how it is written.
pub(super) fn stem(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut stem = name.as_str();
    for ending in [".gz", ".zst", ".jsonl", ".json"] {
        stem = stem.strip_suffix(ending).unwrap_or(stem);
    }
    stem.to_owned()
}

/// Compares names so that `step_2` comes before `step_10`.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let (digits_a, digits_b) = (leading_digits(a), leading_digits(b));
        let order = if digits_a > 0 && digits_b > 0 {
            let (number_a, number_b) = (a[..digits_a].trim_start_matches('0'), b[..digits_b].trim_start_matches('0'));
            let order = number_a.len().cmp(&number_b.len()).then(number_a.cmp(number_b));
            (a, b) = (&a[digits_a..], &b[digits_b..]);
            order
        } else {
            let (mut chars_a, mut chars_b) = (a.chars(), b.chars());
            let order = match (chars_a.next(), chars_b.next()) {
                (None, None) => return Ordering::Equal,
                (x, y) => x.cmp(&y),
            };
            (a, b) = (chars_a.as_str(), chars_b.as_str());
            order
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

fn leading_digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("plumbline-source-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn read(path: &Path) -> (String, u64) {
        let counter = Arc::new(AtomicU64::new(0));
        let mut text = String::new();
        open(path, Arc::clone(&counter)).unwrap().read_to_string(&mut text).unwrap();
        (text, counter.load(Relaxed))
    }

    #[test]
    fn compression_is_known_by_the_bytes() {
        let folder = folder("compressed");
        let text = "a line\n".repeat(1000);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(text.as_bytes()).unwrap();
        let gzip = gzip.finish().unwrap();
        let zstd = zstd::encode_all(text.as_bytes(), 1).unwrap();
        for (name, bytes) in [("plain", text.as_bytes()), ("gzip", &gzip), ("zstd", &zstd)] {
            let path = folder.join(name);
            // Two streams in one file, as `cat` makes them.
            fs::write(&path, [bytes, bytes].concat()).unwrap();
            assert_eq!(read(&path), (text.repeat(2), 2 * bytes.len() as u64), "{name}");
        }
        fs::write(folder.join("cut"), &gzip[..gzip.len() / 2]).unwrap();
        let mut stream = open(&folder.join("cut"), Arc::default()).unwrap();
        assert!(stream.read_to_end(&mut Vec::new()).is_err(), "a file that was cut off is not simply shorter");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_folder_stands_for_its_files_in_natural_order() {
        let folder = folder("files");
        for name in
            ["step_10/rank_0.jsonl", "step_2/rank_1.jsonl.gz", "step_2/rank_0.jsonl", "step_2/STABLE", ".x.jsonl"]
        {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "12345").unwrap();
        }
        let (found, bytes) = files(&folder).unwrap();
        let names: Vec<_> = found.iter().map(|path| path.strip_prefix(&folder).unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["step_2/rank_0.jsonl", "step_2/rank_1.jsonl.gz", "step_10/rank_0.jsonl"]);
        assert_eq!(bytes, 15);
        fs::remove_dir_all(&folder).unwrap();
        assert!(files(&folder).is_err());
    }

    #[test]
    fn names_compare_by_their_numbers() {
        assert_eq!(natural("a9b", "a10b"), Ordering::Less);
        assert_eq!(natural("a007", "a7"), Ordering::Equal);
        assert_eq!(natural("a", "a1"), Ordering::Less);
        assert_eq!(natural("é2", "é10"), Ordering::Less);
        assert_eq!(stem(Path::new("x/train_data_step5.jsonl.gz")), "train_data_step5");
    }
}
