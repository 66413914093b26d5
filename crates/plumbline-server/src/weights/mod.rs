//! Weights that follow the policy: checkpoints on disk become versions of the resident reference.

mod availability;
mod confine;
mod version;
mod watch;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plumbline_core::{ReferenceInfo, ReferenceModel, TokenText};
use plumbline_divergence::ModelFacts;
use plumbline_scheduler::{Load, Observer, Scheduler, SchedulerConfig, UpdateError};

pub(crate) use self::availability::{Availability, Wanted, available};
pub(crate) use self::confine::{ConfineError, Confined};
pub(crate) use self::version::directory_version;
pub(crate) use self::watch::{WatchConfig, watch};

use crate::metrics::ServiceMetrics;

/// Loads a checkpoint folder as a version of the resident model.
pub(crate) type LoadVersion = Arc<dyn Fn(&Path, &str) -> Result<Box<dyn ReferenceModel>, String> + Send + Sync>;

/// Loads the first reference.
pub(crate) type LoadInitial = Box<dyn FnOnce() -> Result<Box<dyn ReferenceModel>, String> + Send>;

/// What is known of the resident model beside its identity.
#[derive(Clone, Debug, Default)]
pub struct ModelKnowledge {
    /// What diagnoses can make use of. Its ids of EOS and its `vocab_size` are those of the reference.
    pub facts: ModelFacts,
    /// The text of its tokens; `None` without tokenizer files: text is then absent everywhere.
    pub text: Option<Arc<dyn TokenText>>,
}

/// Finds out what is known of the resident model.
pub(crate) type ResidentFacts = Arc<dyn Fn() -> ModelKnowledge + Send + Sync>;

/// Where references come from: the first one, and new versions of its weights. For each device that holds a copy.
pub struct ReferenceSource {
    /// One for each copy.
    pub(crate) initial: Vec<LoadInitial>,
    /// The same, to be run again after a failure of the model; `None` if one cannot be.
    pub(crate) again: Option<Vec<Load>>,
    /// One for each copy; `None` if the weights of one never change.
    pub(crate) versions: Option<Vec<LoadVersion>>,
    pub(crate) facts: Option<ResidentFacts>,
}

impl ReferenceSource {
    /// A reference whose weights never change. `initial` runs on the model's thread.
    pub fn new<E: std::fmt::Display>(
        initial: impl FnOnce() -> Result<Box<dyn ReferenceModel>, E> + Send + 'static,
    ) -> Self {
        let initial: LoadInitial = Box::new(|| initial().map_err(|error| format!("{error:#}")));
        Self { initial: vec![initial], again: None, versions: None, facts: None }
    }

    /// The same of a reference that can be loaded again, which it is when the model fails for good.
    pub fn restartable<E: std::fmt::Display>(
        load: impl Fn() -> Result<Box<dyn ReferenceModel>, E> + Send + Sync + 'static,
    ) -> Self {
        let load: Load = Arc::new(move || load().map_err(|error| format!("{error:#}")));
        let first = Arc::clone(&load);
        Self { initial: vec![Box::new(move || first())], again: Some(vec![load]), versions: None, facts: None }
    }

    /// `knowledge` says what is known beside what the reference says of itself. Called once, when that is resident.
    #[must_use]
    pub fn with_knowledge(self, knowledge: impl Fn() -> ModelKnowledge + Send + Sync + 'static) -> Self {
        Self { facts: Some(Arc::new(knowledge)), ..self }
    }

    /// `load` makes a version of the model from a checkpoint folder and the version's name. It runs on a thread of its own.
    #[must_use]
    pub fn with_versions<E: std::fmt::Display>(
        self,
        load: impl Fn(&Path, &str) -> Result<Box<dyn ReferenceModel>, E> + Send + Sync + 'static,
    ) -> Self {
        let load: LoadVersion =
            Arc::new(move |directory, version| load(directory, version).map_err(|error| format!("{error:#}")));
        Self { versions: Some(vec![load; self.initial.len()]), ..self }
    }

    /// The same with every model that is loaded put into something, for instance to inject faults.
    #[must_use]
    pub fn wrapped(
        self,
        wrap: impl Fn(Box<dyn ReferenceModel>) -> Box<dyn ReferenceModel> + Send + Sync + Clone + 'static,
    ) -> Self {
        let initial = self.initial.into_iter().map(|load| {
            let wrap = wrap.clone();
            Box::new(move || load().map(wrap)) as LoadInitial
        });
        let again = |load: Load| {
            let wrap = wrap.clone();
            Arc::new(move || load().map(&wrap)) as Load
        };
        let version = |load: LoadVersion| {
            let wrap = wrap.clone();
            Arc::new(move |path: &Path, version: &str| load(path, version).map(&wrap)) as LoadVersion
        };
        Self {
            initial: initial.collect(),
            again: self.again.map(|loads| loads.into_iter().map(again).collect()),
            versions: self.versions.map(|loads| loads.into_iter().map(version).collect()),
            facts: self.facts,
        }
    }

