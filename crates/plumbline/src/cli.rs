//! Arguments. Every flag of `serve` has its key in the configuration file and its `PLUMBLINE_` variable.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use plumbline_core::{ComputeDevice, FloatType, Kernels};
use serde::de::IntoDeserializer;
use serde::{Deserialize, Serialize};

use crate::compare::CompareArguments;
use crate::db::DbCommand;
use crate::verify::VerifyArguments;

/// The independent ruler for engine-versus-trainer log-probabilities.
#[derive(Debug, Parser)]
#[command(
    name = "plumbline",
    version,
    about = "The independent ruler for engine-versus-trainer log-probabilities in RL post-training.",
    after_help = "Exit codes: 0 success; 1 the command failed; 2 wrong command line or configuration.\n\
                  Logs go to stderr, results to stdout.",
    propagate_version = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the service: rollout workers POST, Prometheus scrapes.
    Serve(ServeArguments),
    /// Score recorded rollouts and say how far the engine is from the reference: a trainer's dump, saved engine responses.
    Verify(VerifyArguments),
    /// See the main job in one command: the real service, the embedded model, recordings of a real vLLM.
    Demo(DemoArguments),
    /// Compare live engines over a prompt set, with the reference and with each other.
    Compare(CompareArguments),
    /// Measure this machine.
    Bench {
        #[command(subcommand)]
        command: BenchCommand,
    },
    /// Compare the reference with candle-transformers' own implementation of the model's family.
    Selfcheck(SelfcheckArguments),
    /// Check, shrink or export the file of the store.
    Db {
        #[command(subcommand)]
        command: DbCommand,
    },
    /// Test the receivers of alerts.
    Alerts {
        #[command(subcommand)]
        command: AlertsCommand,
    },
    /// Check or show the configuration that `serve` would run with.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ServeArguments {
    /// Configuration file [default: config/plumbline.toml if it exists]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) flags: Flags,
}

/// Flags that override configuration keys of the same name.
#[derive(Clone, Debug, Default, Args, Serialize)]
pub(crate) struct Flags {
    #[command(flatten)]
    #[serde(flatten)]
    reference: ReferenceFlags,
    /// Address and port; anything but loopback needs --api-key-file, --api-key-env or --no-auth [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<SocketAddr>,
    /// Folder that checkpoints may be loaded from while serving; may be given several times
    #[arg(long, value_name = "DIR")]
    weights_root: Option<Vec<PathBuf>>,
    /// Folder whose finished subfolders (step_42/STABLE) are loaded as they appear; also a weights root
    #[arg(long, value_name = "DIR")]
    weights_watch: Option<PathBuf>,
    /// Versions of the weights that rollouts can be scored with [default: 2]
    #[arg(long, value_name = "N")]
    keep_versions: Option<usize>,
    /// Tokens that may wait before requests get 429 [default: 1048576]
    #[arg(long, value_name = "N")]
    max_queue_tokens: Option<usize>,
    /// Folder of everything that outlives the process: results, sequences, accepted verifications [default: nothing does]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    #[serde(flatten)]
    access: AccessFlags,
    #[command(flatten)]
    #[serde(flatten)]
    limits: LimitFlags,
    #[command(flatten)]
    #[serde(flatten)]
    alerts: AlertFlags,
    /// Log format: text or json [default: text]
    #[arg(long)]
    log_format: Option<String>,
    /// Where spans are exported to with OTLP over HTTP, e.g. http://collector:4318; needs the feature otel [default: as the OTEL_
    /// variables say]
    #[arg(long, value_name = "URL")]
    otlp_endpoint: Option<String>,
}

