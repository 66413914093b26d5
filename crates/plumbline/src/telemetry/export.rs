//! Finished traces as OpenTelemetry spans, exported in batches beside everything else.

use std::cell::Cell;
use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::trace::{
    Span, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
    TracerProvider,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SdkTracer, SdkTracerProvider};
use plumbline_server::{FinishedTrace, SpanListener, Stage, Value, listen_to_spans};

use super::client::Client;
use super::{ENDPOINTS, is_set};

/// How long the end of the process waits for spans that are not exported yet.
const FLUSH: Duration = Duration::from_secs(5);

/// Export of spans, if there is somewhere to export them to.
pub(crate) struct Telemetry(Option<SdkTracerProvider>);

impl Telemetry {
    /// Exports to `endpoint`, else to where the `OTEL_` variables say, else nowhere. The other variables (service name, resource
    /// attributes, headers, sampler, batches) are the SDK's own.
    ///
    /// # Errors
    /// What cannot be used.
    pub(crate) fn start(endpoint: Option<&str>) -> anyhow::Result<Self> {
        let disabled = std::env::var("OTEL_SDK_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true"));
        let none = std::env::var("OTEL_TRACES_EXPORTER").is_ok_and(|value| value == "none");
        if disabled || none || (endpoint.is_none() && !ENDPOINTS.into_iter().any(is_set)) {
            return Ok(Self(None));
        }
        let endpoint = endpoint.map(|base| format!("{}/v1/traces", base.trim_end_matches('/')));
        let url = endpoint.clone().or_else(|| ENDPOINTS.into_iter().find_map(|name| std::env::var(name).ok()));
        let client = Client::new(url.as_deref().unwrap_or_default())?;
        let mut exporter = SpanExporter::builder().with_http().with_http_client(client);
        if let Some(endpoint) = endpoint {
            exporter = exporter.with_endpoint(endpoint);
        }
        let exporter = exporter.build().context("cannot export spans")?;
        let mut resource = Resource::builder();
        let named = std::env::var("OTEL_RESOURCE_ATTRIBUTES").is_ok_and(|own| own.contains("service.name="));
        if !named && !is_set("OTEL_SERVICE_NAME") {
            resource = resource.with_service_name("plumbline");
        }
        resource = resource.with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        let provider = SdkTracerProvider::builder()
            .with_id_generator(GivenIds(RandomIdGenerator::default()))
            .with_resource(resource.build())
            .with_batch_exporter(exporter)
            .build();
        let scope = InstrumentationScope::builder("plumbline").with_version(env!("CARGO_PKG_VERSION")).build();
        listen_to_spans(Listener { tracer: provider.tracer_with_scope(scope) });
        tracing::info!(endpoint = url, "spans are exported");
        Ok(Self(Some(provider)))
    }

    /// Exports what is left, for a bounded time.
    pub(crate) async fn end(self) {
        let Some(provider) = self.0 else { return };
        // It blocks on the exporter's thread, whose requests need this runtime.
        let ended = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH)).await;
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "not all spans were exported"),
            Err(error) => tracing::warn!(%error, "not all spans were exported"),
        }
    }
}

thread_local! {
    /// Ids of the next span of this thread.
    static GIVEN: Cell<Option<(TraceId, SpanId)>> = const { Cell::new(None) };
}

/// A request's ids are in the log and at its client before its span is made: they are given, those of stages are not.
#[derive(Debug)]
struct GivenIds(RandomIdGenerator);

impl IdGenerator for GivenIds {
    fn new_trace_id(&self) -> TraceId {
        GIVEN.get().map_or_else(|| self.0.new_trace_id(), |(trace, _)| trace)
    }

    fn new_span_id(&self) -> SpanId {
        GIVEN.get().map_or_else(|| self.0.new_span_id(), |(_, span)| span)
    }
}

struct Listener {
    tracer: SdkTracer,
}

impl SpanListener for Listener {
    fn ended(&self, trace: FinishedTrace) {
        let FinishedTrace { context, name, started_at, took, attributes, stages, stages_left_out, failed } = trace;
        let trace_id = TraceId::from(context.trace_id);
        let parent = match context.parent_id {
            Some(parent) => {
                let flags = if context.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
                // What is no list of members as the specification has it is not carried on.
                let state = state(&context.state);
                let remote = SpanContext::new(trace_id, SpanId::from(parent), flags, true, state);
                Context::new().with_remote_span_context(remote)
            }
            None => Context::new(),
        };
        let mut attributes = key_values(attributes);
        if stages_left_out > 0 {
            attributes.push(KeyValue::new("plumbline.stages_left_out", stages_left_out as i64));
        }
        let kind = if name == "verification" { SpanKind::Consumer } else { SpanKind::Server };
        GIVEN.set(Some((trace_id, SpanId::from(context.span_id))));
        let mut root = builder(name, kind, started_at, attributes).start_with_context(&self.tracer, &parent);
        GIVEN.set(None);
        if !root.is_recording() {
            return;
        }
        if failed {
            root.set_status(Status::error(""));
        }
        let within = Context::new().with_remote_span_context(root.span_context().clone());
        for Stage { name, started_at, took, attributes } in stages {
            let stage = builder(name.into(), SpanKind::Internal, started_at, key_values(attributes));
            stage.start_with_context(&self.tracer, &within).end_with_timestamp(started_at + took);
        }
        root.end_with_timestamp(started_at + took);
    }
}

fn builder(name: String, kind: SpanKind, started_at: std::time::SystemTime, attributes: Vec<KeyValue>) -> SpanBuilder {
    SpanBuilder::from_name(name).with_kind(kind).with_start_time(started_at).with_attributes(attributes)
}

fn key_values(attributes: Vec<(&'static str, Value)>) -> Vec<KeyValue> {
    let one = |(name, value)| match value {
        Value::Text(text) => KeyValue::new(name, text),
        Value::Count(count) => KeyValue::new(name, i64::try_from(count).unwrap_or(i64::MAX)),
    };
    attributes.into_iter().map(one).collect()
}

fn state(text: &str) -> TraceState {
    let members = text.split(',').filter_map(|member| member.trim().split_once('='));
    TraceState::from_key_value(members).unwrap_or_default()
}
