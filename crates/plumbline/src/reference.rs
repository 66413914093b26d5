//! The reference model that a configuration asks for, and new versions of its weights.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use anyhow::anyhow;
use plumbline_core::ReferenceModel;
use plumbline_model::{LoadError, LoadOptions, ModelSource};
use plumbline_server::config::SelfCheck;
use plumbline_server::{Config, ReferenceSource};

use crate::{embedded, selfcheck};

/// Version of a model that nobody gave one.
const UNVERSIONED: &str = "0";

/// A folder with this file is an adapter for the model that was started with, not a model.
const ADAPTER_CONFIG: &str = "adapter_config.json";

/// What loads the configured model, or the embedded one, and later checkpoints of it.
pub(crate) fn source(config: &Config) -> ReferenceSource {
    let (model, revision) = (config.model.clone(), config.revision.clone());
    let default_version = if model.is_some() { UNVERSIONED } else { embedded::POLICY_VERSION };
    let options = LoadOptions {
        policy_version: config.policy_version.clone().unwrap_or_else(|| default_version.into()),
        adapter: config.adapter.clone(),
        dtype: config.dtype,
        head_dtype: config.head_dtype,
        device: config.device,
        kernels: config.kernels,
        head_chunk_bytes: config.head_chunk_bytes,
        mlp_chunk_bytes: config.mlp_chunk_bytes,
        ..LoadOptions::default()
    };
    let check = config.selfcheck;
    let started = Arc::new(OnceLock::new());
    let (base, like) = (Arc::clone(&started), options.clone());
    let initial = move || {
        let model = match model {
            Some(model) => ModelSource::named(&model, revision.as_deref())?.pinned()?,
            None => ModelSource::Embedded(embedded::MODEL),
        };
        let model = started.get_or_init(|| model);
        let mut reference = model.load(&options)?;
        match check {
            SelfCheck::Off => {}
            SelfCheck::Quick => selfcheck::at_load(model, &mut reference, &options)?,
        }
        Ok::<Box<dyn ReferenceModel>, LoadError>(Box::new(reference))
    };
    ReferenceSource::new(initial).with_versions(move |checkpoint, version| match base.get() {
        Some(base) => load_version(checkpoint, version, base, &like).map_err(anyhow::Error::from),
        None => Err(anyhow!("the model has not been found yet")),
    })
}

/// A checkpoint folder holds the whole model, or an adapter for the model that the server was started with.
fn load_version(
    checkpoint: &Path,
    policy_version: &str,
    base: &ModelSource,
    like: &LoadOptions,
) -> Result<Box<dyn ReferenceModel>, LoadError> {
    let options =
        LoadOptions { name: Some(base.name()), policy_version: policy_version.into(), adapter: None, ..like.clone() };
    if checkpoint.join(ADAPTER_CONFIG).is_file() {
        load(base, &LoadOptions { adapter: Some(checkpoint.into()), ..options })
    } else {
        load(&ModelSource::Directory(checkpoint.into()), &options)
    }
}

fn load(model: &ModelSource, options: &LoadOptions) -> Result<Box<dyn ReferenceModel>, LoadError> {
    Ok(Box::new(model.load(options)?))
}