/// Flags that say who may do what.
#[derive(Clone, Debug, Default, Args, Serialize)]
pub(crate) struct AccessFlags {
    /// File with one API key a line, after its roles (ingest, read, admin; none = all); requests then need `Authorization:
    /// Bearer KEY`
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Name of an environment variable with API keys in the same form
    #[arg(long, value_name = "VARIABLE")]
    api_key_env: Option<String>,
    /// Serve without API keys on an address that is not loopback
    #[arg(long, num_args = 0, default_missing_value = "true")]
    no_auth: Option<bool>,
    /// Let keys with the role ingest also read runs, sequences and reports
    #[arg(long, num_args = 0, default_missing_value = "true")]
    ingest_reads: Option<bool>,
    /// Serve /metrics without a key
    #[arg(long, num_args = 0, default_missing_value = "true")]
    metrics_open: Option<bool>,
    /// Certificate chain in PEM: serve with TLS
    #[arg(long, value_name = "FILE")]
    tls_cert_file: Option<PathBuf>,
    /// Private key of that certificate in PEM
    #[arg(long, value_name = "FILE")]
    tls_key_file: Option<PathBuf>,
    /// Seconds between two looks at the files of keys and certificates [default: 5]
    #[arg(long, value_name = "SECONDS")]
    credentials_poll_seconds: Option<u64>,
}

/// Flags of what clients may take.
#[derive(Clone, Debug, Default, Args, Serialize)]
pub(crate) struct LimitFlags {
    /// Bytes of one request body, decoded [default: 33554432]
    #[arg(long, value_name = "N")]
    max_body_bytes: Option<usize>,
    /// Bytes of all bodies that are held at a time [default: 268435456]
    #[arg(long, value_name = "N")]
    max_bodies_bytes: Option<usize>,
    /// Bytes that each byte of a compressed body may decode to [default: 100]
    #[arg(long, value_name = "N")]
    max_compression_ratio: Option<usize>,
    /// Connections at a time [default: 2048]
    #[arg(long, value_name = "N")]
    max_connections: Option<usize>,
    /// Streams of live updates at a time; 0 = none [default: 64]
    #[arg(long, value_name = "N")]
    max_event_streams: Option<usize>,
    /// Bytes of a request's head [default: 32768]
    #[arg(long, value_name = "N")]
    max_header_bytes: Option<usize>,
    /// Header fields of a request [default: 100]
    #[arg(long, value_name = "N")]
    max_headers: Option<usize>,
    /// Seconds that a request's head may take, and a connection may wait for the next request [default: 30]
    #[arg(long, value_name = "SECONDS")]
    header_timeout_seconds: Option<u64>,
    /// Seconds that a request's body may take [default: 60]
    #[arg(long, value_name = "SECONDS")]
    body_timeout_seconds: Option<u64>,
    /// Seconds that a client may take nothing of its answer [default: 30]
    #[arg(long, value_name = "SECONDS")]
    write_stall_seconds: Option<u64>,
}

/// Flags of the alerts that the service posts by itself.
#[derive(Clone, Debug, Default, Args, Serialize)]
pub(crate) struct AlertFlags {
    /// Where people reach this service, for links in alerts
    #[arg(long, value_name = "URL")]
    external_url: Option<String>,
    /// Alertmanager that is told of alerts; may be given several times
    #[arg(long, value_name = "[NAME=]URL")]
    alertmanager_url: Option<Vec<String>>,
    /// Webhook that is told of alerts, with Alertmanager's body; may be given several times
    #[arg(long, value_name = "[NAME=]URL")]
    alert_webhook_url: Option<Vec<String>>,
    /// Label that every alert gets; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    alert_label: Option<Vec<String>>,
    /// File with secrets of receivers, a line each: NAME hmac|bearer|basic SECRET
    #[arg(long, value_name = "FILE")]
    alert_secret_file: Option<PathBuf>,
    /// Name of an environment variable with such lines
    #[arg(long, value_name = "VARIABLE")]
    alert_secret_env: Option<String>,
    /// Certificate authorities in PEM that receivers may have beside the system's
    #[arg(long, value_name = "FILE")]
    alert_ca_file: Option<PathBuf>,
    /// Seconds between two looks at what is watched [default: 15]
    #[arg(long, value_name = "SECONDS")]
    alert_interval_seconds: Option<u64>,
    /// Seconds for which something must be wrong before its alert fires [default: 60]
    #[arg(long, value_name = "SECONDS")]
    alert_for_seconds: Option<u64>,
    /// Seconds for which it must be well again before its alert is resolved [default: 300]
    #[arg(long, value_name = "SECONDS")]
    alert_keep_seconds: Option<u64>,
    /// Compared tokens below which no alert about a run and engine begins [default: 2000]
    #[arg(long, value_name = "N")]
    alert_min_tokens: Option<u64>,
    /// Seconds after which webhooks are told again of what still fires [default: 14400]
    #[arg(long, value_name = "SECONDS")]
    alert_repeat_seconds: Option<u64>,
    /// Seconds that a receiver has for its answer [default: 10]
    #[arg(long, value_name = "SECONDS")]
    alert_timeout_seconds: Option<u64>,
    /// Notifications that may wait for a webhook [default: 1000]
    #[arg(long, value_name = "N")]
    alert_queue: Option<usize>,
}

