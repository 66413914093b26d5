//! Rollout workers: several at once POST groups and read the verdicts.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reqwest::{Client, StatusCode};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::recordings::Phase;

/// Requests under way at once.
const WORKERS: usize = 4;
/// How often readiness is asked for.
const READY_INTERVAL: Duration = Duration::from_millis(50);
/// How long the embedded model may take to load.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// Number of sequences by verdict.
pub(super) type Verdicts = BTreeMap<String, u64>;

/// Waits for `/readyz` and describes the reference.
pub(super) async fn wait_until_ready(client: &Client, url: &str) -> anyhow::Result<String> {
    let ready = async {
        while client.get(format!("{url}/readyz")).send().await?.status() != StatusCode::OK {
            tokio::time::sleep(READY_INTERVAL).await;
        }
        client.get(format!("{url}/v1/reference")).send().await?.error_for_status()?.json::<Value>().await
    };
    let reference = tokio::time::timeout(READY_LIMIT, ready).await.context("the server did not become ready")??;
    let text = |key: &str| reference[key].as_str().unwrap_or("?").to_owned();
    let millions = reference["parameters"].as_f64().unwrap_or(f64::NAN) / 1e6;
    Ok(format!(
        "{} ({}, {millions:.1} M parameters, {}, {})",
        text("model"),
        text("family"),
        text("policy_version"),
        text("dtype")
    ))
}

/// Posts a phase's groups and counts the verdicts.
pub(super) async fn replay(client: &Client, url: &str, phase: &Phase) -> anyhow::Result<Verdicts> {
    let requests = phase.requests()?;
    let progress = progress(requests.len() as u64, phase.title)?;
    let workers = Arc::new(Semaphore::new(WORKERS));
    let mut answers = JoinSet::new();
    for body in requests {
        let (client, endpoint, workers) = (client.clone(), format!("{url}/v1/verifications"), workers.clone());
        answers.spawn(async move {
            let _turn = workers.acquire_owned().await?;
            post(&client, &endpoint, &body).await
        });
    }
    let mut verdicts = Verdicts::new();
    while let Some(answer) = answers.join_next().await {
        for verdict in answer.context("a rollout worker failed")?? {
            *verdicts.entry(verdict).or_default() += 1;
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(verdicts)
}

/// Posts one request, and says the verdict of each of its sequences.
pub(super) async fn post(client: &Client, endpoint: &str, body: &Value) -> anyhow::Result<Vec<String>> {
    let response = client.post(endpoint).json(body).send().await?;
    let status = response.status();
    let answer: Value = response.json().await?;
    if status != StatusCode::OK {
        bail!("{endpoint} answered {status}: {answer}");
    }
    let sequences = answer["sequences"].as_array().context("the answer has no sequences")?;
    sequences
        .iter()
        .map(|sequence| sequence["verdict"].as_str().map(str::to_owned).context("a sequence has no verdict"))
        .collect()
}

/// A bar on a terminal, nothing elsewhere.
fn progress(requests: u64, title: &str) -> anyhow::Result<ProgressBar> {
    let target =
        if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(requests), target);
    bar.set_style(ProgressStyle::with_template("{msg:14} {bar:40} {pos}/{len} groups")?);
    bar.set_message(title.to_owned());
    Ok(bar)
}
