//! The one validated configuration of the service.
//!
//! Layers, later ones win: defaults, the TOML file, `PLUMBLINE_*` variables, command-line flags.
//! `config/plumbline.toml` lists every key with its default, its unit and an explanation; a test keeps the two equal.

mod check;
mod error;
mod layers;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use plumbline_core::{ComputeDevices, FloatType, Kernels, ModelLimits};
use plumbline_divergence::{DriftConfig, MonitorConfig, VerdictLevels};
use plumbline_probe::PieceLimits;
use plumbline_scheduler::{Class, SchedulerConfig};
use serde::{Deserialize, Serialize};

pub use self::error::{ConfigError, KeyProblem};
pub use self::layers::DEFAULT_CONFIG_FILE;

/// Pieces of work beside scoring that may wait. The floor's measurement and the diagnoses each have one at a time.
const MAX_ASIDE_JOBS: usize = 16;

/// Every key of the service. Keys are flat; the unit is in the name where there is one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Address and port to listen on; port 0 picks a free one. Anything but loopback needs API keys or `no_auth`.
    pub listen: SocketAddr,
    /// The reference model: a folder (`config.json`, safetensors), a GGUF file or a Hugging Face hub id; `None` (an empty
    /// string) = the embedded model.
    #[serde(with = "empty_is_none")]
    pub model: Option<PathBuf>,
    /// Branch, tag or commit of a model of the hub; `None` (an empty string) = `main`.
    #[serde(with = "empty_is_none")]
    pub revision: Option<String>,
    /// PEFT folder of a LoRA adapter that is merged into the model; `None` (an empty string) = none.
    #[serde(with = "empty_is_none")]
    pub adapter: Option<PathBuf>,
    /// Version of the reference's weights, an opaque string; `None` (an empty string) = what the model is known as.
    #[serde(with = "empty_is_none")]
    pub policy_version: Option<String>,
    /// Where the reference runs: one device, or several CUDA devices that each hold a copy.
    pub device: ComputeDevices,
    /// dtype of the decoder body.
    pub dtype: FloatType,
    /// dtype in which the lm_head multiplies.
    pub head_dtype: FloatType,
    /// Cross-check of the model at load.
    pub selfcheck: SelfCheck,
    /// Threads of the model's computations; 0 = all cores.
    pub threads: usize,
    /// Which implementation of the model's operations runs.
    pub kernels: Kernels,
    /// Bytes of logits that are held at a time.
    pub head_chunk_bytes: usize,
    /// Bytes between the two projections of an MLP that are held at a time.
    pub mlp_chunk_bytes: usize,

    /// Folders that checkpoints may be loaded from while serving; empty = the weights never change.
    pub weights_root: Vec<PathBuf>,
    /// Folder whose finished subfolders are loaded as they appear; `None` (an empty string) = none. Also a root.
    #[serde(with = "empty_is_none")]
    pub weights_watch: Option<PathBuf>,
    /// Name of the file that says that a watched checkpoint is finished.
    pub weights_marker: String,
    /// Seconds between two looks at the watched folder.
    pub weights_poll_seconds: u64,
    /// Versions of the weights that rollouts can be scored with, the current one included.
    pub keep_versions: usize,
    /// Bytes of all weights in memory, one version that is being loaded included; 0 = no limit.
    pub max_weight_bytes: u64,
    /// Seconds that a rollout waits for a version of the weights that is not there yet.
    pub version_wait_seconds: u64,

    /// Tokens that may wait; beyond them requests get 429.
    pub max_queue_tokens: usize,
    /// How urgent a synchronous request is whose header does not say.
    pub sync_priority: Priority,
    /// How many times as long as alone an interactive request may take, by estimate; else it gets 429.
    pub interactive_stretch: f64,
    /// Seconds that a sequence which made the reference panic is refused; 0 = it is tried each time.
    pub quarantine_seconds: u64,
    /// Batches that panicked after which the reference loads its weights again; 0 = only when it fails everything.
    pub restart_after_panics: u32,
    /// Tokens of one forward over several sequences; a longer sequence is scored alone.
    pub max_batch_tokens: usize,
    /// Sequences of one forward.
    pub max_batch_sequences: usize,
    /// Tokens of one sequence, prompt and completion; 0 = as many as the model has positions.
    pub max_sequence_tokens: usize,
    /// Bytes of one request body.
    pub max_body_bytes: usize,
    /// Sequences of one request.
    pub max_sequences_per_request: usize,
    /// Bytes of all request bodies and answers that are held at a time; beyond them requests get 429.
    pub max_bodies_bytes: usize,
    /// Bytes of a compressed body for each byte that was sent; beyond 1 MiB a body that decodes to more is refused.
    pub max_compression_ratio: usize,
    /// Connections at a time; at the limit, those that have waited longest without a request make room.
    pub max_connections: usize,
    /// Streams of live updates at a time; further ones get 429. 0 = there are none.
    pub max_event_streams: usize,
    /// Bytes of a request's head.
    pub max_header_bytes: usize,
    /// Fields of a request's head.
    pub max_headers: usize,
    /// Seconds in which a request's head must have arrived, and that a connection may wait for the next one.
    pub header_timeout_seconds: u64,
    /// Seconds in which a request's body must have arrived.
    pub body_timeout_seconds: u64,
    /// Seconds that a client may take nothing of an answer.
    pub write_stall_seconds: u64,

    /// Folder of everything that outlives the process; `None` (an empty string) = nothing does.
    #[serde(with = "empty_is_none")]
    pub data_dir: Option<PathBuf>,
    /// Bytes of the store's file; retention removes the oldest before it grows larger. 0 = no limit.
    pub store_max_bytes: u64,
    /// Days after which retention removes what is stored; 0 = never.
    pub store_max_days: u64,
    /// Accepted verifications that may wait; beyond them requests get 429.
    pub max_jobs: u64,
    /// Lines of one NDJSON body.
    pub max_lines_per_request: usize,

    /// Length in seconds of the sliding window behind the divergence gauges.
    pub window_seconds: u64,
    /// Slices of the window; it moves by one slice at a time.
    pub window_slices: usize,
    /// Pairs of run and engine with series of their own; further ones share `other`.
    pub max_label_sets: usize,
    /// Seconds without a token after which a pair's series are removed.
    pub label_idle_seconds: u64,

    /// Compared tokens below which the verdict is `insufficient`.
    pub verdict_min_tokens: u64,
    /// Multiple of the noise floor above which the verdict is `suspect`.
    pub verdict_floor_suspect: f64,
    /// Multiple of the noise floor above which the verdict is `divergent`.
    pub verdict_floor_divergent: f64,
    /// Standard errors by which a multiple has to be above 1 to count.
    pub verdict_significance: f64,
    /// Mean |d| in nats up to which a multiple does not count.
    pub verdict_negligible_mae_nats: f64,
    /// Mean |d| in nats above which the verdict is `suspect` where no noise floor is known.
    pub verdict_mae_suspect_nats: f64,
    /// Mean |d| in nats above which the verdict is `divergent` where no noise floor is known.
    pub verdict_mae_divergent_nats: f64,
    /// Mean k3 in nats above which the verdict is `suspect` where no noise floor is known.
    pub verdict_kl_k3_suspect_nats: f64,
    /// Mean k3 in nats above which the verdict is `divergent`; with a noise floor, only where the multiple is significant.
    pub verdict_kl_k3_divergent_nats: f64,

    /// Least mean number of sequences between two false alarms of a drift detector.
    pub drift_mean_run_length: f64,
    /// Factor by which a level may change without being drift.
    pub drift_tolerance: f64,
    /// Sequences from which a detector learns the level of a run and engine.
    pub drift_baseline_sequences: u64,

    /// Where people reach this service, for links in alerts; `None` (an empty string) = no links.
    #[serde(with = "empty_is_none")]
    pub external_url: Option<String>,
    /// Alertmanagers that are told, `URL` or `NAME=URL`.
    pub alertmanager_url: Vec<String>,
    /// Webhooks that are told, `URL` or `NAME=URL`.
    pub alert_webhook_url: Vec<String>,
    /// Labels of every alert, `NAME=VALUE`.
    pub alert_label: Vec<String>,
    /// File with the receivers' secrets, one a line; `None` (an empty string) = none.
    #[serde(with = "empty_is_none")]
    pub alert_secret_file: Option<PathBuf>,
    /// Name of an environment variable with such lines; `None` (an empty string) = none.
    #[serde(with = "empty_is_none")]
    pub alert_secret_env: Option<String>,
    /// File in PEM with certificate authorities that receivers may have beside the system's; `None` (an empty string) = none.
    #[serde(with = "empty_is_none")]
    pub alert_ca_file: Option<PathBuf>,
    /// Seconds between two looks at everything that is watched.
    pub alert_interval_seconds: u64,
    /// Seconds for which something must be wrong before its alert fires.
    pub alert_for_seconds: u64,
    /// Seconds for which it must be well again before its alert is over.
    pub alert_keep_seconds: u64,
    /// Compared tokens of a run and engine below which no alert about it begins.
    pub alert_min_tokens: u64,
    /// Seconds after which a webhook is told again of what still fires.
    pub alert_repeat_seconds: u64,
    /// Seconds that a receiver has for its answer.
    pub alert_timeout_seconds: u64,
    /// Notifications that may wait for a webhook.
    pub alert_queue: usize,

    /// Part of a model thread's time that noise floors and diagnoses get while something waits to be scored.
    pub aside_share: f64,
    /// Tokens of one piece of that work: what a batch may have to wait for.
    pub aside_tokens: usize,
    /// Tokens of a piece that cannot be cut, a single long sequence; longer ones are not re-scored.
    pub aside_max_tokens: usize,
    /// Tokens that the noise floor of a version is measured on; 0 = it is not measured.
    pub noise_floor_tokens: usize,
    /// Tokens a minute at most that are re-scored to diagnose suspicious sequences unasked; 0 = they are not.
    pub diagnosis_tokens_per_minute: usize,
    /// Tokens at most that are re-scored for the diagnoses of one request that includes them.
    pub diagnosis_request_tokens: usize,
    /// Seconds that such a request waits for its diagnoses at most.
    pub diagnosis_request_seconds: u64,

    /// Seconds in which everything admitted is answered after SIGTERM.
    pub drain_seconds: u64,
    /// Format of the log on stderr.
    pub log_format: LogFormat,
    /// Where spans are exported to with OTLP over HTTP, without `/v1/traces`; `None` (an empty string) = as the `OTEL_` variables say,
    /// which without any is nowhere. Needs a build with the feature `otel`.
    #[serde(with = "empty_is_none")]
    pub otlp_endpoint: Option<String>,
    /// Serve without API keys on an address that is not loopback.
    pub no_auth: bool,
    /// File with one API key a line, with its roles; `None` (an empty string) = none.
    #[serde(with = "empty_is_none")]
    pub api_key_file: Option<PathBuf>,
    /// Name of an environment variable with API keys; `None` (an empty string) = none.
    #[serde(with = "empty_is_none")]
    pub api_key_env: Option<String>,
    /// Let keys that may send rollouts also read runs, sequences and reports, other senders' included.
    pub ingest_reads: bool,
    /// Serve `/metrics` without a key.
    pub metrics_open: bool,
    /// Certificate chain in PEM to serve with TLS; `None` (an empty string) = plain HTTP.
    #[serde(with = "empty_is_none")]
    pub tls_cert_file: Option<PathBuf>,
    /// The certificate's private key in PEM.
    #[serde(with = "empty_is_none")]
    pub tls_key_file: Option<PathBuf>,
    /// Seconds between two looks at the files of keys and certificates.
    pub credentials_poll_seconds: u64,
}

