//! An answer on its way to the client: the last stage of a traced request.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Instant, SystemTime};

use axum::body::{Body, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::trace::{self, Stage, Trace};

/// A body whose end, taken by the connection or given up, is the end of its request's trace.
pub(super) struct TracedBody {
    body: Body,
    trace: Arc<Trace>,
    name: String,
    failed: bool,
    began_at: SystemTime,
    began: Instant,
}

impl TracedBody {
    /// The answer is made; from now on it is on its way.
    pub(super) fn new(body: Body, trace: Arc<Trace>, name: String, failed: bool) -> Self {
        Self { body, trace, name, failed, began_at: SystemTime::now(), began: Instant::now() }
    }
}

impl HttpBody for TracedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for TracedBody {
    fn drop(&mut self) {
        let stage =
            Stage { name: "reply", started_at: self.began_at, took: self.began.elapsed(), attributes: Vec::new() };
        self.trace.add(stage);
        trace::end(&self.trace, std::mem::take(&mut self.name), self.failed);
    }
}
