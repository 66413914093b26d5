//! Why a model of the hub cannot be had, and what to do.

use std::fmt;
use std::path::PathBuf;

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubRequest {
    /// The model.
    pub id: String,
    /// The branch, tag or commit.
    pub revision: String,
    /// The hub's address.
    pub endpoint: String,
}

impl fmt::Display for HubRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at revision {}", self.id, self.revision)
    }
}

impl HubRequest {
    fn download(&self) -> String {
        format!("`hf download {} --revision {}` (older: `huggingface-cli download`)", self.id, self.revision)
    }
}

/// Why a model of the Hugging Face hub could not be had.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Offline, and the cache is not complete.
    #[error(
        "the model {request} is not in the cache {}: {lacks}; the hub {} was not asked, because HF_HUB_OFFLINE (or \
         TRANSFORMERS_OFFLINE) is set: unset it, or run {} where there is a network, or pass an existing folder",
        cache.display(), request.endpoint, request.download()
    )]
    Offline {
        /// What was asked for.
        request: Box<HubRequest>,
        /// Folder of the cache.
        cache: PathBuf,
        /// What it lacks.
        lacks: String,
    },
    /// The hub gives no usable answer, and the cache is not complete.
    #[error(
        "the model {request} cannot be loaded: the hub {} gave no usable answer ({reason}), and it is not in the cache {}: \
         {lacks}; check the network and HF_ENDPOINT, or run {} where there is a network, or pass an existing folder",
        request.endpoint, cache.display(), request.download()
    )]
    Unreachable {
        /// What was asked for.
        request: Box<HubRequest>,
        /// What went wrong.
        reason: String,
        /// Folder of the cache.
        cache: PathBuf,
        /// What it lacks.
        lacks: String,
    },
    /// The hub gives no access, or has no such model and does not say so to strangers.
    #[error(
        "the hub {} refuses the model {request} (HTTP status {status}): there is no such model, or it is private or gated; \
         {}{}", request.endpoint, access(*with_token), use_cached(cached.as_deref())
    )]
    NoAccess {
        /// What was asked for.
        request: Box<HubRequest>,
        /// 401 or 403.
        status: u16,
        /// Whether a token was sent.
        with_token: bool,
        /// The commit that is complete in the cache.
        cached: Option<String>,
    },
    /// There is no such model, or no such revision of it.
    #[error(
        "the hub {} has no {what}: check its spelling, or pass an existing folder{}",
        request.endpoint, use_cached(cached.as_deref())
    )]
    NotFound {
        /// What was asked for.
        request: Box<HubRequest>,
        /// What is not there.
        what: String,
        /// The commit that is complete in the cache.
        cached: Option<String>,
    },
    /// The hub refuses for another reason.
    #[error("the hub {} refuses the model {request} with HTTP status {status}{}", request.endpoint, use_cached(cached.as_deref()))]
    Refused {
        /// What was asked for.
        request: Box<HubRequest>,
        /// The status.
        status: u16,
        /// The commit that is complete in the cache.
        cached: Option<String>,
    },
    /// The model has no weights in a format that is read.
    #[error(
        "the model {id} has no model.safetensors and no model.safetensors.index.json at commit {commit} (it has {found}): \
         convert it to safetensors and pass the folder, or download a GGUF file and pass that"
    )]
    NoSafetensors {
        /// The model.
        id: String,
        /// The commit.
        commit: String,
        /// The files of weights that it has.
        found: String,
    },
    /// The model has no configuration.
    #[error("the model {id} has no config.json at commit {commit}: it is not a model in Hugging Face format")]
    NoConfig {
        /// The model.
        id: String,
        /// The commit.
        commit: String,
    },
    /// A file of the cache cannot be read or written.
    #[error("the hub's cache cannot be used: {}: {source}", path.display())]
    Cache {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file of the cache is not what it should be.
    #[error("{} is damaged: {reason}; remove it and load again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A revision that cannot be the name of one.
    #[error("{revision:?} cannot be the name of a branch, a tag or a commit")]
    Revision {
        /// The revision.
        revision: String,
    },
    /// A variable that says nothing usable.
    #[error("the environment variable {name} {reason}")]
    Variable {
        /// Its name.
        name: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The token's file cannot be read.
    #[error("cannot read the access token in {}: {source}", path.display())]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Nothing says where the cache is.
    #[error("there is no home folder for the hub's cache: set HF_HOME")]
    NoCacheFolder,
}

/// The error that a status of the hub amounts to.
pub(super) fn refused(status: u16, cached: Option<String>, with_token: bool, request: Box<HubRequest>) -> HubError {
    match status {
        401 | 403 => HubError::NoAccess { request, status, with_token, cached },
        404 => HubError::NotFound { what: format!("model {}", request.id), request, cached },
        _ => HubError::Refused { request, status, cached },
    }
}

fn access(with_token: bool) -> &'static str {
    if with_token {
        "the access token that was sent does not open it: accept the model's terms on its page, or use another token"
    } else {
        "no access token was sent: set HF_TOKEN or run `hf auth login`"
    }
}

fn use_cached(commit: Option<&str>) -> String {
    commit.map_or_else(String::new, |commit| {
        format!("; the cache has commit {commit}: ask for that revision, or set HF_HUB_OFFLINE=1, to use it")
    })
}