/// Whether the loaded model is compared with another implementation before it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SelfCheck {
    /// Not at load.
    Off,
    /// On a few short sequences. Holds a second copy of the weights in f32 while it runs.
    Quick,
}

/// How urgent a request is: `plumbline_scheduler::Class` as a configuration has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Answered soon or refused at once.
    Interactive,
    /// Somebody waits for it, but not by the clock.
    Standard,
    /// Nobody waits for it.
    Bulk,
}

impl From<Priority> for Class {
    fn from(priority: Priority) -> Self {
        match priority {
            Priority::Interactive => Self::Interactive,
            Priority::Standard => Self::Standard,
            Priority::Bulk => Self::Bulk,
        }
    }
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        let (levels, drift) = (VerdictLevels::default(), DriftConfig::default());
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            model: None,
            revision: None,
            adapter: None,
            policy_version: None,
            device: ComputeDevices::default(),
            dtype: FloatType::F32,
            head_dtype: FloatType::F32,
            selfcheck: SelfCheck::Off,
            threads: 0,
            kernels: Kernels::Auto,
            head_chunk_bytes: 64 * 1024 * 1024,
            mlp_chunk_bytes: 64 * 1024 * 1024,
            weights_root: Vec::new(),
            weights_watch: None,
            weights_marker: "STABLE".into(),
            weights_poll_seconds: 2,
            keep_versions: 2,
            max_weight_bytes: 0,
            version_wait_seconds: 10,
            max_queue_tokens: 1_048_576,
            sync_priority: Priority::Standard,
            interactive_stretch: 2.5,
            quarantine_seconds: 600,
            restart_after_panics: 3,
            max_batch_tokens: 8192,
            max_batch_sequences: 256,
            max_sequence_tokens: 0,
            max_body_bytes: 32 * 1024 * 1024,
            max_sequences_per_request: 1024,
            data_dir: None,
            store_max_bytes: 10 << 30,
            store_max_days: 30,
            max_jobs: 100_000,
            max_lines_per_request: 10_000,
            max_bodies_bytes: 256 * 1024 * 1024,
            max_compression_ratio: 100,
            max_connections: 2048,
            max_event_streams: 64,
            max_header_bytes: 32 * 1024,
            max_headers: 100,
            header_timeout_seconds: 30,
            body_timeout_seconds: 60,
            write_stall_seconds: 30,
            window_seconds: 300,
            window_slices: 60,
            max_label_sets: 200,
            label_idle_seconds: 3600,
            verdict_min_tokens: levels.min_tokens,
            verdict_floor_suspect: levels.floor_suspect,
            verdict_floor_divergent: levels.floor_divergent,
            verdict_significance: levels.significance,
            verdict_negligible_mae_nats: levels.mae_negligible,
            verdict_mae_suspect_nats: levels.mae_suspect,
            verdict_mae_divergent_nats: levels.mae_divergent,
            verdict_kl_k3_suspect_nats: levels.kl_k3_suspect,
            verdict_kl_k3_divergent_nats: levels.kl_k3_divergent,
            drift_mean_run_length: drift.mean_run_length,
            drift_tolerance: drift.tolerance,
            drift_baseline_sequences: drift.baseline_sequences,
            external_url: None,
            alertmanager_url: Vec::new(),
            alert_webhook_url: Vec::new(),
            alert_label: Vec::new(),
            alert_secret_file: None,
            alert_secret_env: None,
            alert_ca_file: None,
            alert_interval_seconds: 15,
            alert_for_seconds: 60,
            alert_keep_seconds: 300,
            alert_min_tokens: 2000,
            alert_repeat_seconds: 4 * 3600,
            alert_timeout_seconds: 10,
            alert_queue: 1000,
            aside_share: 0.02,
            aside_tokens: 256,
            aside_max_tokens: 1024,
            noise_floor_tokens: 2048,
            diagnosis_tokens_per_minute: 20_000,
            diagnosis_request_tokens: 16_384,
            diagnosis_request_seconds: 30,
            drain_seconds: 30,
            log_format: LogFormat::Text,
            otlp_endpoint: None,
            no_auth: false,
            api_key_file: None,
            api_key_env: None,
            ingest_reads: false,
            metrics_open: false,
            tls_cert_file: None,
            tls_key_file: None,
            credentials_poll_seconds: 5,
        }
    }
}

