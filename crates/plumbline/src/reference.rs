//! The reference model that a configuration asks for, and new versions of its weights.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::anyhow;
use plumbline_core::{ComputeDevice, ReferenceModel};
use plumbline_model::{LoadError, LoadOptions, ModelSource};
use plumbline_server::config::SelfCheck;
use plumbline_server::{Config, ReferenceSource};

use crate::{embedded, facts, selfcheck};

/// Version of a model that nobody gave one.
const UNVERSIONED: &str = "0";

/// A folder with this file is an adapter for the model that was started with, not a model.
const ADAPTER_CONFIG: &str = "adapter_config.json";

/// What loads the configured model, or the embedded one, and later checkpoints of it, onto each of the configured devices.
pub(crate) fn source(config: &Config) -> ReferenceSource {
    source_and_base(config).0
}

/// The same, and the model that it will have found once the reference is loaded.
pub(crate) fn source_and_base(config: &Config) -> (ReferenceSource, Arc<Base>) {
    let base = Arc::new(Base::new(config.model.clone(), config.revision.clone()));
    let source =
        ReferenceSource::together(config.device.as_slice().iter().map(|device| source_on(*device, config, &base)));
    let own = Arc::clone(&base);
    let source = source.with_knowledge(move || own.found().map(|model| facts::knowledge(&model)).unwrap_or_default());
    (source, base)
}

/// The part of one device.
fn source_on(device: ComputeDevice, config: &Config, base: &Arc<Base>) -> ReferenceSource {
    let default_version = if config.model.is_some() { UNVERSIONED } else { embedded::POLICY_VERSION };
    let options = LoadOptions {
        policy_version: config.policy_version.clone().unwrap_or_else(|| default_version.into()),
        adapter: config.adapter.clone(),
        dtype: config.dtype,
        head_dtype: config.head_dtype,
        device,
        kernels: config.kernels,
        head_chunk_bytes: config.head_chunk_bytes,
        mlp_chunk_bytes: config.mlp_chunk_bytes,
        ..LoadOptions::default()
    };
    let check = config.selfcheck;
    let (first_base, first_options) = (Arc::clone(base), options.clone());
    let initial = move || {
        let model = first_base.find()?;
        let mut reference = model.load(&first_options)?;
        match check {
            SelfCheck::Off => {}
            SelfCheck::Quick => selfcheck::at_load(&model, &mut reference, &first_options)?,
        }
        Ok::<Box<dyn ReferenceModel>, LoadError>(Box::new(reference))
    };
    let base = Arc::clone(base);
    ReferenceSource::restartable(initial).with_versions(move |checkpoint, version| match base.found() {
        Some(base) => load_version(checkpoint, version, &base, &options).map_err(anyhow::Error::from),
        None => Err(anyhow!("the model has not been found yet")),
    })
}

/// The model that a command was started with. It is found once, so that all devices hold the same.
#[derive(Debug)]
pub(crate) struct Base {
    model: Option<PathBuf>,
    revision: Option<String>,
    found: Mutex<Option<ModelSource>>,
}

impl Base {
    fn new(model: Option<PathBuf>, revision: Option<String>) -> Self {
        Self { model, revision, found: Mutex::default() }
    }

    /// Downloads a model of the hub if the cache lacks it; the other devices wait for that.
    fn find(&self) -> Result<ModelSource, LoadError> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(model) = &*found {
            return Ok(model.clone());
        }
        let model = match &self.model {
            Some(model) => ModelSource::named(model, self.revision.as_deref())?.pinned()?,
            None => ModelSource::Embedded(embedded::MODEL),
        };
        Ok(found.insert(model).clone())
    }

    /// `None` until the reference is loaded.
    pub(crate) fn found(&self) -> Option<ModelSource> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
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
