//! Receiving a request body: what its headers promise, then its bytes, never more than allowed, nor for longer.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt;
use tokio::sync::watch;

use super::bodies::{Bodies, Room};
use super::decode::{Coding, DecodeLimits, Decoder};
use crate::problem::{Code, Problem};
use crate::state::{AppState, draining};

/// Media types of bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MediaType {
    /// One JSON value: `application/json`.
    Json,
    /// One JSON value a line: `application/x-ndjson`.
    Ndjson,
}

impl MediaType {
    const fn essence(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Ndjson => "application/x-ndjson",
        }
    }
}

/// Checks what can be known before a byte of the body is read, and says what it is.
///
/// # Errors
/// 415 for a media type that is not among `taken` or an unknown encoding, 413 for a length above `limit`.
pub(crate) fn check_headers(headers: &HeaderMap, taken: &[MediaType], limit: usize) -> Result<MediaType, Problem> {
    let sent = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("unreadable"));
    let essence = sent.and_then(|value| value.split(';').next()).map_or("", str::trim);
    let Some(found) = taken.iter().find(|taken| essence.eq_ignore_ascii_case(taken.essence())) else {
        let names: Vec<_> = taken.iter().map(|taken| taken.essence()).collect();
        let detail = format!("Content-Type must be {}, not {}", names.join(" or "), sent.unwrap_or("missing"));
        return Err(Problem::new(Code::UnsupportedMediaType, detail));
    };
    Coding::of(headers)?;
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    match length {
        Some(length) if length > limit as u64 => Err(too_large(limit)),
        _ => Ok(*found),
    }
}

/// A body as it was meant: complete and decoded.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) bytes: Vec<u8>,
    /// Counts the bytes until it is dropped: keep it until the request is answered.
    pub(crate) room: Room,
}

/// Reads the body and decodes it. Stops when the server starts to drain: what has not arrived by then is new work.
///
/// # Errors
/// 413 when the body turns out longer than `limit` or decodes to too much, 400 when it breaks off or is not in its encoding, 408
/// when it takes too long, 429 when bodies take all the memory they may, 503 when the server drains.
pub(crate) async fn receive(
    state: &AppState,
    headers: &HeaderMap,
    body: Body,
    limit: usize,
) -> Result<Received, Problem> {
    receive_within(&state.bodies, headers, body, limit, state.drain.clone()).await
}

async fn receive_within(
    bodies: &Bodies,
    headers: &HeaderMap,
    mut body: Body,
    limit: usize,
    mut drain: watch::Receiver<bool>,
) -> Result<Received, Problem> {
    let limits = DecodeLimits { bytes: limit, ratio: bodies.ratio() };
    let mut decoder = Decoder::new(Coding::of(headers)?, limits, bodies.room())?;
    let deadline = tokio::time::sleep(bodies.deadline());
    tokio::pin!(deadline);
    loop {
        let frame = tokio::select! {
            biased;
            // A closed channel means that the server is gone, which is no reason to go on reading either.
            _ = drain.wait_for(|draining| *draining) => return Err(draining()),
            frame = body.frame() => frame,
            () = &mut deadline => return Err(too_slow(bodies.deadline())),
        };
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| {
            let detail = "the connection broke before the body was complete";
            Problem::internal(Code::BodyInterrupted, detail, &error)
        })?;
        if let Some(data) = frame.data_ref() {
            decoder.write(data).await?;
        }
    }
    let (bytes, room) = decoder.finish()?;
    Ok(Received { bytes, room })
}

pub(super) fn too_large(limit: usize) -> Problem {
    Problem::new(Code::BodyTooLarge, format!("the body is longer than {limit} bytes; send fewer sequences at a time"))
}

fn too_slow(limit: Duration) -> Problem {
    Problem::new(Code::BodyTimeout, format!("the body did not arrive within {} s", limit.as_secs()))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use axum::body::Bytes;
    use axum::http::HeaderValue;
    use http_body::Frame;

    use super::*;

    fn code(headers: &[(header::HeaderName, &str)]) -> Option<&'static str> {
        let headers: HeaderMap =
            headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect();
        check_headers(&headers, &[MediaType::Json], 100).err().map(|problem| problem.code.as_str())
    }

    #[test]
    fn headers_are_checked_before_the_body() {
        let json = (header::CONTENT_TYPE, "application/json");
        assert_eq!(code(std::slice::from_ref(&json)), None);
        assert_eq!(code(&[(header::CONTENT_TYPE, "Application/JSON; charset=utf-8")]), None);
        assert_eq!(code(&[]), Some("unsupported_media_type"));
        assert_eq!(code(&[(header::CONTENT_TYPE, "text/plain")]), Some("unsupported_media_type"));
        assert_eq!(code(&[json.clone(), (header::CONTENT_ENCODING, "identity")]), None);
        assert_eq!(code(&[json.clone(), (header::CONTENT_ENCODING, "gzip")]), None);
        assert_eq!(code(&[json.clone(), (header::CONTENT_ENCODING, "br")]), Some("unsupported_content_encoding"));
        assert_eq!(code(&[json.clone(), (header::CONTENT_LENGTH, "100")]), None);
        assert_eq!(code(&[json, (header::CONTENT_LENGTH, "101")]), Some("body_too_large"));
    }

    async fn receive(body: Body, drain: watch::Receiver<bool>) -> Result<Received, Problem> {
        receive_within(&Bodies::for_tests(1 << 20), &HeaderMap::new(), body, 100, drain).await
    }

    #[tokio::test]
    async fn a_body_of_unknown_length_is_cut_off_at_the_limit() {
        let (_sender, drain) = watch::channel(false);
        assert_eq!(receive(Body::from("x".repeat(100)), drain.clone()).await.unwrap().bytes.len(), 100);
        let problem = receive(Body::from("x".repeat(101)), drain).await.unwrap_err();
        assert_eq!(problem.code.as_str(), "body_too_large");
    }

    #[tokio::test]
    async fn a_body_that_finds_no_room_is_refused_and_leaves_nothing_behind() {
        let (_sender, drain) = watch::channel(false);
        let bodies = Bodies::for_tests(150);
        let headers = HeaderMap::new();
        let read = || receive_within(&bodies, &headers, Body::from("x".repeat(100)), 100, drain.clone());
        let first = read().await.unwrap();
        let problem = read().await.unwrap_err();
        assert_eq!((problem.code.as_str(), problem.retry_after.is_some()), ("bodies_in_flight", true));
        drop(first);
        assert_eq!(bodies.held(), 0);
        read().await.unwrap();
    }

    /// A client that has stopped sending.
    struct Stalled;

    impl http_body::Body for Stalled {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn a_body_that_is_still_arriving_when_the_server_drains_is_new_work() {
        let (sender, drain) = watch::channel(false);
        let reading = tokio::spawn(receive(Body::new(Stalled), drain));
        sender.send(true).unwrap();
        assert_eq!(reading.await.unwrap().unwrap_err().code.as_str(), "draining");
    }

    #[tokio::test]
    async fn a_body_that_takes_too_long_is_given_up() {
        let (_sender, drain) = watch::channel(false);
        let bodies = Bodies::with_deadline(Duration::from_millis(1));
        let headers = HeaderMap::new();
        let received = receive_within(&bodies, &headers, Body::new(Stalled), 100, drain);
        assert_eq!(received.await.unwrap_err().code.as_str(), "body_timeout");
    }
}
