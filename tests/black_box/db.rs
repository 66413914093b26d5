//! `plumbline db`, on files that the store wrote.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, SystemTime};

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;
use plumbline_divergence::TokenComparison;
use plumbline_store::{
    Class, Completion, Digest, Finished, NewSequence, NewVerification, Packed, Store, StoreOptions, Target, TokenRows,
};
use serde_json::Value;

use crate::support::plumbline;

/// A data folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("plumbline-db-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join(StoreOptions::FILE_NAME)
    }

    fn open(&self) -> Store {
        Store::open(StoreOptions::new(self.file())).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Stores a verification of one sequence with two tokens; of the second the engine said nothing.
fn finish(store: &Store, id: &str, run: &str, with_tokens: bool) {
    let token = |engine| TokenComparison {
        token_id: 7,
        engine,
        reference: Some(-1.5),
        entropy: Some(0.25),
        rank: Some(2),
        eos_probability: None,
        skipped: plumbline_core::SkipReason::of_value(engine),
    };
    let tokens = [token(Some(-1.0)), token(None)];
    let sequence = NewSequence {
        id: format!("seq_{id}"),
        digest: Digest::of([id.as_bytes()]),
        sequence_id: format!("sent {id}"),
        worker: Some("w0".into()),
        policy_version: None,
        verdict: "insufficient".into(),
        verdict_reason: "1 token".into(),
        tokens: 2,
        compared: 1,
        kl_k3: Some(0.1),
        mae: Some(0.5),
        observation: Packed::new(b"{}"),
        token_rows: with_tokens.then(|| TokenRows::new(&tokens)),
        contribution: Vec::new(),
    };
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(951_868_800);
    let new = NewVerification {
        id: id.into(),
        run: run.into(),
        engine: "vllm".into(),
        class: Class::Interactive,
        at,
        digest: Digest::of([id.as_bytes(), b"request"]),
        idempotency_key: None,
    };
    let target = Target::Direct(new);
    let completion =
        Completion { target, response: Packed::new(b"{}"), at, sequences: vec![sequence], assumed_new: None };
    assert_eq!(store.finish(completion).wait().unwrap(), Finished::Done { new: vec![true] });
}

fn db(arguments: &[&str], path: &Path) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = plumbline().arg("db").args(arguments).arg(path).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn check_tells_a_sound_file_from_a_damaged_one() {
    let folder = Folder::new("check");
    let store = folder.open();
    finish(&store, "a", "r", true);
    // Also while it is being served, and by either name.
    for path in [folder.0.clone(), folder.file()] {
        let (code, stdout, stderr) = db(&["check"], &path);
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
        assert!(stdout.contains("sequences      1") && stdout.contains("everything is as it must be"), "{stdout}");
    }
    drop(store);

    let mut bytes = std::fs::read(folder.file()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..].fill(0x5a);
    std::fs::write(folder.file(), &bytes).unwrap();
    let (code, stdout, _) = db(&["check", "--json"], &folder.0);
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &report["good"]), (Some(3), &Value::Bool(false)), "{report}");
    assert!(!report["findings"].as_array().unwrap().is_empty());
    assert_eq!(std::fs::read(folder.file()).unwrap(), bytes, "nothing is changed");
}

#[test]
fn what_cannot_be_looked_at_is_named() {
    let folder = Folder::new("missing");
    for command in ["check", "vacuum"] {
        let (code, stdout, stderr) = db(&[command], &folder.0);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{command}");
        assert!(stderr.contains("plumbline.sqlite"), "{stderr}");
    }
    let (code, _, stderr) = db(&["export", "--ndjson", "-"], &folder.0);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(!folder.file().exists(), "looking makes no file");
    let (code, _, stderr) = db(&["export"], &folder.0);
    assert!(code == Some(2) && stderr.contains("--ndjson"), "{stderr}");
}

#[test]
fn vacuum_is_refused_while_the_file_is_served() {
    let folder = Folder::new("vacuum");
    let store = folder.open();
    finish(&store, "a", "r", true);
    let (code, _, stderr) = db(&["vacuum"], &folder.0);
    assert!(code == Some(1) && stderr.contains("in use by another process"), "{stderr}");
    drop(store);
    let (code, stdout, stderr) = db(&["vacuum", "--json"], &folder.0);
    assert_eq!(code, Some(0), "{stderr}");
    let sizes: Value = serde_json::from_str(&stdout).unwrap();
    assert!(sizes["after"].as_u64().unwrap() <= sizes["before"].as_u64().unwrap());
    assert_eq!(db(&["check"], &folder.0).0, Some(0));
}

#[test]
fn export_writes_every_sequence_and_token() {
    let folder = Folder::new("export");
    let store = folder.open();
    finish(&store, "a", "r", true);
    finish(&store, "b", "q", true);
    finish(&store, "c", "r", false);
    let (code, stdout, stderr) = db(&["export", "--ndjson", "-"], &folder.0);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(stderr.trim_end(), "3 sequences, 4 tokens; the tokens of 1 sequences are no longer kept");
    let lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().map(|line| line["id"].as_str().unwrap()).collect::<Vec<_>>(), ["seq_a", "seq_b", "seq_c"]);
    assert_eq!(lines[0]["at"], "2000-03-01T00:00:00Z");
    assert_eq!(
        (&lines[0]["verification"], &lines[0]["run"], &lines[0]["worker"]),
        (&"a".into(), &"r".into(), &"w0".into())
    );
    assert_eq!(lines[0]["tokens"]["engine_logprobs"], serde_json::json!([-1.0, null]));
    assert_eq!(lines[0]["tokens"]["skipped"], serde_json::json!([null, "missing"]));
    assert_eq!(lines[2]["tokens"], Value::Null);

    let table = folder.0.join("tokens.parquet");
    let arguments = ["export", "--run", "r", "--parquet", table.to_str().unwrap()];
    let (code, stdout, stderr) = db(&arguments, &folder.0);
    assert_eq!(
        (code, stdout.trim_end()),
        (Some(0), "2 sequences, 2 tokens; the tokens of 1 sequences are no longer kept"),
        "{stderr}"
    );
    let reader = SerializedFileReader::new(std::fs::File::open(&table).unwrap()).unwrap();
    let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 2);
    assert_eq!((rows[0].get_string(0).unwrap().as_str(), rows[0].get_string(4).unwrap().as_str()), ("vllm", "sent a"));
    assert_eq!((rows[0].get_double(11).unwrap(), rows[0].get_string(17).unwrap().as_str()), (-0.5, "r"));
    assert!(!folder.0.join("tokens.parquet.partial").exists());
}
