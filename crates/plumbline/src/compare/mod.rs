//! `plumbline compare`: live engines, the same prompts, one ruler.
//!
//! - `arguments`, `engine_spec`: the command line;
//! - `prompts`, `plan`: what is asked, decided once and written down;
//! - `drive`: the engines answer; `record`, `files`: every exchange is kept as it ends;
//! - `scoring`: the only file that meets the adapters, the scoring pipeline and the report;
//! - `cross`, `crossing`: engines against each other.

mod arguments;
mod cross;
mod crossing;
mod drive;
mod engine_spec;
mod files;
mod plan;
mod prompts;
mod record;
mod run;
mod scoring;
mod seats;

use std::io::Write;
use std::process::ExitCode;

use plumbline_server::config::LogFormat;

pub(crate) use self::arguments::CompareArguments;
use crate::logging;

/// The input is unusable, or an engine is; clap exits with this too.
const UNUSABLE: u8 = 2;

/// Runs the command. Whatever keeps it from a verdict is [`UNUSABLE`]: 1 means that engines diverge, and gates upgrades.
pub(crate) async fn run(arguments: &CompareArguments) -> ExitCode {
    let ran = async {
        logging::start(LogFormat::Text, "warn")?;
        let (code, text) = run::run(arguments).await?;
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{text}").and_then(|()| stdout.flush())?;
        Ok::<u8, anyhow::Error>(code)
    };
    match ran.await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(UNUSABLE)
        }
    }
}
