//! What all plants share: the tiny model's two policies, an adapter for it, its tokenizer.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use plumbline_core::{ComputeDevice, TokenId};
use plumbline_model::{CandleReference, LoadOptions, ModelSource, Tokenizer};

use crate::engine::{Adapter, Checkpoint, Network};
use crate::plants::{Format, Posted, Scene, rollouts};
use crate::rng::Rng;

/// The version that the reference holds, and that rollouts are posted as.
pub(crate) const CURRENT: &str = "policy-2";
/// The version before it.
pub(crate) const PREVIOUS: &str = "policy-1";

/// The models and the tokenizer.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) tokenizer: Tokenizer,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) current: Arc<Network>,
    pub(crate) previous: Arc<Network>,
    /// The current policy with the adapter merged.
    pub(crate) adapted: Arc<Network>,
    pub(crate) eos: TokenId,
    config: serde_json::Value,
    adapter_folder: TemporaryFolder,
    /// A healthy bf16 engine's rollouts of scenes, which many plants write over.
    healthy: Mutex<Vec<(Scene, Vec<Posted>)>>,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A file of the recordings of a real engine.
pub(crate) fn recording(name: &str) -> PathBuf {
    let shipped = repository().join("crates/plumbline/assets/recordings").join(name);
    if shipped.exists() { shipped } else { repository().join("tests/fixtures/recordings").join(name) }
}

fn folder_of(version: &str) -> PathBuf {
    let root = if version == CURRENT { "crates/plumbline/assets/tiny" } else { "tests/fixtures/tiny" };
    repository().join(root).join(version)
}

impl World {
    pub(crate) fn load() -> Self {
        let folder = folder_of(CURRENT);
        let config: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
        let checkpoint = Checkpoint::load(&folder.join("model.safetensors"));
        let previous = Checkpoint::load(&folder_of(PREVIOUS).join("model.safetensors"));
        let modules = ["q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
        let adapter = Adapter::random(&checkpoint, &modules, 0.15, &mut Rng::new(7));
        let adapter_folder = TemporaryFolder::new("adapter");
        adapter.save(&adapter_folder.0);
        Self {
            tokenizer: Tokenizer::from_folder(&folder).unwrap().unwrap(),
            current: Arc::new(Network::new(&checkpoint, &config)),
            previous: Arc::new(Network::new(&previous, &config)),
            adapted: Arc::new(Network::new(&checkpoint.merged(&adapter), &config)),
            eos: config["eos_token_id"].as_u64().unwrap() as TokenId,
            checkpoint,
            config,
            adapter_folder,
            healthy: Mutex::default(),
        }
    }

    /// A network of altered weights.
    pub(crate) fn network(&self, checkpoint: &Checkpoint) -> Arc<Network> {
        Arc::new(Network::new(checkpoint, &self.config))
    }

    /// What a healthy bf16 engine's worker posts of a scene.
    pub(crate) fn healthy(&self, scene: &Scene) -> Vec<Posted> {
        let find = |known: &[(Scene, Vec<Posted>)]| known.iter().find(|(known, _)| known == scene).cloned();
        if let Some((_, posted)) = find(&self.healthy.lock().unwrap()) {
            return posted;
        }
        let posted = rollouts(&Format::Bf16.engine(self), scene);
        self.healthy.lock().unwrap().push((scene.clone(), posted.clone()));
        posted
    }

    /// The reference for a version, with the adapter or without.
    pub(crate) fn reference(&self, version: &str, adapted: bool) -> CandleReference {
        let options = LoadOptions {
            policy_version: version.into(),
            adapter: adapted.then(|| self.adapter_folder.0.clone()),
            device: ComputeDevice::Cpu,
            ..LoadOptions::default()
        };
        ModelSource::Directory(folder_of(version)).load(&options).unwrap()
    }
}

/// A folder that is removed with its owner.
#[derive(Debug)]
struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    fn new(name: &str) -> Self {
        static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("plumbline-faults-{}-{name}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // Nothing depends on it, and a destructor has nobody to tell.
        drop(std::fs::remove_dir_all(&self.0));
    }
}
