//! Models of the Hugging Face hub, through the cache that `huggingface_hub` and `transformers` share.
//!
//! - `settings`: where the cache and the hub are;
//! - `cache`: what is there already;
//! - `remote`: what the hub answers; `watch`: and that it does answer;
//! - `fetch`: which files are needed, and how they get into the cache;
//! - this file: when the network is asked and when not.

mod cache;
mod error;
mod fetch;
mod remote;
mod settings;
mod watch;

use std::path::{Component, Path, PathBuf};

pub use self::error::{HubError, HubRequest};
pub use self::settings::{HubSettings, HubToken};

use self::cache::ModelCache;
use self::remote::Failure;

/// The branch that is loaded where nobody asked for another revision.
pub const DEFAULT_REVISION: &str = "main";

/// A model of the hub at a revision.
#[derive(Clone, Debug)]
pub struct HubModel {
    /// `NAME` or `ORGANISATION/NAME`; the model's name in answers.
    pub id: String,
    /// A branch, a tag or a commit hash.
    pub revision: String,
    /// Where the cache and the hub are.
    pub settings: HubSettings,
}

/// A model's files at one commit, on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubSnapshot {
    /// A folder in Hugging Face format.
    pub folder: PathBuf,
    /// The commit's hash. As the revision of another [`HubModel`], it gives the same files and needs no network.
    pub commit: String,
}

/// What the cache has of the wanted revision.
struct Cached {
    commit: Option<String>,
    /// Files without which nothing can be scored; empty = complete.
    missing: Vec<String>,
}

impl Cached {
    /// The commit, if all that is needed to score is there.
    fn complete(&self) -> Option<&str> {
        self.commit.as_deref().filter(|_| self.missing.is_empty())
    }

    /// What is missing, for an error.
    fn lacks(&self, revision: &str) -> String {
        match &self.commit {
            None => format!("it has nothing of revision {revision}"),
            Some(commit) => format!("of commit {commit} it lacks {}", self.missing.join(", ")),
        }
    }
}

impl HubModel {
    /// Makes sure that the model's files are in the cache, and says where.
    ///
    /// A commit hash whose files are in the cache needs no network. Of a branch or a tag the hub is asked for the newest
    /// commit, and what is missing is downloaded. If the hub gives no usable answer, the commit that the cache has for
    /// that name is used, and a warning names it. A refusal by the hub (no access, no such model) is an error even then.
    /// Offline, only the cache is used.
    ///
    /// Blocks, for as long as the download takes.
    ///
    /// # Errors
    /// [`HubError`] names the model, the revision and the endpoint, and says what to do.
    pub fn snapshot(&self) -> Result<HubSnapshot, HubError> {
        if !stays_inside(&self.revision) {
            return Err(HubError::Revision { revision: self.revision.clone() });
        }
        let cache = ModelCache::new(&self.settings.cache, &self.id);
        let cached = self.cached(&cache)?;
        let pinned = is_commit(&self.revision);
        if let Some(commit) = cached.complete()
            && (pinned || self.settings.offline)
        {
            tracing::info!(
                model = self.id,
                revision = self.revision,
                commit,
                "model is in the cache; the hub was not asked"
            );
            return Ok(HubSnapshot { folder: cache.snapshot(commit), commit: commit.into() });
        }
        let request = self.request();
        if self.settings.offline {
            return Err(HubError::Offline { cache: cache.root.clone(), lacks: cached.lacks(&self.revision), request });
        }
        let failure = match fetch::newest(self, &cache) {
            Ok(snapshot) => {
                let commit = snapshot.commit.as_str();
                tracing::info!(
                    model = self.id,
                    revision = self.revision,
                    commit,
                    "model is in the cache, as the hub has it"
                );
                return Ok(snapshot);
            }
            Err(failure) => failure,
        };
        let known = cached.complete().map(str::to_owned);
        match (failure, known) {
            (Failure::NoAnswer(reason), Some(commit)) => {
                tracing::warn!(
                    model = self.id,
                    revision = self.revision,
                    commit,
                    endpoint = request.endpoint,
                    reason,
                    "the hub gave no usable answer: using the commit that is in the cache, which may be an old one"
                );
                Ok(HubSnapshot { folder: cache.snapshot(&commit), commit })
            }
            (Failure::NoAnswer(reason), None) => {
                let lacks = cached.lacks(&self.revision);
                Err(HubError::Unreachable { reason, cache: cache.root.clone(), lacks, request })
            }
            (Failure::NoSuchRevision, cached) => {
                let what = format!("revision {} of the model {}", request.revision, request.id);
                Err(HubError::NotFound { what, request, cached })
            }
            (Failure::Refused(status), cached) => {
                Err(error::refused(status, cached, self.settings.token.is_some(), request))
            }
            (Failure::Unusable(error), _) => Err(error),
        }
    }

    fn cached(&self, cache: &ModelCache) -> Result<Cached, HubError> {
        let commit = if is_commit(&self.revision) {
            Some(self.revision.clone()).filter(|commit| cache.snapshot(commit).is_dir())
        } else {
            cache.commit_of(&self.revision)?
        };
        let missing = commit.as_deref().map_or(Ok(Vec::new()), |commit| cache.missing(commit))?;
        Ok(Cached { commit, missing })
    }

    fn request(&self) -> Box<HubRequest> {
        Box::new(HubRequest {
            id: self.id.clone(),
            revision: self.revision.clone(),
            endpoint: self.settings.shown_endpoint(),
        })
    }
}

/// Whether a revision is a full commit hash, which names the same files for ever.
fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a `/`-separated name stays inside the folder that it is joined to.
fn stays_inside(name: &str) -> bool {
    !name.is_empty() && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_their_folder_are_recognised() {
        for name in ["main", "refs/pr/1", "v1.0"] {
            assert!(stays_inside(name), "{name}");
        }
        for name in ["", "/etc", "..", "a/../../b", "."] {
            assert!(!stays_inside(name), "{name}");
        }
    }

    #[test]
    fn only_full_hashes_are_commits() {
        assert!(is_commit("0123456789abcdef0123456789abcdef01234567"));
        for name in ["main", "0123456", "0123456789ABCDEF0123456789abcdef01234567", ""] {
            assert!(!is_commit(name), "{name}");
        }
    }
}