/// Flags of the reference, for every command that loads one as the configuration says.
#[derive(Clone, Debug, Default, Args, Serialize)]
pub(crate) struct ReferenceFlags {
    /// The reference model: a folder with config.json and safetensors, a GGUF file, or a Hugging Face hub id [default: the
    /// embedded model]
    #[arg(long, value_name = "DIR|FILE.gguf|HUB-ID")]
    model: Option<PathBuf>,
    /// Branch, tag or commit of a model of the hub [default: main]
    #[arg(long, value_name = "R")]
    revision: Option<String>,
    /// PEFT folder of a LoRA adapter to merge into the model
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Version of the reference's weights, an opaque string
    #[arg(long, value_name = "V")]
    pub(crate) policy_version: Option<String>,
    /// Where the reference runs: auto, cpu, cuda:N, metal, or several GPUs, cuda:0,1 [default: auto]
    #[arg(long)]
    device: Option<String>,
    /// dtype of the decoder body: f32, bf16, f16, f64 [default: f32]
    #[arg(long)]
    dtype: Option<String>,
    /// dtype in which the lm_head multiplies: f32, bf16, f16, f64 [default: f32]
    #[arg(long)]
    head_dtype: Option<String>,
    /// Cross-check the model at load with another implementation: quick or off [default: off]
    #[arg(long)]
    selfcheck: Option<String>,
    /// Threads of the model's computations; 0 = all cores [default: 0]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Implementation of the model's operations: auto, generic [default: auto]
    #[arg(long)]
    kernels: Option<String>,
    /// Tokens of one forward [default: 8192]
    #[arg(long, value_name = "N")]
    max_batch_tokens: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArguments {
    /// Exit after the table instead of serving until Ctrl-C
    #[arg(long)]
    pub(crate) once: bool,
    /// Play a story that dashboards and alerts can watch instead: one run whose engine is healthy, misses a weight
    /// update, and recovers, each for this many seconds, again and again (with --once: once)
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) phase_seconds: Option<u64>,
    /// Address and port to serve on [default: a free port on 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<SocketAddr>,
    /// Serve without API keys on an address that is not loopback
    #[arg(long)]
    pub(crate) no_auth: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Score sequences offline, as fast as the machine allows; prints one JSON line.
    Score(BenchScoreArguments),
}

