//! Which files of a model are needed, and how they get into the cache.

use std::path::Path;
use std::time::{Duration, Instant};

use super::cache::{CONFIG, INDEX, ModelCache, SINGLE, shards};
use super::error::HubError;
use super::remote::{Attempt, Failure, Remote};
use super::{HubModel, HubSnapshot, is_commit, stays_inside};

/// Files that are taken along where a model has them: end-of-sequence ids, the tokenizer and chat templates.
const OPTIONAL: [&str; 6] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
];
const TEMPLATE_FOLDER: &str = "additional_chat_templates";

/// How often a file is asked for before its download counts as failed.
const ATTEMPTS: u32 = 4;

/// Asks the hub which commit the model's revision stands for and downloads what the cache lacks of it. The revision is
/// remembered for that commit only when all is there, so that a cache is never left pointing to half a model.
pub(super) fn newest(model: &HubModel, cache: &ModelCache) -> Result<HubSnapshot, Failure> {
    let remote = Remote::new(model, &cache.root)?;
    let described = remote.describe(&model.revision)?;
    let commit = described.sha;
    if !is_commit(&commit) || (is_commit(&model.revision) && commit != model.revision) {
        return Err(Failure::NoAnswer(format!("it says that {} is at commit {commit:?}", model.revision)));
    }
    let there: Vec<&str> = described.siblings.iter().map(|sibling| sibling.rfilename.as_str()).collect();
    for file in first_files(model, &commit, &there)? {
        fetch(&remote, cache, &commit, file)?;
    }
    let folder = cache.snapshot(&commit);
    if there.contains(&INDEX) {
        for shard in shards(&folder.join(INDEX))? {
            fetch(&remote, cache, &commit, &shard)?;
        }
    }
    cache.remember(&model.revision, &commit)?;
    Ok(HubSnapshot { folder, commit })
}

/// What is needed and known before the index of shards is read.
fn first_files<'a>(model: &HubModel, commit: &str, there: &[&'a str]) -> Result<Vec<&'a str>, HubError> {
    let (id, commit) = (model.id.clone(), commit.to_owned());
    if !there.contains(&CONFIG) {
        return Err(HubError::NoConfig { id, commit });
    }
    let weights = if there.contains(&INDEX) { INDEX } else { SINGLE };
    if !there.contains(&weights) {
        let endings = [".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx"];
        let found: Vec<&str> =
            there.iter().copied().filter(|name| endings.iter().any(|ending| name.ends_with(ending))).collect();
        let found = if found.is_empty() { "no weights at all".into() } else { found.join(", ") };
        return Err(HubError::NoSafetensors { id, commit, found });
    }
    let template = |name: &str| {
        name.strip_prefix(TEMPLATE_FOLDER)
            .and_then(|rest| rest.strip_prefix('/'))
            .is_some_and(|rest| rest.ends_with(".jinja") && !rest.contains('/') && stays_inside(rest))
    };
    Ok(there
        .iter()
        .copied()
        .filter(|name| *name == CONFIG || *name == weights || OPTIONAL.contains(name) || template(name))
        .collect())
}

/// Makes sure that the cache has one file of a commit.
fn fetch(remote: &Remote<'_>, cache: &ModelCache, commit: &str, file: &str) -> Result<(), Failure> {
    let target = cache.snapshot(commit).join(file);
    if target.is_file() {
        return Ok(());
    }
    let failed = |source| HubError::Cache { path: target.clone(), source };
    if target.is_symlink() {
        // Its content was removed.
        std::fs::remove_file(&target).map_err(failed)?;
    }
    let metadata = remote.metadata(commit, file)?;
    if metadata.commit_hash() != commit {
        return Err(Failure::NoAnswer(format!("{file} was offered at commit {}", metadata.commit_hash())));
    }
    // The etag becomes the name of a file.
    if !metadata.etag().chars().all(|character| character.is_ascii_alphanumeric() || "-_".contains(character)) {
        return Err(Failure::NoAnswer(format!("{file} has the etag {:?}", metadata.etag())));
    }
    let size = metadata.size() as u64;
    let blob = cache.blob(metadata.etag());
    let mut waiting = Waiting::new();
    let mut failures = 0;
    // Commits share what did not change between them.
    while !link(&blob, &target, file, size).map_err(failed)? {
        if failures == 0 {
            tracing::info!(model = remote.id, file, bytes = size, "downloading");
        }
        let remains = blob.with_extension("part");
        match remote.download(commit, file, size) {
            Attempt::Done => {
                let got = target.metadata().map_err(failed)?.len();
                if got == size {
                    return Ok(());
                }
                std::fs::remove_file(&target).map_err(failed)?;
                std::fs::remove_file(&blob).map_err(failed)?;
                return Err(Failure::NoAnswer(format!("{file} came with {got} instead of {size} bytes")));
            }
            Attempt::Locked => {
                if waiting.since_moved(&remains) > remote.stall() {
                    let reason = format!("another process holds the lock of {file} and gets no further");
                    return Err(Failure::NoAnswer(reason));
                }
                tracing::info!(model = remote.id, file, "waiting for another process that downloads the same file");
            }
            Attempt::BadRemains if failures + 1 < ATTEMPTS => {
                failures += 1;
                tracing::warn!(model = remote.id, file, "what an earlier download left does not fit, starting over");
                std::fs::remove_file(&remains).map_err(failed)?;
            }
            Attempt::BadRemains => return Err(Failure::NoAnswer(format!("{file} cannot be read from its start"))),
            Attempt::Failed(Failure::NoAnswer(reason)) if failures + 1 < ATTEMPTS => {
                failures += 1;
                tracing::warn!(model = remote.id, file, reason, "download failed, trying again");
                std::thread::sleep(Duration::from_secs(1 << failures));
            }
            Attempt::Failed(failure) => return Err(failure),
        }
    }
    Ok(())
}

/// Links a commit's file to its content, if that is in the cache already.
fn link(blob: &Path, target: &Path, file: &str, size: u64) -> std::io::Result<bool> {
    if !blob.metadata().is_ok_and(|known| known.is_file() && known.len() == size) {
        return Ok(false);
    }
    let (Some(name), Some(folder)) = (blob.file_name(), target.parent()) else { return Ok(false) };
    std::fs::create_dir_all(folder)?;
    // From snapshots/COMMIT/FILE to blobs/ETAG.
    let up = "../".repeat(2 + file.matches('/').count());
    match symlink(&Path::new(&up).join("blobs").join(name), target) {
        // Another process was faster.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(target.is_file()),
        result => result.map(|()| true),
    }
}

#[cfg(unix)]
fn symlink(content: &Path, target: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(content, target)
}

#[cfg(not(unix))]
fn symlink(content: &Path, target: &Path) -> std::io::Result<()> {
    let folder = target.parent().unwrap_or(target);
    std::fs::copy(folder.join(content), target).map(|_| ())
}

/// Sees whether another process's download moves.
struct Waiting {
    length: u64,
    moved: Instant,
}

impl Waiting {
    fn new() -> Self {
        Self { length: 0, moved: Instant::now() }
    }

    fn since_moved(&mut self, remains: &Path) -> Duration {
        let length = remains.metadata().map_or(0, |known| known.len());
        if length != self.length {
            (self.length, self.moved) = (length, Instant::now());
        }
        self.moved.elapsed()
    }
}
