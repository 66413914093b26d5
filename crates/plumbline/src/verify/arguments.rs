//! Arguments of `plumbline verify`.

use std::path::PathBuf;

use clap::Args;
use plumbline_core::{LogprobsMode, Sampling};
use plumbline_engines::dumps::{DumpFormat, DumpOptions};
use serde_json::{Map, Value};

use crate::offline::OfflineArguments;

#[derive(Debug, Args)]
#[command(
    long_about = "Score recorded rollouts and say how far the engine is from the reference.\n\n\
                  Reads files or folders of JSON lines (or JSON arrays), plain, gzip or zstd: Plumbline's own records, bodies of \
                  POST /v1/verifications, saved engine requests and responses, NeMo-RL's train_data_step*.jsonl, prime-rl's \
                  token_exports, slime's Sample, engine_outputs.jsonl. Where a dump has the trainer's own logprobs, they are \
                  compared with the reference too, as the engine `trainer`. Memory does not grow with the size of the files.\n\n\
                  The reference is one set of weights: sequences are scored with it whatever policy version they name, unless \
                  --policy-version says which one it is; then sequences of other versions are not scored and count as unusable.",
    after_help = "Exit codes:\n  \
                  0    every engine is consistent (or suspect, unless --fail-on-suspect)\n  \
                  1    an engine is divergent, or a limit of --fail-on is broken; also: the command failed\n  \
                  2    records cannot be used (unless --skip-bad-lines leaves them out; the others are scored and reported \
                  either way), or there is too little for a verdict; also: wrong arguments\n  \
                  130  Ctrl-C or SIGTERM: the report covers what was read until then; twice ends at once without a report"
)]
pub(crate) struct VerifyArguments {
    /// Files or folders of recorded rollouts
    #[arg(required = true, value_name = "FILE")]
    pub(super) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(super) offline: OfflineArguments,
    /// How the files are written: plumbline, canonical, request, exchanges, nemo-rl, prime-rl, slime, engine-outputs [default:
    /// by the fields of the first record of each file]
    #[arg(long, value_name = "FORMAT")]
    format: Option<DumpFormat>,
    /// Engine of records that name none
    #[arg(long, value_name = "NAME")]
    engine: Option<String>,
    /// What the logprobs of records mean that do not say so: raw, temperature, processed [default: as the format's trainer has
    /// them, else the engine's default]
    #[arg(long, value_name = "MODE", value_parser = mode)]
    logprobs_mode: Option<LogprobsMode>,
    /// How records were sampled that do not say so: KEY=VALUE with temperature, top_p, top_k, min_p, repetition_penalty,
    /// presence_penalty, frequency_penalty [default: neutral]. May be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = parameter)]
    sampling: Vec<(String, Value)>,
    /// Leave out records that cannot be used: they are counted and reported, and do not decide the exit code
    #[arg(long)]
    pub(super) skip_bad_lines: bool,
    /// Bytes of one record at most, after decompression
    #[arg(long, value_name = "BYTES", default_value_t = DumpOptions::MAX_RECORD_BYTES)]
    max_record_bytes: usize,
}

impl VerifyArguments {
    /// How the files are read.
    ///
    /// # Errors
    /// Sampling parameters that are out of their range.
    pub(super) fn dump_options(&self) -> anyhow::Result<DumpOptions> {
        let sampling = match self.sampling.is_empty() {
            true => None,
            false => {
                let parameters: Map<String, Value> = self.sampling.iter().cloned().collect();
                let sampling: Sampling = serde_json::from_value(parameters.into())?;
                if let Some((field, value, reason)) = sampling.violations().into_iter().next() {
                    anyhow::bail!("--sampling {field}={value}: {reason}");
                }
                Some(sampling)
            }
        };
        Ok(DumpOptions {
            format: self.format,
            engine: self.engine.clone(),
            logprobs_mode: self.logprobs_mode,
            sampling,
            max_record_bytes: self.max_record_bytes,
        })
    }
}

fn mode(name: &str) -> Result<LogprobsMode, String> {
    serde_json::from_value(Value::from(name)).map_err(|_| "expected raw, temperature or processed".into())
}

/// One sampling parameter, checked alone so that the wrong one is named.
fn parameter(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    let value: Value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
    let one: Map<String, Value> = [(key.to_owned(), value.clone())].into_iter().collect();
    let sampling = serde_json::from_value::<Sampling>(one.into()).map_err(|error| error.to_string())?;
    match sampling.violations().into_iter().next() {
        Some((field, _, reason)) => Err(format!("{field} {reason}")),
        None => Ok((key.to_owned(), value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sampling_parameters_are_checked() {
        assert_eq!(parameter("temperature=0.7"), Ok(("temperature".into(), Value::from(0.7))));
        assert_eq!(parameter("order=sglang"), Ok(("order".into(), Value::from("sglang"))));
        for wrong in ["temprature=1", "top_p=2", "top_k=x", "temperature"] {
            assert!(parameter(wrong).is_err(), "{wrong}");
        }
        assert_eq!(mode("processed"), Ok(LogprobsMode::Processed));
        assert!(mode("cooked").is_err());
    }
}
