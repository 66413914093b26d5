//! Spans of requests, exported with OTLP where the feature `otel` is built in.

#[cfg(feature = "otel")]
mod client;
#[cfg(feature = "otel")]
mod export;

#[cfg(feature = "otel")]
pub(crate) use self::export::Telemetry;

/// Variables that say where spans are to be exported to.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// Whether a variable is set and not empty.
fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| !value.is_empty())
}

/// In a build without the feature `otel`: nothing is exported, and who asks for it is told.
#[cfg(not(feature = "otel"))]
pub(crate) struct Telemetry;

#[cfg(not(feature = "otel"))]
impl Telemetry {
    /// # Errors
    /// Spans are to be exported.
    pub(crate) fn start(endpoint: Option<&str>) -> anyhow::Result<Self> {
        if let Some(endpoint) = endpoint {
            anyhow::bail!("otlp_endpoint = {endpoint:?} needs a build with --features otel");
        }
        // The environment of a whole host may say so: no reason not to start.
        if let Some(name) = ENDPOINTS.into_iter().find(|name| is_set(name)) {
            tracing::warn!(variable = name, "spans are not exported: this build does not have the feature otel");
        }
        Ok(Self)
    }

    pub(crate) async fn end(self) {}
}
