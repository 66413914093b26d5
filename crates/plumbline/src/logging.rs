//! Logs on stderr.

use std::io::IsTerminal;

use anyhow::anyhow;
use plumbline_server::config::LogFormat;
use tracing_subscriber::EnvFilter;

/// Starts logging. `RUST_LOG` overrides `default_filter`.
pub(crate) fn start(format: LogFormat, default_filter: &str) -> anyhow::Result<()> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(directives) => EnvFilter::try_new(&directives).map_err(|error| anyhow!("RUST_LOG={directives}: {error}"))?,
        Err(_) => EnvFilter::new(default_filter),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow!("cannot start logging: {error}"))
}
