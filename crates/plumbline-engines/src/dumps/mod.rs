//! Files of recorded rollouts.
//!
//! [`open_dump`] reads a file, or all files of a folder, record by record: trainers' dumps (NeMo-RL, prime-rl, slime), the
//! exchanges that somebody had with an engine, and Plumbline's own forms. The format is known by the fields of the first record.
//! Memory is that of one record, whatever the size of the file. A record that cannot be used is an error with its line, and
//! reading goes on behind it.

mod aligned;
mod canonical;
mod error;
mod exchanges;
mod format;
mod json;
mod meaning;
mod nemo_rl;
mod origin;
mod plumbline;
mod prime_rl;
mod reader;
mod records;
mod request;
mod slime;
mod source;
mod values;

use plumbline_core::{LogprobsMode, Rollout, Sampling};

pub use self::error::{DumpError, Fault};
pub use self::format::{DumpFormat, UnknownFormat};
pub use self::reader::{Dump, open_dump};

/// Name of the engine of records that name none.
pub const UNNAMED_ENGINE: &str = "engine";

/// What records do not say themselves, and how they are read.
#[derive(Clone, Debug)]
pub struct DumpOptions {
    /// `None` = by the fields of the first record of each file.
    pub format: Option<DumpFormat>,
    /// The engine of records that name none. Missing: the one that writes the format's logprobs (vLLM for NeMo-RL and
    /// prime-rl, SGLang for slime), else [`UNNAMED_ENGINE`].
    pub engine: Option<String>,
    /// What the logprobs of records mean that do not say so. Missing: as the format's trainer has them, else the engine's
    /// default.
    pub logprobs_mode: Option<LogprobsMode>,
    /// How records were sampled that do not say so. Missing: neutral.
    pub sampling: Option<Sampling>,
    /// Bytes of a record at most, after decompression.
    pub max_record_bytes: usize,
}

impl DumpOptions {
    /// Default of `max_record_bytes`.
    pub const MAX_RECORD_BYTES: usize = 256 << 20;
}

impl Default for DumpOptions {
    fn default() -> Self {
        Self {
            format: None,
            engine: None,
            logprobs_mode: None,
            sampling: None,
            max_record_bytes: Self::MAX_RECORD_BYTES,
        }
    }
}

/// One recorded rollout. Its arrays are as long as each other; whether a model can score it is not known here.
#[derive(Clone, Debug, PartialEq)]
pub struct DumpRollout {
    /// The run, if the record names one.
    pub run: Option<String>,
    /// The engine that sampled it.
    pub engine: String,
    /// The worker, if the record names one.
    pub worker: Option<String>,
    /// Rollouts of one group share their prompt, if the record names one.
    pub group: Option<String>,
    /// The rollout.
    pub rollout: Rollout,
    /// Prompt tokens that the engine took from its prefix cache, if it said so.
    pub cached_tokens: Option<usize>,
    /// The trainer's own logprobs, where the dump has them.
    pub trainer: Option<TrainerLogprobs>,
}

/// What a trainer computed for the completion tokens of a rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainerLogprobs {
    /// In nats, one per completion token.
    pub logprobs: Vec<Option<f64>>,
    /// What they mean.
    pub mode: LogprobsMode,
}

/// What is known of a record beside its bytes.
#[derive(Clone, Copy, Debug)]
struct Place<'a> {
    /// Name of the file without its endings.
    file: &'a str,
    /// The training step, if the file's name or folder says it.
    step: Option<&'a str>,
    /// Line where the record begins.
    line: u64,
    options: &'a DumpOptions,
}

impl Place<'_> {
    /// A name for a rollout whose record gives none: file and line, and its number among those of the record.
    fn id(&self, number: usize, of: usize) -> String {
        if of == 1 { format!("{}:{}", self.file, self.line) } else { format!("{}:{}.{number}", self.file, self.line) }
    }

    /// The engine of a record that may name one.
    fn engine(&self, named: Option<String>, of_format: &str) -> String {
        named.or_else(|| self.options.engine.clone()).unwrap_or_else(|| of_format.to_owned())
    }
}

/// What one record holds: rollouts, and those of them that cannot be used.
pub type Rollouts = Vec<Result<DumpRollout, Fault>>;

/// The format of a record that is in no file, by the names of its fields.
///
/// # Errors
/// [`Fault`] if it is no JSON object, or none of a known format.
pub fn record_format(record: &[u8]) -> Result<DumpFormat, Fault> {
    DumpFormat::detect(record)
}

/// Reads a record that is in no file. Rollouts without a name are called `{source}:{line}`.
///
/// # Errors
/// [`Fault`] if nothing of it can be used; what else is wrong is in the rollouts.
pub fn read_record(
    record: &[u8],
    format: DumpFormat,
    (source, line): (&str, u64),
    options: &DumpOptions,
) -> Result<Rollouts, Fault> {
    format.read(record, &Place { file: source, step: None, line, options })
}
