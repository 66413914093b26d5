//! OTLP's requests with the HTTP and TLS that everything else here uses.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::anyhow;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use reqwest::redirect::Policy;
use tokio::runtime::Handle;

/// Longest request, unless `OTEL_EXPORTER_OTLP_TIMEOUT` says otherwise: the specification's default.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read.
const MAX_ANSWER: usize = 1 << 20;

/// Certificate authorities of the collector, as the specification names the variables.
const AUTHORITIES: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"];
/// Milliseconds.
const TIMEOUTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];

/// Posts from the exporter's thread, which is not of the async runtime.
#[derive(Debug)]
pub(super) struct Client {
    client: reqwest::Client,
    runtime: Handle,
    /// Whether the last request failed: said once, not for each batch.
    failing: Arc<AtomicBool>,
}

impl Client {
    /// For a collector at this address.
    ///
    /// # Errors
    /// Authorities or the timeout cannot be used.
    pub(super) fn new(url: &str) -> anyhow::Result<Self> {
        let variable =
            |names: [&'static str; 2]| names.into_iter().find_map(|name| Some((name, std::env::var(name).ok()?)));
        let authorities = variable(AUTHORITIES).map(|(_, path)| PathBuf::from(path));
        let timeout = match variable(TIMEOUTS) {
            Some((name, text)) => {
                Duration::from_millis(text.parse().map_err(|error| anyhow!("{name}={text}: {error}"))?)
            }
            None => TIMEOUT,
        };
        let tls = plumbline_engines::drivers::client_config(url, authorities.as_deref())
            .map_err(|reason| anyhow!("cannot export spans to {url}: {reason}"))?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(Policy::none())
            .timeout(timeout)
            .build()?;
        Ok(Self { client, runtime: Handle::current(), failing: Arc::default() })
    }
}

impl HttpClient for Client {
    fn send_bytes<'own, 'answer>(
        &'own self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'answer>>
    where
        'own: 'answer,
        Self: 'answer,
    {
        let (client, failing) = (self.client.clone(), Arc::clone(&self.failing));
        let sent = self.runtime.spawn(async move {
            let answer = send(&client, request).await;
            let reason = match &answer {
                Ok(answer) if answer.status().is_success() => None,
                Ok(answer) => Some(format!("status {}", answer.status())),
                Err(error) => Some(error.to_string()),
            };
            let failed_before = failing.swap(reason.is_some(), Ordering::Relaxed);
            match reason {
                Some(reason) if !failed_before => tracing::warn!(reason, "spans are not exported"),
                None if failed_before => tracing::info!("spans are exported again"),
                _ => {}
            }
            answer
        });
        Box::pin(async move { sent.await? })
    }
}

async fn send(client: &reqwest::Client, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let (parts, body) = request.into_parts();
    let request = client.request(parts.method, parts.uri.to_string()).headers(parts.headers).body(body);
    let mut response = request.send().await?;
    let mut answer = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if answer.len() + chunk.len() > MAX_ANSWER {
            return Err(format!("an answer of more than {MAX_ANSWER} bytes").into());
        }
        answer.extend_from_slice(&chunk);
    }
    let mut made = Response::new(Bytes::from(answer));
    *made.status_mut() = response.status();
    std::mem::swap(made.headers_mut(), response.headers_mut());
    Ok(made)
}
