//! `plumbline alerts`.

use std::io::Write;
use std::process::ExitCode;

use plumbline_server::test_receivers;

use crate::FAILED;
use crate::cli::AlertsCommand;
use crate::serve::load_config;

pub(crate) async fn run(command: &AlertsCommand) -> anyhow::Result<ExitCode> {
    let AlertsCommand::Test { receiver, serve } = command;
    let config = load_config(serve)?;
    let tested = test_receivers(&config, receiver.as_deref()).await?;
    let mut stdout = std::io::stdout().lock();
    let mut failed = false;
    for one in tested {
        let (name, kind, origin) = (&one.name, one.kind, &one.origin);
        match one.outcome {
            Ok(()) => writeln!(stdout, "{name} ({kind}, {origin}): took the test alert")?,
            Err(reason) => {
                failed = true;
                writeln!(stdout, "{name} ({kind}, {origin}): did NOT take the test alert: {reason}")?;
            }
        }
    }
    Ok(if failed { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
}
