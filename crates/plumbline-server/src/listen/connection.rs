//! One connection from its first byte to its last.

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::answer::{Arriving, Leaving};
use super::seats::{Seat, Stage, Taken};
use super::tls::Tls;
use super::watched::{Stalled, Watched};
use super::{Closing, ConnectionLimits};
use crate::metrics::ServiceMetrics;

/// How often a closing server looks whether a connection is done.
const CLOSING_LOOK: Duration = Duration::from_millis(100);

/// Bytes that are read and written at a time; half a head may fill it.
const BUFFER: usize = 64 * 1024;

/// Header fields that hyper takes by itself.
const HYPERS_HEADERS: usize = 100;

/// What all connections have in common.
pub(super) struct Connection {
    pub(super) router: Router,
    pub(super) limits: ConnectionLimits,
    pub(super) tls: Option<Tls>,
    pub(super) metrics: ServiceMetrics,
    /// Turns true when no further request is wanted.
    pub(super) closed: watch::Receiver<bool>,
}

impl Connection {
    pub(super) async fn run(self: Arc<Self>, stream: TcpStream, taken: Taken) {
        let seat = Arc::clone(&taken.0);
        let stream = Watched::new(stream, Arc::clone(&seat), self.limits.write_stall);
        let Some(tls) = &self.tls else { return self.serve(stream, &seat).await };
        let mut closed = self.closed.clone();
        let shaken = tokio::select! {
            shaken = tokio::time::timeout(self.limits.header_timeout, tls.accept(stream)) => shaken,
            () = seat.told_to_leave() => return,
            // A closed channel means that the server is gone.
            _ = closed.wait_for(|closed| *closed) => return,
        };
        let reason = match shaken {
            Ok(Ok(stream)) => return self.serve(stream, &seat).await,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it took too long".into(),
        };
        self.metrics.connection_closed(Closing::TlsFailed);
        tracing::debug!(reason, "no TLS connection came about");
    }

    async fn serve<T: AsyncRead + AsyncWrite + Unpin + Send>(&self, stream: T, seat: &Arc<Seat>) {
        let router = TowerToHyperService::new(self.router.clone());
        let service = service_fn(|request: Request<Incoming>| {
            let answering = router.call(request.map(|body| Arriving::new(body, seat)));
            let seat = Arc::clone(seat);
            async move {
                let answer: Response = answering.await?;
                Ok::<_, Infallible>(answer.map(|body| Leaving::new(body, seat)))
            }
        });
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            .max_header_size(self.limits.header_bytes)
            .max_buf_size(self.limits.header_bytes.max(BUFFER));
        // Another number takes a heap allocation for each request.
        if self.limits.headers != HYPERS_HEADERS {
            builder.max_headers(self.limits.headers);
        }
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let mut closed = self.closed.clone();
        let mut closing = false;
        let ended = loop {
            tokio::select! {
                biased;
                ended = connection.as_mut() => break ended,
                () = seat.told_to_leave() => {
                    if seat.may_leave(Stage::Receiving) {
                        return;
                    }
                    seat.stays();
                }
                _ = closed.wait_for(|closed| *closed), if !closing => {
                    closing = true;
                    connection.as_mut().graceful_shutdown();
                }
                // Whoever has sent half a head by now would keep the server from ending.
                () = tokio::time::sleep(CLOSING_LOOK), if closing => {
                    if seat.may_leave(Stage::Waiting) {
                        return;
                    }
                }
            }
        };
        if let Err(error) = ended {
            if let Some(closing) = closing_of(&error) {
                self.metrics.connection_closed(closing);
            }
            tracing::debug!(%error, "a connection ended early");
        }
    }
}

/// Which of the server's limits ended a connection, if one did.
fn closing_of(error: &hyper::Error) -> Option<Closing> {
    if error.is_timeout() {
        return Some(Closing::HeaderTimeout);
    }
    let io = error.source()?.downcast_ref::<std::io::Error>()?;
    io.get_ref()?.is::<Stalled>().then_some(Closing::WriteStalled)
}
