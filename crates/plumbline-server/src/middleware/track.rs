//! Request id, trace, log line, metrics, and the one place where problems become documents.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument;

use super::PROBES;
use super::leftover::drain_leftover;
use super::request_id::{RequestId, X_REQUEST_ID};
use super::traced_body::TracedBody;
use crate::access::Caller;
use crate::metrics::ServiceMetrics;
use crate::problem::Problem;
use crate::trace::{self, TRACERESPONSE, Trace, Value};

/// Label of requests that no route matched: their paths are the client's and unbounded.
const UNMATCHED: &str = "<unmatched>";

/// Tokens that a request made the reference score; put into a response's extensions for the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScoredTokens(pub(crate) usize);

/// Wraps every request.
pub(crate) async fn track(State(metrics): State<ServiceMetrics>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = RequestId::of(request.headers());
    let route =
        request.extensions().get::<MatchedPath>().map_or_else(|| UNMATCHED.into(), |path| path.as_str().to_owned());
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    // For problems that are part of an answer.
    request.extensions_mut().insert(id.clone());
    let in_flight = metrics.in_flight(route.starts_with("/v1/"));
    let routine = route == "/metrics" || route.starts_with("/assets/") || PROBES.contains(&route.as_str());
    let listened = trace::is_listened_to() && !routine;
    let context = trace::incoming(request.headers(), listened);
    let recorded = listened && context.sampled;
    let own = Arc::new(Trace::new(context, recorded));
    let (trace_id, span_id) = (own.context().trace_id_hex(), own.context().span_id_hex());
    let span = tracing::info_span!("request", request_id = %id, trace_id, span_id);

    let answering = trace::within(Arc::clone(&own), next.run(drain_leftover(request)));
    let mut response = answering.instrument(span.clone()).await;
    let _entered = span.enter();
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        if let Some(cause) = &problem.internal {
            tracing::error!(code = problem.code.as_str(), cause, "request failed");
        }
        let allow = response.headers_mut().remove(header::ALLOW);
        response = problem.render(&path, id.as_str());
        if let Some(allow) = allow {
            response.headers_mut().insert(header::ALLOW, allow);
        }
    }
    // Everything here says what it is; a browser must not guess otherwise from what clients sent.
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(value) = id.header_value() {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    if let Some(value) = own.context().response() {
        response.headers_mut().insert(TRACERESPONSE, value);
    }

    let took = started.elapsed();
    let status = response.status().as_u16();
    metrics.request(&route, status, took);
    in_flight.answered();
    let tokens = response.extensions().get::<ScoredTokens>().map_or(0, |tokens| tokens.0);
    // Which key asked: empty where none was needed. Never the key itself.
    let caller = response.extensions().get::<Caller>().cloned();
    let key = caller.as_ref().map_or("", |caller| &*caller.name);
    let ms = took.as_secs_f64() * 1e3;
    if routine && response.status().is_success() {
        tracing::debug!(%method, route, status, ms, tokens, key, "answered");
    } else {
        tracing::info!(%method, route, status, ms, tokens, key, "answered");
    }
    if !recorded {
        return response;
    }
    own.describe(vec![
        ("http.request.method", Value::Text(method.to_string())),
        ("http.route", Value::Text(route.clone())),
        ("http.response.status_code", Value::Count(status.into())),
        ("plumbline.request_id", Value::Text(id.as_str().to_owned())),
        ("plumbline.scored_tokens", Value::Count(tokens as u64)),
    ]);
    let name = format!("{method} {route}");
    response.map(|body| Body::new(TracedBody::new(body, own, name, status >= 500)))
}