impl Config {
    /// All keys and their values, as a file that [`Config::load`] reads.
    ///
    /// # Errors
    /// A value that TOML cannot hold, such as a path that is not UTF-8.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }

    /// The scheduler's part.
    #[must_use]
    pub fn scheduler(&self) -> SchedulerConfig {
        SchedulerConfig {
            max_queue_tokens: self.max_queue_tokens,
            max_batch_tokens: self.max_batch_tokens,
            max_batch_sequences: self.max_batch_sequences,
            keep_versions: self.keep_versions,
            max_weight_bytes: self.max_weight_bytes,
            aside_share: self.aside_share,
            max_aside_jobs: MAX_ASIDE_JOBS,
            interactive_stretch: self.interactive_stretch,
            quarantine: Duration::from_secs(self.quarantine_seconds),
            restart_after_panics: self.restart_after_panics,
        }
    }

    /// Sizes of jobs beside scoring.
    #[must_use]
    pub fn piece_limits(&self) -> PieceLimits {
        PieceLimits { tokens: self.aside_tokens, longest: self.aside_max_tokens }
    }

    /// What a sequence may be, for a model with these limits.
    #[must_use]
    pub fn sequence_limits(&self, model: &ModelLimits) -> ModelLimits {
        let max_positions = match self.max_sequence_tokens {
            0 => model.max_positions,
            configured => configured.min(model.max_positions),
        };
        ModelLimits { max_positions, ..*model }
    }

