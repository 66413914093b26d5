//! The store as its users see it.

mod documents;
mod faults;
mod finishing;
mod intake;
mod model;
mod reading;
mod retention;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use crate::time::from_millis;
use crate::{
    Class, Completion, Digest, Finished, MergeSummaries, NewSequence, NewVerification, Packed, Store, StoreOptions,
    Target, check,
};

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("plumbline-store-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join(StoreOptions::FILE_NAME)
    }

    fn options(&self) -> StoreOptions {
        StoreOptions { summaries: Arc::new(Sum), ..StoreOptions::new(self.file()) }
    }

    fn open(&self) -> Store {
        Store::open(self.options()).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Adds numbers in text.
#[derive(Debug)]
struct Sum;

impl MergeSummaries for Sum {
    fn merge(&self, current: Option<&[u8]>, added: &[&[u8]]) -> Result<Vec<u8>, String> {
        let number = |bytes: &[u8]| -> Result<u64, String> {
            std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).ok_or_else(|| format!("{bytes:?}"))
        };
        let mut sum = current.map_or(Ok(0), number)?;
        for added in added {
            sum += number(added)?;
        }
        Ok(sum.to_string().into_bytes())
    }
}

fn at(millis: i64) -> SystemTime {
    from_millis(1_700_000_000_000 + millis)
}

fn digest(content: &str) -> Digest {
    Digest::of([content.as_bytes()])
}

/// A verification of a content, in run "r" of engine "e".
fn verification(id: &str, content: &str, key: Option<&str>) -> NewVerification {
    NewVerification {
        id: id.into(),
        run: "r".into(),
        engine: "e".into(),
        class: Class::Bulk,
        at: at(0),
        digest: digest(content),
        idempotency_key: key.map(str::to_owned),
    }
}

/// A sequence of a content; its id is derived from both names, so that it is unique.
fn sequence(verification: &str, content: &str) -> NewSequence {
    NewSequence {
        id: format!("seq_{verification}_{content}"),
        digest: digest(content),
        sequence_id: content.into(),
        worker: None,
        policy_version: Some("7".into()),
        verdict: "consistent".into(),
        verdict_reason: "small".into(),
        tokens: 3,
        compared: 2,
        kl_k3: Some(0.5),
        mae: Some(0.25),
        observation: Packed::new(content.as_bytes()),
        token_rows: Some(tokens(3)),
        contribution: b"1".to_vec(),
    }
}

fn tokens(count: u32) -> crate::TokenRows {
    let token = |id| plumbline_divergence::TokenComparison {
        token_id: id,
        engine: Some(-0.5),
        reference: Some(-0.25),
        entropy: None,
        rank: Some(1),
        eos_probability: None,
        skipped: None,
    };
    crate::TokenRows::new(&(0..count).map(token).collect::<Vec<_>>())
}

fn completion(target: Target, sequences: Vec<NewSequence>) -> Completion {
    let name = match &target {
        Target::Job(id) => id.clone(),
        Target::Direct(direct) => direct.id.clone(),
    };
    let response = Packed::new(format!("response of {name}").as_bytes());
    Completion { target, response, at: at(1), sequences, assumed_new: None }
}

/// Finishes a verification of its own that has sequences of these contents.
fn direct(store: &Store, id: &str, contents: &[&str]) -> Finished {
    let sequences = contents.iter().map(|content| sequence(id, content)).collect();
    store.finish(completion(Target::Direct(verification(id, id, None)), sequences)).wait().unwrap()
}

fn done(new: &[bool]) -> Finished {
    Finished::Done { new: new.to_vec() }
}

/// Nothing is wrong with a file.
#[track_caller]
fn assert_good(path: &Path) {
    assert_eq!(check(path).unwrap().findings, []);
}
