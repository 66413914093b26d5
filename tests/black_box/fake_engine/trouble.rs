//! What can go wrong between a client and an engine.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use http_body::Frame;

/// What happens to one request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trouble {
    /// 429 with `Retry-After` in seconds.
    TooMany(u64),
    /// 503 without a word.
    Unavailable,
    /// The connection breaks within the body.
    Broken,
    /// No answer for ten minutes.
    Hang,
    /// 200 with something that is no JSON.
    Nonsense,
}

impl Trouble {
    pub(crate) async fn happen(self) -> Response {
        match self {
            Self::TooMany(seconds) => {
                (StatusCode::TOO_MANY_REQUESTS, [("retry-after", seconds.to_string())], "slow down").into_response()
            }
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE.into_response(),
            Self::Broken => Response::new(Body::new(BrokenBody { sent: false })),
            Self::Hang => {
                tokio::time::sleep(Duration::from_secs(600)).await;
                StatusCode::OK.into_response()
            }
            Self::Nonsense => Response::new(Body::from("<html>gateway</html>")),
        }
    }
}

/// Some bytes, then an error.
struct BrokenBody {
    sent: bool,
}

impl http_body::Body for BrokenBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let first = !std::mem::replace(&mut self.sent, true);
        Poll::Ready(Some(if first {
            Ok(Frame::data(Bytes::from_static(b"{\"choices\":[")))
        } else {
            Err(io::Error::other("planted"))
        }))
    }
}
