//! The reference model that a configuration asks for, and new versions of its weights.

use std::path::Path;

use anyhow::Context;
use plumbline_core::ReferenceModel;
use plumbline_model::{LoadError, LoadOptions, ModelSource};
use plumbline_server::{Config, ReferenceSource};

use crate::embedded;

/// Version of a model that nobody gave one.
const UNVERSIONED: &str = "0";

/// A folder with this file is an adapter for the model that was started with, not a model.
const ADAPTER_CONFIG: &str = "adapter_config.json";

/// What loads the configured model, or the embedded one, and later checkpoints of it.
pub(crate) fn source(config: &Config) -> ReferenceSource {
    let (model, default_version) = match config.model.clone() {
        Some(path) => (ModelSource::from_path(path), UNVERSIONED),
        None => (ModelSource::Embedded(embedded::MODEL), embedded::POLICY_VERSION),
    };
    let options = LoadOptions {
        name: Some(model.name()),
        policy_version: config.policy_version.clone().unwrap_or_else(|| default_version.into()),
        adapter: config.adapter.clone(),
        dtype: config.dtype,
        head_dtype: config.head_dtype,
        device: config.device,
    };
    let (base, like) = (model.clone(), options.clone());
    ReferenceSource::new(move || load(&model, &options))
        .with_versions(move |checkpoint, version| load_version(checkpoint, version, &base, &like))
}

/// A checkpoint folder holds the whole model, or an adapter for the model that the server was started with.
fn load_version(
    checkpoint: &Path,
    policy_version: &str,
    base: &ModelSource,
    like: &LoadOptions,
) -> Result<Box<dyn ReferenceModel>, LoadError> {
    let options = LoadOptions { policy_version: policy_version.into(), adapter: None, ..like.clone() };
    if checkpoint.join(ADAPTER_CONFIG).is_file() {
        load(base, &LoadOptions { adapter: Some(checkpoint.into()), ..options })
    } else {
        load(&ModelSource::Directory(checkpoint.into()), &options)
    }
}

fn load(model: &ModelSource, options: &LoadOptions) -> Result<Box<dyn ReferenceModel>, LoadError> {
    Ok(Box::new(model.load(options)?))
}

/// Sizes the thread pool of the model's computations; 0 = all cores.
pub(crate) fn use_threads(threads: usize) -> anyhow::Result<()> {
    let pool =
        rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|index| format!("plumbline-cpu-{index}"));
    pool.build_global().context("cannot start the computing threads")
}
