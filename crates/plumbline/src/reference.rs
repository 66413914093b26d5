//! The reference model that a configuration asks for.

use std::path::PathBuf;

use anyhow::Context;
use plumbline_core::ReferenceModel;
use plumbline_model::{LoadError, LoadOptions, ModelSource};

use crate::embedded;

/// Version of a model that nobody gave one.
const UNVERSIONED: &str = "0";

/// What loads the model of a folder, or the embedded one; run on the model thread.
pub(crate) fn loader(
    model: Option<PathBuf>,
    policy_version: Option<String>,
) -> impl FnOnce() -> Result<Box<dyn ReferenceModel>, LoadError> + Send + 'static {
    let (source, default_version) = match model {
        Some(directory) => (ModelSource::Directory(directory), UNVERSIONED),
        None => (ModelSource::Embedded(embedded::MODEL), embedded::POLICY_VERSION),
    };
    let policy_version = policy_version.unwrap_or_else(|| default_version.into());
    move || Ok(Box::new(source.load(&LoadOptions { policy_version })?))
}

/// Sizes the thread pool of the model's computations; 0 = all cores.
pub(crate) fn use_threads(threads: usize) -> anyhow::Result<()> {
    let pool =
        rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|index| format!("plumbline-cpu-{index}"));
    pool.build_global().context("cannot start the computing threads")
}
