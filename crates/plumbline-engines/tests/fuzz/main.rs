//! Bad dumps: whatever a file holds, its records are read or refused with the line and a reason, and reading ends.
//!
//! `PLUMBLINE_FUZZ_CASES` sets the number of files of each form; see `docs/reliability.md`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap in a test is a failed test"
)]

#[path = "../../../../tests/fuzz/edits.rs"]
mod edits;
#[path = "../../../../tests/fuzz/good.rs"]
#[allow(dead_code, reason = "bodies of requests are of no use here")]
mod good;

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use plumbline_engines::dumps::{DumpFormat, DumpOptions, open_dump};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseResult, TestRunner};

use self::edits::{Body, bodies, texts};

fn cases() -> u32 {
    std::env::var("PLUMBLINE_FUZZ_CASES").map_or(2000, |cases| cases.parse().unwrap())
}

/// A file of its own, removed when dropped.
struct File(PathBuf);

impl File {
    fn new(name: &str) -> Self {
        // In memory where that is possible: thousands of files are written.
        let memory = PathBuf::from("/dev/shm");
        let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
        Self(folder.join(format!("plumbline-fuzz-{name}-{}.jsonl", std::process::id())))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Reads a file of these bytes to its end and looks at everything that it gives.
fn check(file: &File, bytes: &[u8], options: &DumpOptions) -> TestCaseResult {
    fs::write(&file.0, bytes).unwrap();
    let lines = 1 + bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
    let mut dump = open_dump(&file.0, options).unwrap();
    let mut given = 0;
    for next in dump.by_ref() {
        given += 1;
        prop_assert!(given <= bytes.len(), "more rollouts than bytes");
        match next {
            Ok(read) => {
                let tokens = read.rollout.completion_token_ids.len();
                prop_assert!(tokens > 0);
                prop_assert_eq!(read.rollout.logprobs.len(), tokens);
                prop_assert!(read.rollout.loss_mask.is_none_or(|mask| mask.len() == tokens));
                prop_assert!(read.trainer.is_none_or(|trainer| trainer.logprobs.len() == tokens));
            }
            Err(error) => {
                prop_assert!(
                    !error.reason.is_empty() && error.reason.len() < 3000,
                    "{} bytes of reason",
                    error.reason.len()
                );
                prop_assert!(error.line.is_none_or(|line| (1..=lines).contains(&line)), "{} of {} lines", error, lines);
                prop_assert!(error.field.is_none_or(|field| !field.is_empty() && field.len() < 10_000));
            }
        }
    }
    prop_assert!(dump.records() <= bytes.len() as u64);
    Ok(())
}

fn run(name: &str, strategy: &impl Strategy<Value = Body>, check: impl Fn(&File, &[u8]) -> TestCaseResult) {
    let file = File::new(name);
    let config = Config { cases: cases(), failure_persistence: None, ..Config::default() };
    TestRunner::new(config).run(strategy, |body| check(&file, &body.0)).unwrap_or_else(|failed| panic!("{failed}"));
}

#[test]
fn the_records_that_are_changed_are_good() {
    let file = File::new("good");
    for (format, record) in DumpFormat::ALL.into_iter().zip(good::records()) {
        fs::write(&file.0, record.to_string()).unwrap();
        let mut dump = open_dump(&file.0, &DumpOptions::default()).unwrap();
        let rollouts: Vec<_> = dump.by_ref().collect();
        assert_eq!(dump.format(), Some(format));
        assert!(!rollouts.is_empty() && rollouts.iter().all(Result::is_ok), "{format}: {rollouts:?}");
    }
}

#[test]
fn records_of_every_format() {
    let options = DumpOptions::default();
    run("records", &bodies(good::records()), |file, bytes| check(file, bytes, &options));
}

/// A format that was named is read as such, whatever is in the file.
#[test]
fn records_of_other_formats_than_said() {
    for format in DumpFormat::ALL {
        let options = DumpOptions { format: Some(format), ..DumpOptions::default() };
        run(format.as_str(), &bodies(good::records()), |file, bytes| check(file, bytes, &options));
    }
}

#[test]
fn exchanges_of_every_engine() {
    let options = DumpOptions { engine: Some("mine".into()), ..DumpOptions::default() };
    run("exchanges", &bodies(good::exchanges()), |file, bytes| check(file, bytes, &options));
}

/// Lines, arrays and indented objects, broken anywhere, with a limit that some records are above.
#[test]
fn framings() {
    let records = good::records();
    let lines: String = records.iter().map(|record| format!("{record}\n")).collect();
    let indented: String = records.iter().map(|record| format!("{record:#}\n")).collect();
    let array = serde_json::to_string_pretty(&records).unwrap();
    let all = [lines, indented, array, serde_json::to_string(&records).unwrap()].map(String::into_bytes).to_vec();
    let options = DumpOptions { max_record_bytes: 900, ..DumpOptions::default() };
    run("framings", &texts(all), |file, bytes| check(file, bytes, &options));
}

#[test]
fn compressed_files() {
    let lines: String = good::records().iter().map(|record| format!("{record}\n")).collect();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(lines.as_bytes()).unwrap();
    let all = vec![gzip.finish().unwrap(), zstd::encode_all(lines.as_bytes(), 1).unwrap()];
    let options = DumpOptions { max_record_bytes: 100_000, ..DumpOptions::default() };
    run("compressed", &texts(all), |file, bytes| {
        fs::write(&file.0, bytes).unwrap();
        let mut dump = open_dump(&file.0, &options).unwrap_or_else(|error| panic!("{error}"));
        // What is decompressed can be more than what lies there, but a file of a few kilobytes holds no more than it did.
        let given = dump.by_ref().take(10_000).count();
        prop_assert!(given < 10_000, "reading does not end");
        Ok(())
    });
}
