//! Good streams, cut ones, and bombs.

use axum::http::HeaderValue;
use proptest::prelude::*;

use super::*;
use crate::body::bodies::Bodies;

const LIMITS: DecodeLimits = DecodeLimits { bytes: 32 << 20, ratio: 100 };

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 19).unwrap()
}

/// Decodes in pieces of a size.
async fn decode(coding: Coding, limits: DecodeLimits, data: &[u8], piece: usize) -> Result<Vec<u8>, Problem> {
    let bodies = Bodies::for_tests(1 << 30);
    let mut decoder = Decoder::new(coding, limits, bodies.room())?;
    for piece in data.chunks(piece) {
        decoder.write(piece).await?;
    }
    let (bytes, room) = decoder.finish()?;
    assert!(room.held() >= bytes.len(), "{} of {}", room.held(), bytes.len());
    Ok(bytes)
}

async fn code(coding: Coding, limits: DecodeLimits, data: &[u8]) -> &'static str {
    decode(coding, limits, data, 1000).await.unwrap_err().code.as_str()
}

#[tokio::test]
async fn bombs_end_at_the_ratio_or_at_the_limit() {
    let zeros = vec![b' '; 64 << 20];
    for (coding, bomb) in [(Coding::Gzip, gzip(&zeros)), (Coding::Zstd, zstd(&zeros))] {
        assert!(bomb.len() < zeros.len() / 900);
        assert_eq!(code(coding, LIMITS, &bomb).await, "compression_ratio");
        let tolerant = DecodeLimits { ratio: 1 << 20, ..LIMITS };
        assert_eq!(code(coding, tolerant, &bomb).await, "body_too_large");
        // What a bomb may grow to before it is stopped.
        let bodies = Bodies::for_tests(1 << 30);
        let mut decoder = Decoder::new(coding, LIMITS, bodies.room()).unwrap();
        decoder.write(&bomb).await.unwrap_err();
        let held = decoder.sink().room.held();
        assert!(held <= bomb.len() * LIMITS.ratio + RATIO_GRACE, "{held}");
        drop(decoder);
        assert_eq!(bodies.held(), 0);
    }
}

#[tokio::test]
async fn a_short_text_may_repeat_itself() {
    let text = vec![b'1'; RATIO_GRACE];
    assert_eq!(decode(Coding::Zstd, LIMITS, &zstd(&text), 7).await.unwrap(), text);
}

#[tokio::test]
async fn what_is_cut_or_damaged_is_no_body() {
    let text = b"{\"run\":\"r\"}".repeat(100);
    for (coding, data) in [(Coding::Gzip, gzip(&text)), (Coding::Zstd, zstd(&text))] {
        assert_eq!(decode(coding, LIMITS, &data, 3).await.unwrap(), text);
        assert_eq!(decode(coding, LIMITS, &data.repeat(2), 3).await.unwrap(), text.repeat(2), "one behind the other");
        assert_eq!(code(coding, LIMITS, &[]).await, "malformed_encoding");
        assert_eq!(code(coding, LIMITS, &data[..data.len() - 1]).await, "malformed_encoding");
        assert_eq!(code(coding, LIMITS, &data[..5]).await, "malformed_encoding");
        assert_eq!(code(coding, LIMITS, &text).await, "malformed_encoding", "not encoded at all");
        assert_eq!(code(coding, LIMITS, &[&data[..], b"more"].concat()).await, "malformed_encoding");
    }
}

#[tokio::test]
async fn a_zstd_stream_may_not_ask_for_a_large_window() {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    encoder.window_log(27).unwrap();
    encoder.include_contentsize(false).unwrap();
    encoder.write_all(b"text").unwrap();
    encoder.flush().unwrap();
    encoder.write_all(&[b'x'; 1 << 17]).unwrap();
    let wide = encoder.finish().unwrap();
    assert_eq!(code(Coding::Zstd, LIMITS, &wide).await, "malformed_encoding");
}

#[test]
fn one_known_encoding_is_taken() {
    let of = |values: &[&'static str]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::CONTENT_ENCODING, HeaderValue::from_static(value));
        }
        Coding::of(&headers).ok()
    };
    assert_eq!(of(&[]), Some(Coding::Identity));
    assert_eq!(of(&["Identity"]), Some(Coding::Identity));
    assert_eq!(of(&["GZIP"]), Some(Coding::Gzip));
    assert_eq!(of(&["zstd"]), Some(Coding::Zstd));
    for bad in [&["br"][..], &["gzip, gzip"], &["gzip", "zstd"], &[""], &["deflate"]] {
        assert_eq!(of(bad), None, "{bad:?}");
    }
}

proptest! {
    /// Whatever arrives in whatever pieces: the bytes, or a refusal.
    #[test]
    fn encoded_bytes_come_back(text in prop::collection::vec(any::<u8>(), 0..3000), piece in 1usize..400) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for (coding, data) in [(Coding::Identity, text.clone()), (Coding::Gzip, gzip(&text)), (Coding::Zstd, zstd(&text))] {
            prop_assert_eq!(&runtime.block_on(decode(coding, LIMITS, &data, piece)).unwrap(), &text);
        }
    }

    #[test]
    fn noise_is_refused_and_never_panics(noise in prop::collection::vec(any::<u8>(), 1..400), at in 0usize..40, piece in 1usize..50) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for (coding, start) in [(Coding::Gzip, gzip(b"abcdefgh")), (Coding::Zstd, zstd(b"abcdefgh"))] {
            let data = [&start[..at.min(start.len() - 1)], &noise].concat();
            // A few of them are streams by chance; then something comes out.
            if let Err(problem) = runtime.block_on(decode(coding, LIMITS, &data, piece)) {
                prop_assert!(["malformed_encoding", "compression_ratio"].contains(&problem.code.as_str()));
            }
        }
    }
}