    /// Every folder that checkpoints may be loaded from.
    pub(crate) fn all_weights_roots(&self) -> Vec<PathBuf> {
        self.weights_root.iter().chain(&self.weights_watch).cloned().collect()
    }

    /// The monitor's part.
    #[must_use]
    pub fn monitor(&self) -> MonitorConfig {
        MonitorConfig {
            window: Duration::from_secs(self.window_seconds),
            slices: self.window_slices,
            max_groups: self.max_label_sets,
            idle_expiry: Duration::from_secs(self.label_idle_seconds),
            drift: self.drift(),
        }
    }

    /// The settings of drift detectors.
    #[must_use]
    pub fn drift(&self) -> DriftConfig {
        DriftConfig {
            mean_run_length: self.drift_mean_run_length,
            tolerance: self.drift_tolerance,
            baseline_sequences: self.drift_baseline_sequences,
            ..DriftConfig::default()
        }
    }

    /// The levels of verdicts.
    #[must_use]
    pub fn verdict_levels(&self) -> VerdictLevels {
        VerdictLevels {
            min_tokens: self.verdict_min_tokens,
            floor_suspect: self.verdict_floor_suspect,
            floor_divergent: self.verdict_floor_divergent,
            significance: self.verdict_significance,
            mae_negligible: self.verdict_negligible_mae_nats,
            mae_suspect: self.verdict_mae_suspect_nats,
            mae_divergent: self.verdict_mae_divergent_nats,
            kl_k3_suspect: self.verdict_kl_k3_suspect_nats,
            kl_k3_divergent: self.verdict_kl_k3_divergent_nats,
        }
    }
}

