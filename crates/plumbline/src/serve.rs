//! `plumbline serve`.

use anyhow::Context;
use plumbline_server::Config;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::ServeArguments;
use crate::telemetry::Telemetry;
use crate::{logging, reference, threads};

pub(crate) async fn run(arguments: &ServeArguments) -> anyhow::Result<()> {
    let config = load_config(arguments)?;
    logging::start(config.log_format, "info")?;
    threads::use_threads(config.threads)?;
    let listener =
        TcpListener::bind(config.listen).await.with_context(|| format!("cannot listen on {}", config.listen))?;
    let source = reference::source(&config);
    #[cfg(debug_assertions)]
    let source = {
        let faults = crate::faults::Faults::from_variables(std::env::vars_os())?;
        source.wrapped(move |model| faults.wrap(model))
    };
    let telemetry = Telemetry::start(config.otlp_endpoint.as_deref())?;
    let shutdown = shutdown_signal()?;
    let served = plumbline_server::serve(config, listener, source, shutdown).await;
    telemetry.end().await;
    Ok(served?)
}

pub(crate) fn load_config(arguments: &ServeArguments) -> anyhow::Result<Config> {
    let variables = std::env::vars_os();
    #[cfg(debug_assertions)]
    let variables = crate::faults::without_faults(variables);
    Ok(Config::load(arguments.config.as_deref(), variables, &arguments.flags)?)
}

/// Completes on SIGTERM or Ctrl-C; from then on they are not caught any more in this future.
pub(crate) fn shutdown_signal() -> anyhow::Result<impl Future<Output = ()> + Send> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
