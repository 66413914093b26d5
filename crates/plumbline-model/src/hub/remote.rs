//! What the hub answers, in the terms that matter here.

use std::path::Path;

use hf_hub::api::RepoInfo;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, Metadata};
use hf_hub::{Cache, Repo, RepoType};

use super::error::HubError;
use super::watch::watched;
use super::{DEFAULT_REVISION, HubModel, HubSettings};

/// Why the hub's files could not be had.
#[derive(Debug)]
pub(super) enum Failure {
    /// No answer, or none that can be used: the network, a proxy or the hub is at fault, and that may pass.
    NoAnswer(String),
    /// The hub's answer is no, with this HTTP status.
    Refused(u16),
    /// The model is there, the revision is not.
    NoSuchRevision,
    /// The answer shows that the model cannot be used, or the cache cannot.
    Unusable(HubError),
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self::Unusable(error)
    }
}

/// One model on the hub.
pub(super) struct Remote<'a> {
    pub(super) id: &'a str,
    settings: &'a HubSettings,
    api: Api,
}

/// What came of one attempt to download a file.
pub(super) enum Attempt {
    Done,
    /// Another process downloads the same file.
    Locked,
    /// What an earlier attempt left behind does not fit the file.
    BadRemains,
    Failed(Failure),
}

impl<'a> Remote<'a> {
    pub(super) fn new(model: &'a HubModel, cache: &Path) -> Result<Self, Failure> {
        let settings = &model.settings;
        let api = ApiBuilder::from_cache(Cache::new(cache.to_owned()))
            .with_endpoint(settings.endpoint.clone())
            .with_token(settings.token.as_ref().map(|token| token.secret().to_owned()))
            .with_progress(false)
            .with_user_agent("plumbline", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|error| failure(error, cache))?;
        Ok(Self { id: &model.id, settings, api })
    }

    /// The commit that a revision stands for, and its files.
    pub(super) fn describe(&self, revision: &str) -> Result<RepoInfo, Failure> {
        match self.info(revision) {
            // Says which of the two is not there.
            Err(Failure::Refused(404)) if revision != DEFAULT_REVISION && self.info(DEFAULT_REVISION).is_ok() => {
                Err(Failure::NoSuchRevision)
            }
            answer => answer,
        }
    }

    fn info(&self, revision: &str) -> Result<RepoInfo, Failure> {
        let repository = self.api.repo(self.at(revision));
        self.answer(move || repository.info())
    }

    /// Commit, etag and size of a file.
    pub(super) fn metadata(&self, commit: &str, file: &str) -> Result<Metadata, Failure> {
        let (api, url) = (self.api.clone(), self.api.repo(self.at(commit)).url(file));
        self.answer(move || api.metadata(&url))
    }

    /// Downloads a file into the cache; goes on where an earlier attempt ended.
    pub(super) fn download(&self, commit: &str, file: &str, size: u64) -> Attempt {
        let repository = self.api.repo(self.at(commit));
        let report = |bytes| tracing::info!(model = self.id, file, bytes, of = size, "downloading");
        let name = file.to_owned();
        let work = move |meter| repository.download_with_progress(&name, meter);
        match watched(self.settings.stall, report, work) {
            Ok(Ok(_)) => Attempt::Done,
            Ok(Err(ApiError::LockAcquisition(_))) => Attempt::Locked,
            Ok(Err(ApiError::InvalidResume)) => Attempt::BadRemains,
            Ok(Err(error)) => match failure(error, &self.settings.cache) {
                // Nothing is left to ask for: the remains are as long as the file.
                Failure::Refused(416) => Attempt::BadRemains,
                failure => Attempt::Failed(failure),
            },
            Err(reason) => Attempt::Failed(Failure::NoAnswer(format!("{file}: {reason}"))),
        }
    }

    /// How long a download may stand still.
    pub(super) fn stall(&self) -> std::time::Duration {
        self.settings.stall
    }

    fn answer<T: Send + 'static>(
        &self,
        ask: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, Failure> {
        match watched(self.settings.answer_within, |_| {}, move |_| ask()) {
            Ok(answer) => answer.map_err(|error| failure(error, &self.settings.cache)),
            Err(reason) => Err(Failure::NoAnswer(reason)),
        }
    }

    fn at(&self, revision: &str) -> Repo {
        Repo::with_revision(self.id.to_owned(), RepoType::Model, revision.to_owned())
    }
}

fn failure(error: ApiError, cache: &Path) -> Failure {
    use std::io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    match error {
        ApiError::RequestError(request) => match *request {
            // Too slow, too early, too often: not a no for ever.
            ureq::Error::StatusCode(status) if (400..500).contains(&status) && ![408, 425, 429].contains(&status) => {
                Failure::Refused(status)
            }
            other => Failure::NoAnswer(other.to_string()),
        },
        ApiError::IoError(source)
            if [PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull].contains(&source.kind()) =>
        {
            Failure::Unusable(HubError::Cache { path: cache.to_owned(), source })
        }
        other => Failure::NoAnswer(other.to_string()),
    }
}