#[derive(Debug, Args)]
pub(crate) struct BenchScoreArguments {
    /// The model: a folder with config.json and safetensors, a GGUF file, or a Hugging Face hub id
    #[arg(long, value_name = "DIR|FILE.gguf|HUB-ID")]
    pub(crate) model: PathBuf,
    /// Branch, tag or commit of a model of the hub [default: main]
    #[arg(long, value_name = "R", conflicts_with = "random_init")]
    pub(crate) revision: Option<String>,
    /// One JSON object a line: {"id", "prompt_token_ids", "completion_token_ids"}
    #[arg(long, value_name = "FILE.jsonl")]
    pub(crate) sequences: PathBuf,
    /// Score prompt tokens too, not only completions
    #[arg(long)]
    pub(crate) all_tokens: bool,
    /// Random weights for DIR/config.json (a folder, not a hub id): the speed is real, the scores mean nothing
    #[arg(long)]
    pub(crate) random_init: bool,
    /// Where the model runs: auto, cpu, cuda:N, metal
    #[arg(long, default_value_t)]
    pub(crate) device: ComputeDevice,
    /// dtype of the decoder body: f32, bf16, f16, f64
    #[arg(long, default_value = "f32", value_parser = float_type)]
    pub(crate) dtype: FloatType,
    /// dtype in which the lm_head multiplies: f32, bf16, f16, f64
    #[arg(long, default_value = "f32", value_parser = float_type)]
    pub(crate) head_dtype: FloatType,
    /// Threads of the model's computations; 0 = all cores
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) threads: usize,
    /// Tokens of one forward
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = positive)]
    pub(crate) max_batch_tokens: usize,
    /// Score the sequences so many times; times and rates are those of the fastest. The first time on a GPU also compiles its
    /// kernels
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = positive)]
    pub(crate) rounds: usize,
    /// Implementation of the operations: auto, generic
    #[arg(long, default_value_t)]
    pub(crate) kernels: Kernels,
    /// Say where the time of the CPU kernels goes
    #[arg(long)]
    pub(crate) profile: bool,
    /// Write {"id", "logprobs"} of every sequence, one a line
    #[arg(long, value_name = "OUT.jsonl")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(
    long_about = "Compare the reference with candle-transformers' own implementation of the model's family.\n\n\
                  Both score the next token after a few pseudo-random sequences from the same weights. Needs memory for the \
                  model twice, the second time in f32.",
    after_help = "Exit codes: 0 the two agree; 1 they disagree, or the command failed; 2 wrong command line; \
                  3 there is no second opinion on this model, the output says why."
)]
pub(crate) struct SelfcheckArguments {
    /// The model: a folder with config.json and safetensors, a GGUF file or a hub id [default: the embedded model]
    #[arg(long, value_name = "DIR|FILE.gguf|ID")]
    pub(crate) model: Option<PathBuf>,
    /// Branch, tag or commit of a model of the hub [default: main]
    #[arg(long, value_name = "R")]
    pub(crate) revision: Option<String>,
    /// PEFT folder of a LoRA adapter to merge into the model
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: Option<PathBuf>,
    /// Where both run: auto, cpu, cuda:N, metal
    #[arg(long, default_value_t)]
    pub(crate) device: ComputeDevice,
    /// dtype of the reference's body: f32, bf16, f16, f64. With bf16 or f16 only gross errors show
    #[arg(long, default_value = "f32", value_parser = float_type)]
    pub(crate) dtype: FloatType,
    /// dtype in which the reference's lm_head multiplies: f32, bf16, f16, f64
    #[arg(long, default_value = "f32", value_parser = float_type)]
    pub(crate) head_dtype: FloatType,
    /// Threads of the models' computations; 0 = all cores
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) threads: usize,
    /// Sequences of at most 128 tokens instead of 512, as `selfcheck = "quick"` does at load
    #[arg(long)]
    pub(crate) quick: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Print which families can be cross-checked, and why others cannot; no model is loaded
    #[arg(long, conflicts_with_all = ["model", "adapter", "quick"])]
    pub(crate) families: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AlertsCommand {
    /// Post a test alert to each receiver of the configuration, and say which took it.
    #[command(
        long_about = "Post a test alert (PlumblineTest, severity info) to each receiver of the configuration, and say which took it.\n\n\
                      A webhook gets its beginning and its end, an Alertmanager one that is over by itself after five minutes. \
                      Each is tried once.",
        after_help = "Exit codes: 0 every receiver took it; 1 one did not, or there is none; 2 wrong command line or configuration."
    )]
    Test {
        /// Only the receiver of this name
        #[arg(long, value_name = "NAME")]
        receiver: Option<String>,
        #[command(flatten)]
        serve: Box<ServeArguments>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Exit 0 if the configuration is valid, else name every bad key and exit 2.
    Check(ServeArguments),
    /// Print every key and the value in force, as TOML.
    Show(ServeArguments),
}

fn float_type(text: &str) -> Result<FloatType, String> {
    FloatType::deserialize(text.into_deserializer()).map_err(|error: serde::de::value::Error| error.to_string())
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}
