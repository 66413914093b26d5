//! Plumbline: the independent ruler for engine-versus-trainer log-probabilities. The command line.

mod alerts;
mod bench;
mod cli;
mod compare;
mod config_command;
mod db;
mod demo;
mod embedded;
mod facts;
#[cfg(debug_assertions)]
mod faults;
mod logging;
mod memory;
mod offline;
mod reference;
mod selfcheck;
mod serve;
mod telemetry;
mod template;
mod threads;
mod timestamp;
mod verify;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use plumbline_server::ConfigError;

use crate::cli::{BenchCommand, Cli, Command};

/// The command failed.
const FAILED: u8 = 1;
/// The command line or the configuration is wrong; clap exits with this too.
const MISUSED: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Once for the process: reqwest takes it for every client, and fails without one. It can only be there already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if error.is::<ConfigError>() { MISUSED } else { FAILED })
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let done = match command {
        Command::Serve(arguments) => runtime()?.block_on(serve::run(&arguments)),
        Command::Demo(arguments) => runtime()?.block_on(demo::run(&arguments)),
        Command::Compare(arguments) => return Ok(runtime()?.block_on(compare::run(&arguments))),
        Command::Bench { command: BenchCommand::Score(arguments) } => runtime()?.block_on(bench::score(&arguments)),
        Command::Verify(arguments) => return runtime()?.block_on(verify::run(&arguments)),
        Command::Selfcheck(arguments) => return selfcheck::run(&arguments),
        Command::Db { command } => return db::run(&command),
        Command::Alerts { command } => return runtime()?.block_on(alerts::run(&command)),
        Command::Config { command } => config_command::run(&command),
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the async runtime")
}
