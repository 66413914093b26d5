//! Receiving a request body: what its headers promise, then its bytes, never more than allowed.

use axum::body::Body;
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt;
use tokio::sync::watch;

use crate::problem::{Code, Problem};
use crate::state::draining;

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MediaType {
    /// One JSON value.
    Json,
    /// One JSON value a line.
    Ndjson,
}

impl MediaType {
    /// Its name.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Ndjson => "application/x-ndjson",
        }
    }
}

/// Checks what can be known before a byte of the body is read, and says what it is.
///
/// # Errors
/// 415 for a media type that is not taken or an encoded body, 413 for a length above `limit`.
pub(crate) fn check_headers(headers: &HeaderMap, taken: &[MediaType], limit: usize) -> Result<MediaType, Problem> {
    let media_type = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("unreadable"));
    let essence = media_type.and_then(|value| value.split(';').next()).map(str::trim);
    let named = |own: &&MediaType| essence.is_some_and(|essence| essence.eq_ignore_ascii_case(own.as_str()));
    let Some(own) = taken.iter().find(named) else {
        let names: Vec<_> = taken.iter().map(|own| own.as_str()).collect();
        let given = media_type.unwrap_or("missing");
        let detail = format!("Content-Type must be {}, not {given}", names.join(" or "));
        return Err(Problem::new(Code::UnsupportedMediaType, detail));
    };
    for encoding in headers.get_all(header::CONTENT_ENCODING) {
        if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") {
            let detail = "Content-Encoding must be identity or missing";
            return Err(Problem::new(Code::UnsupportedContentEncoding, detail));
        }
    }
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    match length {
        Some(length) if length > limit as u64 => Err(too_large(limit)),
        _ => Ok(*own),
    }
}

/// Reads the body. Stops when the server starts to drain: what has not arrived by then is new work.
///
/// # Errors
/// 413 when the body turns out longer than `limit`, 400 when it breaks off, 503 when the server drains.
pub(crate) async fn receive(
    mut body: Body,
    limit: usize,
    mut drain: watch::Receiver<bool>,
) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    loop {
        let frame = tokio::select! {
            biased;
            // A closed channel means that the server is gone, which is no reason to go on reading either.
            _ = drain.wait_for(|draining| *draining) => return Err(draining()),
            frame = body.frame() => frame,
        };
        let Some(frame) = frame else { return Ok(bytes) };
        let frame = frame.map_err(|error| {
            let detail = "the connection broke before the body was complete";
            Problem::internal(Code::BodyInterrupted, detail, &error)
        })?;
        if let Some(data) = frame.data_ref() {
            if data.len() > limit - bytes.len() {
                return Err(too_large(limit));
            }
            bytes.extend_from_slice(data);
        }
    }
}

fn too_large(limit: usize) -> Problem {
    Problem::new(Code::BodyTooLarge, format!("the body is longer than {limit} bytes; send fewer sequences at a time"))
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
        assert_eq!(code(&[json.clone(), (header::CONTENT_ENCODING, "gzip")]), Some("unsupported_content_encoding"));
        assert_eq!(code(&[json.clone(), (header::CONTENT_LENGTH, "100")]), None);
        assert_eq!(code(&[json, (header::CONTENT_LENGTH, "101")]), Some("body_too_large"));
    }

    #[tokio::test]
    async fn a_body_of_unknown_length_is_cut_off_at_the_limit() {
        let (_sender, drain) = watch::channel(false);
        assert_eq!(receive(Body::from("x".repeat(100)), 100, drain.clone()).await.unwrap().len(), 100);
        let problem = receive(Body::from("x".repeat(101)), 100, drain).await.unwrap_err();
        assert_eq!(problem.code.as_str(), "body_too_large");
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
        let reading = tokio::spawn(receive(Body::new(Stalled), 100, drain));
        sender.send(true).unwrap();
        assert_eq!(reading.await.unwrap().unwrap_err().code.as_str(), "draining");
    }
}
