//! Watches a folder for finished checkpoints.
//!
//! Polls instead of asking the system for events: checkpoints usually come over a network file system, which has none.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{Weights, directory_version, version::trailing_number};

/// What is watched and how.
#[derive(Clone, Debug)]
pub(crate) struct WatchConfig {
    /// The folder whose subfolders are checkpoints.
    pub(crate) folder: PathBuf,
    /// The file that appears in a checkpoint when it is complete.
    pub(crate) marker: String,
    pub(crate) interval: Duration,
    /// Checkpoints that are worth loading: older ones would be let go at once.
    pub(crate) keep: usize,
}

/// A finished checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Checkpoint {
    path: PathBuf,
    /// When its marker was written: the same folder may be written again.
    finished: SystemTime,
}

/// Loads every new checkpoint of the folder. Never returns.
///
/// Of several new ones only the newest `keep` are loaded, in their order. A broken one is not tried again until its marker
/// is written anew.
pub(crate) async fn watch(weights: Weights, config: WatchConfig) {
    let mut seen: HashMap<PathBuf, SystemTime> = HashMap::new();
    let mut readable = true;
    loop {
        let (folder, marker) = (config.folder.clone(), config.marker.clone());
        let found = match tokio::task::spawn_blocking(move || checkpoints(&folder, &marker)).await {
            Ok(found) => found,
            Err(error) => Err(io::Error::other(error)),
        };
        match found {
            Ok(found) => {
                if !readable {
                    tracing::info!(folder = %config.folder.display(), "the watched folder can be read again");
                }
                readable = true;
                let fresh: Vec<_> =
                    found.iter().filter(|one| seen.get(&one.path) != Some(&one.finished)).cloned().collect();
                // Folders that are gone are forgotten, or the map would grow for ever.
                seen = found.into_iter().map(|one| (one.path, one.finished)).collect();
                load(&weights, &config, fresh).await;
            }
            Err(error) if readable => {
                readable = false;
                tracing::error!(folder = %config.folder.display(), %error, "the watched folder cannot be read");
            }
            // Said once.
            Err(_) => {}
        }
        tokio::time::sleep(config.interval).await;
    }
}

async fn load(weights: &Weights, config: &WatchConfig, fresh: Vec<Checkpoint>) {
    let skipped = fresh.len().saturating_sub(config.keep);
    for checkpoint in &fresh[..skipped] {
        tracing::info!(path = %checkpoint.path.display(), "skipped: newer checkpoints are there already");
    }
    for checkpoint in &fresh[skipped..] {
        match directory_version(&checkpoint.path) {
            // A failure was logged and counted; the next checkpoint may be good.
            Some(version) => drop(weights.update(&checkpoint.path, &version).await),
            None => {
                tracing::error!(path = %checkpoint.path.display(), "skipped: the folder's name is not valid UTF-8");
            }
        }
    }
}

/// The finished checkpoints of a folder, oldest first: by the number at the end of the name, then by age.
fn checkpoints(folder: &Path, marker: &str) -> io::Result<Vec<Checkpoint>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        match std::fs::metadata(path.join(marker)).and_then(|marker| marker.modified()) {
            Ok(finished) => found.push(Checkpoint { path, finished }),
            // Not finished, no folder, or removed since the listing.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(error) => return Err(error),
        }
    }
    let number = |path: &Path| path.file_name().and_then(|name| name.to_str()).and_then(trailing_number);
    found.sort_by(|a, b| (number(&a.path), a.finished, &a.path).cmp(&(number(&b.path), b.finished, &b.path)));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_finished_checkpoints_count_in_the_order_of_their_numbers() {
        let base = std::env::temp_dir().join(format!("plumbline-watch-{}", std::process::id()));
        let _ = fs::remove_dir_all(&base);
        for name in ["step_9", "step_10", "step_2", "final", "unfinished_3"] {
            fs::create_dir_all(base.join(name)).unwrap();
        }
        for name in ["step_10", "step_9", "step_2", "final"] {
            fs::write(base.join(name).join("STABLE"), "").unwrap();
        }
        fs::write(base.join("a-file"), "").unwrap();
        let names = |found: Vec<Checkpoint>| -> Vec<String> {
            found.iter().map(|one| one.path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
        };
        assert_eq!(names(checkpoints(&base, "STABLE").unwrap()), ["final", "step_2", "step_9", "step_10"]);
        fs::remove_dir_all(&base).unwrap();
        assert!(checkpoints(&base, "STABLE").is_err(), "a folder that is gone is an error, not an empty one");
    }
}
