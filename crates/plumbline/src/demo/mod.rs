//! `plumbline demo`: the main job end to end. The real server on a free port with the embedded model; recordings of a real
//! vLLM replayed over HTTP as rollout workers would; the table read back from `/metrics`, as Prometheus would.

mod recordings;
mod replay;
mod scrape;
mod story;
mod table;

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use plumbline_server::Config;
use plumbline_server::config::LogFormat;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use self::recordings::PHASES;
use self::table::PhaseResult;
use crate::cli::DemoArguments;
use crate::serve::shutdown_signal;
use crate::{logging, reference, threads};

pub(crate) async fn run(arguments: &DemoArguments) -> anyhow::Result<()> {
    logging::start(LogFormat::Text, "warn")?;
    let config = demo_config(arguments);
    threads::use_threads(config.threads)?;
    let listener =
        TcpListener::bind(config.listen).await.with_context(|| format!("cannot listen on {}", config.listen))?;
    let url = format!("http://{}", listener.local_addr()?);
    let source = reference::source(&config);
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(plumbline_server::serve(config, listener, source, async move {
        // A dropped sender means that the demo has ended: stop as well.
        let _ = stopped.await;
    }));

    let interrupted = shutdown_signal()?;
    tokio::pin!(interrupted);
    let shown = async {
        match arguments.phase_seconds.map(Duration::from_secs) {
            Some(phase) => story::tell(&url, phase, arguments.once).await,
            None => show(&url, arguments.once).await,
        }
    };
    let outcome = tokio::select! {
        outcome = shown => outcome,
        () = &mut interrupted => Ok(()),
    };
    if outcome.is_ok() && !arguments.once && arguments.phase_seconds.is_none() {
        interrupted.await;
    }
    drop(stop);
    server.await.context("the server task failed")??;
    outcome
}

/// The demo always runs the embedded model with the defaults: what it shows must not depend on what lies around.
fn demo_config(arguments: &DemoArguments) -> Config {
    let listen = arguments.listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
    Config { listen, no_auth: arguments.no_auth, ..Config::default() }
}

async fn show(url: &str, once: bool) -> anyhow::Result<()> {
    let client = reqwest::Client::new();
    let reference = replay::wait_until_ready(&client, url).await?;
    say(&format!("Plumbline serves {reference} on {url}\n"))?;
    let mut results = Vec::new();
    for phase in PHASES {
        let verdicts = replay::replay(&client, url, phase).await?;
        let gauges = scrape::gauges(&client, url, phase.run, recordings::ENGINE).await?;
        results.push(PhaseResult { phase, verdicts, gauges });
    }
    say(&table::render(&results))?;
    say(&format!(
        "page       {url}/\nmetrics    {url}/metrics   (gauges cover the last 5 minutes)\nAPI        {url}/docs\n\
         try        curl -s {url}/metrics | grep -E 'plumbline_(logprob_mae|kl)_nats'"
    ))?;
    for result in &results {
        ensure!(
            result.verdict() == result.phase.expected,
            "phase `{}` should be {}, but is {}",
            result.phase.title,
            result.phase.expected.as_str(),
            result.verdict().as_str(),
        );
    }
    if !once {
        say("\nserving until Ctrl-C")?;
    }
    Ok(())
}

fn say(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{text}").and_then(|()| stdout.flush()).context("cannot write to stdout")
}
