//! `plumbline config`.

use std::io::Write;

use crate::cli::ConfigCommand;
use crate::serve::load_config;

pub(crate) fn run(command: &ConfigCommand) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match command {
        ConfigCommand::Check(arguments) => {
            load_config(arguments)?;
            writeln!(stdout, "the configuration is valid")?;
        }
        ConfigCommand::Show(arguments) => write!(stdout, "{}", load_config(arguments)?.to_toml()?)?,
    }
    Ok(())
}
