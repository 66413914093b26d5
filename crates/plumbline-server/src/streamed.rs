//! Answers that are sent as they are made.

use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use http_body::Frame;
use tokio::sync::mpsc;

/// Bytes of a piece that a [`PieceWriter`] sends.
const PIECE: usize = 64 * 1024;

/// A body whose pieces come through a channel. It ends when the sender is dropped; an error cuts the connection, so that what is
/// not whole is not taken for whole.
pub(crate) fn streamed(pieces: mpsc::Receiver<io::Result<Bytes>>) -> Body {
    Body::new(Streamed { pieces })
}

struct Streamed {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
}

impl http_body::Body for Streamed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.pieces.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

/// Writes into such a body from a thread that may block.
#[derive(Debug)]
pub(crate) struct PieceWriter {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
}

impl PieceWriter {
    pub(crate) fn new(pieces: mpsc::Sender<io::Result<Bytes>>) -> Self {
        Self { pieces, piece: Vec::with_capacity(PIECE) }
    }

    fn send(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        let left = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the client has left");
        self.pieces.blocking_send(Ok(piece.into())).map_err(left)
    }
}

impl Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn what_is_written_arrives_and_an_error_cuts_it_off() {
        let (sender, receiver) = mpsc::channel(1);
        let failing = sender.clone();
        let writing = tokio::task::spawn_blocking(move || {
            let mut writer = PieceWriter::new(sender);
            (0..30_000u32).for_each(|number| writer.write_all(&number.to_le_bytes()).unwrap());
            writer.flush().unwrap();
            failing.blocking_send(Err(io::Error::other("cut"))).unwrap();
        });
        let (mut body, mut bytes) = (streamed(receiver), Vec::new());
        let error = loop {
            match body.frame().await.unwrap() {
                Ok(frame) => bytes.extend_from_slice(frame.data_ref().unwrap()),
                Err(error) => break error,
            }
        };
        writing.await.unwrap();
        assert!(error.to_string().contains("cut"));
        assert_eq!(bytes, (0..30_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_client_that_leaves_ends_the_writing() {
        let (sender, receiver) = mpsc::channel(1);
        drop(streamed(receiver));
        let written = tokio::task::spawn_blocking(move || PieceWriter::new(sender).write_all(&[0; 2 * PIECE]));
        assert_eq!(written.await.unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
