//! The reference model that a configuration asks for.

use anyhow::Context;
use plumbline_core::ReferenceModel;
use plumbline_model::{LoadError, LoadOptions, ModelSource};
use plumbline_server::Config;

use crate::embedded;

/// Version of a model that nobody gave one.
const UNVERSIONED: &str = "0";

/// What loads the configured model, or the embedded one; run on the model thread.
pub(crate) fn loader(config: &Config) -> impl FnOnce() -> Result<Box<dyn ReferenceModel>, LoadError> + Send + 'static {
    let (source, default_version) = match config.model.clone() {
        Some(path) => (ModelSource::from_path(path), UNVERSIONED),
        None => (ModelSource::Embedded(embedded::MODEL), embedded::POLICY_VERSION),
    };
    let options = LoadOptions {
        policy_version: config.policy_version.clone().unwrap_or_else(|| default_version.into()),
        adapter: config.adapter.clone(),
        dtype: config.dtype,
        head_dtype: config.head_dtype,
        device: config.device,
    };
    move || Ok(Box::new(source.load(&options)?))
}

/// Sizes the thread pool of the model's computations; 0 = all cores.
pub(crate) fn use_threads(threads: usize) -> anyhow::Result<()> {
    let pool =
        rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|index| format!("plumbline-cpu-{index}"));
    pool.build_global().context("cannot start the computing threads")
}
