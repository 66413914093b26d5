//! The hub's cache on this machine: `models--ORG--NAME/{refs,snapshots,blobs}`, as every Hugging Face library keeps it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::HubError;
use super::{is_commit, stays_inside};

pub(super) const CONFIG: &str = "config.json";
pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// The part of the cache that one model has.
#[derive(Debug)]
pub(super) struct ModelCache {
    /// Folder of the whole cache.
    pub(super) root: PathBuf,
    folder: PathBuf,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl ModelCache {
    pub(super) fn new(root: &Path, id: &str) -> Self {
        let folder = root.join(format!("models--{}", id.replace('/', "--")));
        Self { root: root.to_owned(), folder }
    }

    /// The folder of a commit's files.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// Where the content of a file with this etag is kept.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// The commit that a branch or tag stood for when the hub was last asked.
    pub(super) fn commit_of(&self, revision: &str) -> Result<Option<String>, HubError> {
        let path = self.reference(revision);
        match std::fs::read_to_string(&path) {
            Ok(text) if is_commit(text.trim()) => Ok(Some(text.trim().to_owned())),
            Ok(_) => Err(HubError::Damaged { path, reason: "it holds no commit hash".into() }),
            Err(error) if is_absent(&error) => Ok(None),
            Err(source) => Err(HubError::Cache { path, source }),
        }
    }

    /// Remembers which commit a branch or tag stands for. Not needed for commits.
    pub(super) fn remember(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        // A reference that cannot be read is about to be replaced by a good one.
        if is_commit(revision) || self.commit_of(revision).is_ok_and(|known| known.as_deref() == Some(commit)) {
            return Ok(());
        }
        let path = self.reference(revision);
        write_whole(&path, commit).map_err(|source| HubError::Cache { path, source })
    }

    fn reference(&self, revision: &str) -> PathBuf {
        self.folder.join("refs").join(revision)
    }

    /// The files without which a commit cannot be scored and that are not there.
    pub(super) fn missing(&self, commit: &str) -> Result<Vec<String>, HubError> {
        let folder = self.snapshot(commit);
        let mut needed = vec![CONFIG.to_owned()];
        if folder.join(INDEX).is_file() {
            needed.extend(shards(&folder.join(INDEX))?);
        } else {
            needed.push(SINGLE.into());
        }
        needed.retain(|name| !folder.join(name).is_file());
        Ok(needed)
    }
}

/// The files that an index of shards names.
pub(super) fn shards(index: &Path) -> Result<BTreeSet<String>, HubError> {
    let damaged = |reason: String| HubError::Damaged { path: index.to_owned(), reason };
    let text = std::fs::read(index).map_err(|source| HubError::Cache { path: index.to_owned(), source })?;
    let index: Index = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    match shards.iter().find(|shard| shard.contains('/') || !stays_inside(shard)) {
        Some(outside) => Err(damaged(format!("{outside:?} is not the name of a file beside it"))),
        None => Ok(shards),
    }
}

/// Writes a file so that no reader ever sees a part of it.
fn write_whole(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".{}.part", std::process::id()));
    std::fs::write(&unfinished, text)?;
    std::fs::rename(&unfinished, path)
}

/// Whether an error says that there is no such file. A folder of references (`refs/pr` for `pr/1`) is none.
fn is_absent(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{IsADirectory, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | IsADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn cache(name: &str) -> ModelCache {
        let root = std::env::temp_dir().join(format!("plumbline-hub-{}-{name}", std::process::id()));
        let cache = ModelCache::new(&root, "org/name");
        std::fs::create_dir_all(cache.snapshot(COMMIT)).unwrap();
        cache
    }

    impl Drop for ModelCache {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.root);
        }
    }

    #[test]
    fn references_are_remembered_and_read() {
        let cache = cache("references");
        assert_eq!(cache.commit_of("main").unwrap(), None);
        cache.remember("refs/pr/1", COMMIT).unwrap();
        assert_eq!(cache.commit_of("refs/pr/1").unwrap().as_deref(), Some(COMMIT));
        assert_eq!(cache.commit_of("refs/pr").unwrap(), None);
        cache.remember(COMMIT, COMMIT).unwrap();
        assert!(!cache.reference(COMMIT).exists());
        std::fs::write(cache.reference("main"), "../../../etc\n").unwrap();
        assert!(cache.commit_of("main").unwrap_err().to_string().contains("holds no commit hash"));
        cache.remember("main", COMMIT).unwrap();
        assert_eq!(cache.commit_of("main").unwrap().as_deref(), Some(COMMIT));
    }

    #[test]
    fn missing_files_are_named() {
        let cache = cache("missing");
        let folder = cache.snapshot(COMMIT);
        assert_eq!(cache.missing(COMMIT).unwrap(), [CONFIG, SINGLE]);
        std::fs::write(folder.join(CONFIG), "{}").unwrap();
        std::fs::write(folder.join(INDEX), r#"{"weight_map": {"a": "2.safetensors", "b": "1.safetensors"}}"#).unwrap();
        assert_eq!(cache.missing(COMMIT).unwrap(), ["1.safetensors", "2.safetensors"]);
        std::fs::write(folder.join("1.safetensors"), "").unwrap();
        std::fs::write(folder.join("2.safetensors"), "").unwrap();
        assert_eq!(cache.missing(COMMIT).unwrap(), [""; 0]);
    }

    #[test]
    fn an_index_cannot_name_files_elsewhere() {
        let cache = cache("outside");
        let index = cache.snapshot(COMMIT).join(INDEX);
        for outside in ["../x.safetensors", "/etc/passwd", "a/b.safetensors", ""] {
            std::fs::write(&index, format!(r#"{{"weight_map": {{"a": "{outside}"}}}}"#)).unwrap();
            let error = cache.missing(COMMIT).unwrap_err().to_string();
            assert!(error.contains("is not the name of a file beside it"), "{error}");
        }
    }
}