    /// The copies of all `sources`, which must be of one model: each has a thread of its own, and they share the work.
    #[must_use]
    pub fn together(sources: impl IntoIterator<Item = Self>) -> Self {
        let (mut initial, mut again, mut versions, mut facts) = (Vec::new(), Some(Vec::new()), Some(Vec::new()), None);
        for source in sources {
            initial.extend(source.initial);
            again = again.zip(source.again).map(|(mut all, own): (Vec<_>, _)| {
                all.extend(own);
                all
            });
            versions = versions.zip(source.versions).map(|(mut all, own)| {
                all.extend(own);
                all
            });
            // They are of one model.
            facts = facts.or(source.facts);
        }
        Self { initial, again, versions, facts }
    }
}

impl ReferenceSource {
    /// Starts a scheduler that loads the reference, for a command that scores without serving. Versions are left out.
    ///
    /// # Errors
    /// A limit of `config` is out of its range, or a thread could not be spawned.
    pub fn start(self, config: SchedulerConfig, observer: Arc<dyn Observer>) -> io::Result<StartedReference> {
        let facts = self.facts.clone();
        Ok(StartedReference { scheduler: self.scheduler(config, observer)?, facts })
    }

    /// Starts a scheduler that loads the reference.
    pub(crate) fn scheduler(self, config: SchedulerConfig, observer: Arc<dyn Observer>) -> io::Result<Scheduler> {
        match self.again {
            Some(loads) => Scheduler::start_restartable(config, observer, loads),
            None => Scheduler::start_copies(config, observer, self.initial),
        }
    }
}

/// A reference that scores without being served.
pub struct StartedReference {
    /// Where it is loaded and scores.
    pub scheduler: Scheduler,
    facts: Option<ResidentFacts>,
}

impl StartedReference {
    /// What is known of it beside its identity, once it is resident.
    #[must_use]
    pub fn knowledge(&self, info: &ReferenceInfo) -> ModelKnowledge {
        knowledge_of(info, self.facts.as_ref())
    }
}

impl std::fmt::Debug for StartedReference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StartedReference").field("scheduler", &self.scheduler).finish_non_exhaustive()
    }
}

/// What is known of a resident reference.
pub(crate) fn knowledge_of(info: &ReferenceInfo, facts: Option<&ResidentFacts>) -> ModelKnowledge {
    let ModelKnowledge { facts, text } = facts.map(|facts| facts()).unwrap_or_default();
    let facts = ModelFacts { eos_token_ids: info.eos_token_ids.clone(), vocab_size: info.limits.vocab_size, ..facts };
    ModelKnowledge { facts, text }
}

impl std::fmt::Debug for ReferenceSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReferenceSource")
            .field("copies", &self.initial.len())
            .field("follows", &self.versions.is_some())
            .finish_non_exhaustive()
    }
}

/// Why a checkpoint did not become the current version.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WeightsError {
    /// The path may not be read.
    #[error(transparent)]
    Path(#[from] ConfineError),
    /// Looking at the path ended unexpectedly: a defect.
    #[error("the checkpoint could not be looked at: {0}")]
    Look(#[from] tokio::task::JoinError),
    /// This server's reference has no way to load versions.
    #[error("this server's reference cannot change its weights")]
    Fixed,
    /// The scheduler refused or the load failed.
    #[error(transparent)]
    Update(#[from] UpdateError),
}

/// Replaces the weights of the resident reference.
#[derive(Clone)]
pub(crate) struct Weights {
    scheduler: Scheduler,
    metrics: ServiceMetrics,
    confined: Arc<Confined>,
    /// For each copy of the model.
    loads: Option<Vec<LoadVersion>>,
}

impl Weights {
    pub(crate) fn new(
        scheduler: Scheduler,
        metrics: ServiceMetrics,
        roots: &[PathBuf],
        loads: Option<Vec<LoadVersion>>,
    ) -> Self {
        Self { scheduler, metrics, confined: Arc::new(Confined::new(roots)), loads }
    }

    /// Whether new versions can come at all.
    pub(crate) fn can_follow(&self) -> bool {
        self.loads.is_some() && !self.confined.is_empty()
    }

    /// Loads the checkpoint at `path` as `version`, which becomes the current one. A broken checkpoint leaves everything as
    /// it was; each failure is logged and counted.
    pub(crate) async fn update(&self, path: &Path, version: &str) -> Result<Arc<ReferenceInfo>, WeightsError> {
        let began = std::time::Instant::now();
        let result = self.try_update(path, version).await;
        match &result {
            Ok(_) => {
                self.metrics.weights_loaded(began.elapsed());
                tracing::info!(path = %path.display(), version, "the weights were updated");
            }
            Err(error) => {
                self.metrics.weights_refused();
                tracing::error!(path = %path.display(), version, %error, "the weights were not updated");
            }
        }
        result
    }

    async fn try_update(&self, path: &Path, version: &str) -> Result<Arc<ReferenceInfo>, WeightsError> {
        let loads = self.loads.clone().ok_or(WeightsError::Fixed)?;
        let (confined, path) = (Arc::clone(&self.confined), path.to_owned());
        // A network file system may take its time: that must not hold up requests.
        let directory = tokio::task::spawn_blocking(move || confined.directory(&path)).await??;
        let loads = loads.into_iter().map(|load| {
            let (directory, version) = (directory.clone(), version.to_owned());
            let load: Load = Arc::new(move || load(&directory, &version));
            load
        });
        Ok(self.scheduler.update_restartable(loads.collect()).await?)
    }
}

impl std::fmt::Debug for Weights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Weights").field("confined", &self.confined).finish_non_exhaustive()
    }
}
