//! The part of a request body that nobody read.
//!
//! A request can be answered before its body has arrived (401, 413, 415, 503, ...). Closing the connection at once
//! makes the kernel reset it, and clients that write everything before they read (most do) see the reset and never the
//! answer. So the rest of the body is read and thrown away for a while. Clients that sent `Expect: 100-continue` wait
//! for the answer and are left alone.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Request, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;

/// Bytes that are thrown away at most; beyond them the connection is closed.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// Time that is spent on it at most.
const MAX_TIME: Duration = Duration::from_secs(10);

/// Makes sure that what is left of the request's body when it is dropped is drained.
pub(super) fn drain_leftover(request: Request<Body>) -> Request<Body> {
    let waits = request
        .headers()
        .get(header::EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if request.body().is_end_stream() {
        return request;
    }
    request.map(|body| Body::new(DrainOnDrop { body, ended: false, polled: !waits }))
}

struct DrainOnDrop {
    body: Body,
    ended: bool,
    /// Whether the client is sending: reading is what makes the server ask for it.
    polled: bool,
}

impl http_body::Body for DrainOnDrop {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.polled = true;
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None | Some(Err(_)))) {
            self.ended = true;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for DrainOnDrop {
    fn drop(&mut self) {
        if self.ended || !self.polled || self.body.is_end_stream() {
            return;
        }
        let body = std::mem::take(&mut self.body);
        // Without a runtime there is no connection either.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tokio::time::timeout(MAX_TIME, discard(body)));
        }
    }
}

async fn discard(mut body: Body) {
    let mut discarded = 0;
    while discarded < MAX_BYTES {
        match body.frame().await {
            Some(Ok(frame)) => discarded += frame.data_ref().map_or(0, |data| data.len() as u64),
            Some(Err(_)) | None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A body of `frames` frames of one byte that counts how many were taken.
    struct Counted {
        frames: usize,
        taken: Arc<AtomicUsize>,
    }

    impl http_body::Body for Counted {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            if self.frames == 0 {
                return Poll::Ready(None);
            }
            self.frames -= 1;
            self.taken.fetch_add(1, Ordering::SeqCst);
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
        }
    }

    async fn taken_after(expect: bool, read: usize) -> usize {
        let taken = Arc::new(AtomicUsize::new(0));
        let mut request = Request::builder();
        if expect {
            request = request.header("expect", "100-continue");
        }
        let body = Body::new(Counted { frames: 5, taken: taken.clone() });
        let mut request = drain_leftover(request.body(body).unwrap());
        for _ in 0..read {
            request.body_mut().frame().await.unwrap().unwrap();
        }
        drop(request);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        taken.load(Ordering::SeqCst)
    }

    #[tokio::test]
    async fn what_nobody_read_is_drained() {
        assert_eq!(taken_after(false, 0).await, 5);
        assert_eq!(taken_after(false, 2).await, 5);
        assert_eq!(taken_after(true, 1).await, 5, "a client that was told to continue sends");
    }

    #[tokio::test]
    async fn a_client_that_waits_is_not_asked_to_send() {
        assert_eq!(taken_after(true, 0).await, 0);
    }
}