/// TOML has no null, and a key that can be listed can be explained: an empty string stands for "not set".
mod empty_is_none {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<T: Serialize, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => value.serialize(serializer),
            None => serializer.serialize_str(""),
        }
    }

    pub(super) fn deserialize<'de, T: From<String>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<T>, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(if text.is_empty() { None } else { Some(text.into()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = include_str!("../../../../config/plumbline.toml");

    #[test]
    fn the_shipped_file_lists_every_key_with_its_default() {
        assert_eq!(toml::from_str::<Config>(FILE).unwrap(), Config::default());
        let listed: toml::Table = toml::from_str(FILE).unwrap();
        let keys = toml::Table::try_from(Config::default()).unwrap();
        assert!(keys.keys().eq(listed.keys()), "{keys:?}\n{listed:?}");
    }

    #[test]
    fn the_shipped_file_explains_every_key() {
        let lines: Vec<_> = FILE.lines().collect();
        for (index, line) in lines.iter().enumerate().filter(|(_, line)| line.contains(" = ") && !line.starts_with('#'))
        {
            assert!(index > 0 && lines[index - 1].starts_with("# "), "no explanation above {line}");
        }
    }

    #[test]
    fn what_is_shown_can_be_loaded() {
        let config =
            Config { model: Some("/models/m".into()), threads: 3, log_format: LogFormat::Json, ..Config::default() };
        assert_eq!(toml::from_str::<Config>(&config.to_toml().unwrap()).unwrap(), config);
    }
}
