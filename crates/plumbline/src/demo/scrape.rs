//! Reads a run's gauges back from `/metrics`, as Prometheus would.

use anyhow::Context;
use reqwest::Client;

/// The gauges that the table shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Gauges {
    pub(super) tokens: f64,
    pub(super) mae: f64,
    pub(super) rmse: f64,
    pub(super) pearson: f64,
    pub(super) kl_k3: f64,
    pub(super) ess: f64,
}

pub(super) async fn gauges(client: &Client, url: &str, run: &str, engine: &str) -> anyhow::Result<Gauges> {
    let text = client.get(format!("{url}/metrics")).send().await?.error_for_status()?.text().await?;
    let labels = [format!("run=\"{run}\""), format!("engine=\"{engine}\"")];
    let read = |name: &str, more: &str| {
        let series = |line: &&str| {
            line.starts_with(&format!("plumbline_{name}{{"))
                && line.contains(more)
                && labels.iter().all(|label| line.contains(label.as_str()))
        };
        let line = text.lines().find(series).with_context(|| format!("/metrics lacks plumbline_{name} of {run}"))?;
        let value = line.rsplit(' ').next().unwrap_or_default();
        value.parse::<f64>().with_context(|| format!("plumbline_{name} = {value}"))
    };
    Ok(Gauges {
        tokens: read("window_tokens", "")?,
        mae: read("logprob_mae_nats", "")?,
        rmse: read("logprob_rmse_nats", "")?,
        pearson: read("logprob_pearson", "")?,
        kl_k3: read("kl_nats", "estimator=\"k3\"")?,
        ess: read("ess_ratio", "")?,
    })
}
