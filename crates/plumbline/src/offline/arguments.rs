//! Flags that `verify` and `compare` share.

use std::path::PathBuf;

use clap::Args;
use plumbline_server::Config;

use super::limit::Limit;
use crate::cli::ReferenceFlags;

/// Flags of a session.
#[derive(Clone, Debug, Args)]
pub(crate) struct OfflineArguments {
    /// Configuration file, for the keys of the reference, verdicts, noise floor and diagnoses [default: config/plumbline.toml if
    /// it exists]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) reference: ReferenceFlags,
    /// Folder for report.json, .html, .xlsx, .png and tokens.parquet; files of these names in it are replaced
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Title of the report
    #[arg(long, value_name = "TEXT")]
    pub(crate) title: Option<String>,
    /// Fail (exit code 1) if a metric of any engine is beyond a limit: KEY=LIMIT, KEY>LIMIT or KEY<LIMIT, such as kl_k3=1e-3
    /// or pearson_logprob=0.999 (= is "worse than"); KEY is a metric of the report or divergent_sequences, their share.
    /// May be given several times
    #[arg(long, value_name = "KEY=LIMIT")]
    pub(crate) fail_on: Vec<Limit>,
    /// Fail (exit code 1) if the verdict on an engine is suspect, too
    #[arg(long)]
    pub(crate) fail_on_suspect: bool,
    /// Do not look for causes
    #[arg(long)]
    pub(crate) no_diagnosis: bool,
    /// Do not write tokens.parquet
    #[arg(long)]
    pub(crate) no_token_table: bool,
}

impl OfflineArguments {
    /// The configuration: defaults, file, environment, flags.
    pub(crate) fn load(&self) -> anyhow::Result<Config> {
        Ok(Config::load(self.config.as_deref(), std::env::vars_os(), &self.reference)?)
    }
}
