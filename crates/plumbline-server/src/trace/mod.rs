//! Where a request's time goes, and what it is known by across services: W3C trace context, and a span for each stage of its way.
//!
//! A request (or an accepted verification that is worked on later) is one [`Trace`]. It stands in its task; what runs in its stead in
//! another task is [`carried`] there. Stages are measured where the request waits for them, so that their parent is right whatever
//! thread does the work: the model thread hands back when a batch began and where its time went ([`crate::verify`]). Spans are kept per
//! request and batch, never per token, and only where somebody listens ([`listen_to_spans`]); the ids are there in any case: in the
//! log, and in the answer.

mod context;
mod spans;

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime};

use tracing::Instrument;

pub use self::context::TraceContext;
pub(crate) use self::context::{TRACERESPONSE, incoming};
pub(crate) use self::spans::Trace;
pub use self::spans::{FinishedTrace, Stage, Value};

/// Takes finished traces, to export them. Must be quick: it is called where requests are answered.
pub trait SpanListener: Send + Sync + 'static {
    /// A trace that has ended.
    fn ended(&self, trace: FinishedTrace);
}

static LISTENER: OnceLock<Box<dyn SpanListener>> = OnceLock::new();

/// From now on finished traces of this process go to `listener`. `false`: somebody listens already, and nothing changes.
pub fn listen_to_spans(listener: impl SpanListener) -> bool {
    LISTENER.set(Box::new(listener)).is_ok()
}

/// Whether somebody listens.
pub(crate) fn is_listened_to() -> bool {
    LISTENER.get().is_some()
}

tokio::task_local! {
    static CURRENT: Arc<Trace>;
}

/// Runs a future as the trace's own.
pub(crate) fn within<F: Future>(trace: Arc<Trace>, future: F) -> impl Future<Output = F::Output> {
    CURRENT.scope(trace, future)
}

/// The trace of this task, if it has one.
fn current() -> Option<Arc<Trace>> {
    CURRENT.try_with(Arc::clone).ok()
}

/// The future as a part of this task's trace, in the log too, whichever task runs it.
pub(crate) fn carried<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let trace = current();
    let future = future.in_current_span();
    async move {
        match trace {
            Some(trace) => within(trace, future).await,
            None => future.await,
        }
    }
}

/// Awaits a future as a stage of this task's trace.
pub(crate) async fn stage<F: Future>(name: &'static str, future: F) -> F::Output {
    let Some(trace) = current().filter(|trace| trace.is_recorded()) else { return future.await };
    let (started_at, started) = (SystemTime::now(), Instant::now());
    let output = future.await;
    trace.add(Stage { name, started_at, took: started.elapsed(), attributes: Vec::new() });
    output
}

/// Adds stages that were measured elsewhere to this task's trace; they are only made if they are kept.
pub(crate) fn record(stages: impl FnOnce(&dyn Fn(Instant) -> SystemTime) -> Vec<Stage>) {
    let Some(trace) = current().filter(|trace| trace.is_recorded()) else { return };
    let (now_at, now) = (SystemTime::now(), Instant::now());
    let at = |instant: Instant| now_at.checked_sub(now.saturating_duration_since(instant)).unwrap_or(now_at);
    stages(&at).into_iter().for_each(|stage| trace.add(stage));
}

/// Says something about this task's trace.
pub(crate) fn describe(attributes: impl FnOnce() -> Vec<(&'static str, Value)>) {
    if let Some(trace) = current().filter(|trace| trace.is_recorded()) {
        trace.describe(attributes());
    }
}

/// A trace has ended: whoever listens gets it.
pub(crate) fn end(trace: &Trace, name: String, failed: bool) {
    if let (Some(listener), true) = (LISTENER.get(), trace.is_recorded()) {
        listener.ended(trace.finish(name, failed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(recorded: bool) -> Arc<Trace> {
        Arc::new(Trace::new(incoming(&axum::http::HeaderMap::new(), recorded), recorded))
    }

    #[tokio::test]
    async fn stages_are_of_the_trace_whichever_task_runs_them() {
        let own = trace(true);
        within(Arc::clone(&own), async {
            stage("parse", async {}).await;
            tokio::spawn(carried(stage("store", async {}))).await.unwrap();
            tokio::spawn(stage("nobody's", async {})).await.unwrap();
            record(|at| {
                let now = Instant::now();
                let stage = |name| Stage { name, started_at: at(now), took: now.elapsed(), attributes: Vec::new() };
                vec![stage("queue"), stage("forward")]
            });
            describe(|| vec![("tokens", Value::Count(3))]);
        })
        .await;
        stage("nobody's", async {}).await;
        let finished = own.finish("POST /x".into(), false);
        let names: Vec<_> = finished.stages.iter().map(|stage| stage.name).collect();
        assert_eq!(names, ["parse", "store", "queue", "forward"]);
        assert_eq!(finished.attributes, [("tokens", Value::Count(3))]);
        assert!(finished.stages.iter().all(|stage| stage.started_at >= finished.started_at));
    }

    #[tokio::test]
    async fn where_nobody_listens_nothing_is_kept() {
        let own = trace(false);
        within(Arc::clone(&own), async {
            stage("parse", async {}).await;
            record(|_| unreachable!("nobody asks for it"));
            describe(|| unreachable!("nor for this"));
        })
        .await;
        assert!(own.finish("x".into(), false).stages.is_empty());
    }
}
