//! Answers count as memory until they are written.
//!
//! hyper takes a body's next piece when the one before has gone out. So an answer is given to it in pieces, and what a slow reader has
//! not taken yet stays here, where it is counted.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body::{Body as _, Frame, SizeHint};

use crate::body::{Bodies, Room};

/// Bytes of a piece.
const PIECE: usize = 64 * 1024;

/// Answers up to this are not counted: connections are limited, and each has a buffer of this order anyway.
const SMALL: u64 = PIECE as u64;

/// Counts the answer. What was only looked up is refused where there is no room; what was computed is answered in any case.
pub(crate) async fn hold(State(bodies): State<Bodies>, request: Request, next: Next) -> Response {
    let looked_up = request.method() == Method::GET;
    let response = next.run(request).await;
    let Some(size) = response.body().size_hint().exact().filter(|size| *size > SMALL) else { return response };
    let mut room = bodies.room();
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    if looked_up {
        if let Err(problem) = room.take(size) {
            return problem.into_response();
        }
    } else {
        room.take_anyway(size);
    }
    response.map(|body| Body::new(Held { body, rest: Bytes::new(), room }))
}

/// A body in pieces.
struct Held {
    body: Body,
    /// What was taken of `body` and not given yet.
    rest: Bytes,
    /// Given back when the last piece is taken.
    #[expect(dead_code, reason = "held, not read")]
    room: Room,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                end => return Poll::Ready(end),
            }
        }
        let piece = self.rest.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        let rest = self.rest.len() as u64;
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn an_answer_goes_out_in_pieces_and_is_counted_until_the_last() {
        let bodies = Bodies::for_tests(1 << 20);
        let bytes: Vec<u8> = (0..PIECE * 2 + 7).map(|index| (index % 251) as u8).collect();
        let mut room = bodies.room();
        room.take(bytes.len()).unwrap();
        let mut held = Held { body: Body::from(bytes.clone()), rest: Bytes::new(), room };
        let mut sizes = Vec::new();
        let mut together = Vec::new();
        while let Some(frame) = held.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            together.extend_from_slice(&data);
            sizes.push(data.len());
            assert_eq!(held.size_hint().exact(), Some((bytes.len() - together.len()) as u64));
        }
        assert_eq!((sizes, together), (vec![PIECE, PIECE, 7], bytes));
        assert!(held.is_end_stream() && bodies.held() > 0);
        drop(held);
        assert_eq!(bodies.held(), 0);
    }
}
