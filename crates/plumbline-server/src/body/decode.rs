//! Content encodings of request bodies, decoded as they arrive.
//!
//! A small body can stand for an enormous one. So what comes out is limited in bytes and by its ratio to what went in, and a decoder
//! never holds more than its window besides.

use std::io::{self, Write};

use axum::http::{HeaderMap, header};
use flate2::write::MultiGzDecoder;
use zstd::stream::raw::DParameter;

use super::bodies::Room;
use crate::problem::{Code, Problem};

/// The encodings that are taken, as `Accept-Encoding` has them.
pub(crate) const ACCEPTED: &str = "gzip, zstd";

/// Decoded bytes up to which the ratio does not count: short texts that repeat themselves are no bombs.
const RATIO_GRACE: usize = 1 << 20;

/// log2 of the window that a zstd stream may ask for: what RFC 9659 allows in HTTP, 8 MiB.
const ZSTD_WINDOW_LOG: u32 = 23;

/// Encoded bytes that are decoded at a time, so that a full frame of a bomb does not keep other requests waiting.
const SLICE: usize = 16 << 10;

/// How a body is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Identity,
    Gzip,
    Zstd,
}

impl Coding {
    /// # Errors
    /// 415 for an encoding that is unknown, or several.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
        let (first, second) = (values.next(), values.next());
        let name = first.map_or("identity", |value| value.to_str().unwrap_or("unreadable"));
        let named = |known: &str| name.trim().eq_ignore_ascii_case(known);
        match second {
            None if named("identity") => Ok(Self::Identity),
            None if named("gzip") || named("x-gzip") => Ok(Self::Gzip),
            None if named("zstd") => Ok(Self::Zstd),
            _ => {
                let detail = "Content-Encoding must be one of gzip, zstd and identity, or missing";
                Err(Problem::new(Code::UnsupportedContentEncoding, detail))
            }
        }
    }
}

/// Limits of what is decoded.
#[derive(Clone, Copy, Debug)]
pub(super) struct DecodeLimits {
    /// Decoded bytes.
    pub(super) bytes: usize,
    /// Decoded bytes for each encoded one.
    pub(super) ratio: usize,
}

/// A body that is being decoded.
pub(super) struct Decoder {
    stream: Stream,
    limits: DecodeLimits,
    encoded: usize,
}

enum Stream {
    Identity(Sink),
    Gzip(Box<MultiGzDecoder<Sink>>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Sink>>),
}

impl Decoder {
    /// The bytes that come out are counted in `room`.
    ///
    /// # Errors
    /// 500 if a decoder cannot be set up: out of memory.
    pub(super) fn new(coding: Coding, limits: DecodeLimits, room: Room) -> Result<Self, Problem> {
        let sink = Sink { bytes: Vec::new(), room, most: limits.bytes, stopped: None };
        let stream = match coding {
            Coding::Identity => Stream::Identity(sink),
            Coding::Gzip => Stream::Gzip(Box::new(MultiGzDecoder::new(sink))),
            Coding::Zstd => Stream::Zstd(Box::new(zstd_decoder(sink).map_err(|error| {
                Problem::internal(Code::Internal, "the body cannot be decoded; see the server's log", &error)
            })?)),
        };
        Ok(Self { stream, limits, encoded: 0 })
    }

    /// Decodes the next bytes, and lets other tasks run in between.
    pub(super) async fn write(&mut self, data: &[u8]) -> Result<(), Problem> {
        for (index, slice) in data.chunks(SLICE).enumerate() {
            if index > 0 {
                tokio::task::consume_budget().await;
            }
            self.encoded += slice.len();
            let by_ratio = self.encoded.saturating_mul(self.limits.ratio).max(RATIO_GRACE);
            let decoding = !matches!(self.stream, Stream::Identity(_));
            let most = if decoding { self.limits.bytes.min(by_ratio) } else { self.limits.bytes };
            self.sink().most = most;
            let written = match &mut self.stream {
                Stream::Identity(sink) => sink.write_all(slice),
                Stream::Gzip(decoder) => decoder.write_all(slice),
                Stream::Zstd(decoder) => decoder.write_all(slice),
            };
            written.map_err(|error| self.refusal(&error))?;
        }
        Ok(())
    }

    /// The decoded body and its room.
    ///
    /// # Errors
    /// 400 for a body that ends before its encoding does.
    pub(super) fn finish(mut self) -> Result<(Vec<u8>, Room), Problem> {
        let finished = match &mut self.stream {
            Stream::Identity(_) => Ok(()),
            // No byte at all is no stream, which the decoder would wait for.
            Stream::Gzip(_) | Stream::Zstd(_) if self.encoded == 0 => Err(io::ErrorKind::UnexpectedEof.into()),
            Stream::Gzip(decoder) => decoder.try_finish(),
            Stream::Zstd(decoder) => decoder.do_finish(),
        };
        finished.map_err(|error| self.refusal(&error))?;
        let sink = match self.stream {
            Stream::Identity(sink) => sink,
            Stream::Gzip(decoder) => decoder.finish().map_err(|error| malformed(&error))?,
            Stream::Zstd(decoder) => decoder.into_inner(),
        };
        Ok((sink.bytes, sink.room))
    }

    fn sink(&mut self) -> &mut Sink {
        match &mut self.stream {
            Stream::Identity(sink) => sink,
            Stream::Gzip(decoder) => decoder.get_mut(),
            Stream::Zstd(decoder) => decoder.get_mut(),
        }
    }

    /// Why decoding stopped: the sink's reason, else the decoder's.
    fn refusal(&mut self, error: &io::Error) -> Problem {
        let (limits, encoded) = (self.limits, self.encoded);
        match self.sink().stopped.take() {
            Some(Stopped::NoRoom(problem)) => *problem,
            Some(Stopped::TooLong) if self.sink().most < limits.bytes => {
                let detail = format!(
                    "{encoded} bytes decode to more than {} times as many; send it less compressed",
                    limits.ratio
                );
                Problem::new(Code::CompressionRatio, detail)
            }
            Some(Stopped::TooLong) => super::receive::too_large(limits.bytes),
            None => malformed(error),
        }
    }
}

fn zstd_decoder(sink: Sink) -> io::Result<zstd::stream::write::Decoder<'static, Sink>> {
    let mut raw = zstd::stream::raw::Decoder::new()?;
    raw.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG))?;
    Ok(zstd::stream::write::Decoder::with_decoder(sink, raw))
}

fn malformed(error: &io::Error) -> Problem {
    Problem::new(Code::MalformedEncoding, format!("the body does not decode as its Content-Encoding says: {error}"))
}

/// Where decoded bytes go: never more than allowed, nor than there is room for.
struct Sink {
    bytes: Vec<u8>,
    room: Room,
    most: usize,
    stopped: Option<Stopped>,
}

enum Stopped {
    TooLong,
    NoRoom(Box<Problem>),
}

impl Write for Sink {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if data.len() > self.most.saturating_sub(self.bytes.len()) {
            self.stopped = Some(Stopped::TooLong);
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let wanted = self.bytes.len() + data.len();
        if wanted > self.bytes.capacity() {
            // As a vector grows by itself, but counted before it is taken.
            let grown = wanted.max(self.bytes.capacity() * 2).max(SLICE).min(self.most.max(wanted));
            if let Err(problem) = self.room.take(grown - self.bytes.capacity()) {
                self.stopped = Some(Stopped::NoRoom(Box::new(problem)));
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            self.bytes.reserve_exact(grown - self.bytes.len());
        }
        self.bytes.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "decode/tests.rs"]
mod tests;
