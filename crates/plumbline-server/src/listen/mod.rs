//! The server's connections: HTTP/1.1 with limits that hold whatever clients do.
//!
//! A connection has a time for each thing that a client may be slow at (TLS, the head, the body, taking the answer), and there is a
//! limit of connections at which the idlest makes room. So nobody can keep others out by doing nothing.

mod answer;
mod connection;
mod seats;
mod tls;
mod watched;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::watch;

use self::connection::Connection;
use self::seats::Seats;
pub(crate) use self::tls::Tls;
use crate::config::Config;
use crate::metrics::ServiceMetrics;

/// Pause after a connection could not be accepted: out of file descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the server closed a connection, or did not take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    /// It was the idlest when others wanted in.
    Evicted,
    /// All connections were at work.
    Full,
    /// No head came in time.
    HeaderTimeout,
    /// The client took nothing of its answer.
    WriteStalled,
    /// No TLS connection came about.
    TlsFailed,
    /// The system gave no connection.
    AcceptFailed,
}

impl Closing {
    pub(crate) const ALL: [Self; 6] =
        [Self::Evicted, Self::Full, Self::HeaderTimeout, Self::WriteStalled, Self::TlsFailed, Self::AcceptFailed];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Evicted => "evicted",
            Self::Full => "full",
            Self::HeaderTimeout => "header_timeout",
            Self::WriteStalled => "write_stalled",
            Self::TlsFailed => "tls_failed",
            Self::AcceptFailed => "accept_failed",
        }
    }
}

/// Limits of connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionLimits {
    connections: usize,
    header_bytes: usize,
    headers: usize,
    header_timeout: Duration,
    write_stall: Duration,
}

impl ConnectionLimits {
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            connections: config.max_connections,
            header_bytes: config.max_header_bytes,
            headers: config.max_headers,
            header_timeout: Duration::from_secs(config.header_timeout_seconds),
            write_stall: Duration::from_secs(config.write_stall_seconds),
        }
    }
}

/// Accepts connections until `close` resolves; then waits until those at work are done.
pub(crate) async fn listen(
    listener: TcpListener,
    router: Router,
    limits: ConnectionLimits,
    tls: Option<Tls>,
    metrics: ServiceMetrics,
    close: impl Future<Output = ()>,
) {
    let seats = Seats::new(limits.connections, metrics.clone());
    let (closing, closed) = watch::channel(false);
    let connection = Connection { router, limits, tls, metrics: metrics.clone(), closed };
    let connection = Arc::new(connection);
    tokio::pin!(close);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut close => break,
        };
        match accepted {
            Ok((stream, _)) => {
                // Answers are written whole; a platform that cannot do it is only slower.
                let _ = stream.set_nodelay(true);
                match seats.take() {
                    Some(seat) => {
                        tokio::spawn(Arc::clone(&connection).run(stream, seat));
                    }
                    None => metrics.connection_closed(Closing::Full),
                }
            }
            Err(error) if is_the_clients(&error) => {}
            Err(error) => {
                metrics.connection_closed(Closing::AcceptFailed);
                tracing::error!(%error, "cannot accept a connection");
                seats.make_room();
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    // Every connection holds a receiver.
    let _ = closing.send(true);
    seats.emptied().await;
}

/// The client left before it was accepted.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionRefused | ConnectionAborted | ConnectionReset)
}
