//! One file of the binary and how it is answered: an ETag of its content, and gzip for those who take it.

use std::io::Write;
use std::sync::OnceLock;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use flate2::Compression;
use flate2::write::GzEncoder;
use ring::digest::{SHA256, digest};

/// What a file is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Html,
    Css,
    JavaScript,
    Svg,
}

impl Kind {
    const fn content_type(self) -> &'static str {
        match self {
            Self::Html => "text/html; charset=utf-8",
            Self::Css => "text/css; charset=utf-8",
            Self::JavaScript => "text/javascript; charset=utf-8",
            Self::Svg => "image/svg+xml",
        }
    }
}

/// One file.
#[derive(Debug)]
pub(super) struct Asset {
    pub(super) path: String,
    pub(super) text: &'static str,
    kind: Kind,
    /// Digest of its content.
    tag: String,
    /// Compressed when it is first asked for; `None` if that failed.
    gzip: OnceLock<Option<Bytes>>,
}

impl Asset {
    pub(super) fn new(path: impl Into<String>, kind: Kind, text: &'static str) -> Self {
        let digest = digest(&SHA256, text.as_bytes());
        let tag = digest.as_ref().iter().take(12).map(|byte| format!("{byte:02x}")).collect();
        Self { path: path.into(), text, kind, tag, gzip: OnceLock::new() }
    }

    /// 200 with the file, or 304 where the client has it. It may be kept, and is asked for again each time: after an upgrade nobody
    /// has old parts.
    pub(super) async fn answer(&'static self, headers: &HeaderMap) -> Response {
        let gzip = if takes_gzip(headers) { self.gzip().await } else { None };
        let tag = format!("\"{}{}\"", self.tag, if gzip.is_some() { "-gzip" } else { "" });
        let known = headers.get(header::IF_NONE_MATCH).is_some_and(|tags| names(tags, &tag));
        let body = match (known, &gzip) {
            (true, _) => Body::empty(),
            (false, Some(bytes)) => Body::from(bytes.clone()),
            (false, None) => Body::from(self.text),
        };
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            headers.insert(header::ETAG, tag);
        }
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        if known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return response;
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.kind.content_type()));
        if gzip.is_some() {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }

    /// The file compressed, off the async workers the first time.
    async fn gzip(&'static self) -> Option<Bytes> {
        if let Some(done) = self.gzip.get() {
            return done.clone();
        }
        tokio::task::spawn_blocking(|| self.gzip.get_or_init(|| self.compressed()).clone()).await.unwrap_or_default()
    }

    fn compressed(&self) -> Option<Bytes> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        let written = encoder.write_all(self.text.as_bytes()).and_then(|()| encoder.finish());
        // Memory cannot fail to be written to; if it did, the file would go out as it is.
        written
            .inspect_err(|error| tracing::error!(path = self.path, %error, "a file cannot be compressed"))
            .ok()
            .map(Bytes::from)
    }
}

/// Whether `Accept-Encoding` has gzip with a weight above 0.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, "q=1"));
        let weight = weight.trim().strip_prefix("q=").and_then(|weight| weight.parse().ok()).unwrap_or(1.0);
        name.trim().eq_ignore_ascii_case("gzip") && weight > 0.0
    })
}

/// Whether a list of tags has this one, or all. Proxies that compress make tags weak.
fn names(tags: &HeaderValue, tag: &str) -> bool {
    let tags = tags.to_str().unwrap_or_default();
    tags.split(',').map(str::trim).any(|one| one == "*" || one.trim_start_matches("W/") == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn gzip_is_for_those_who_take_it() {
        for (value, takes) in [
            ("gzip", true),
            ("br, GZIP;q=0.5", true),
            ("gzip;q=0", false),
            ("deflate", false),
            ("gzip; q=0.0, br", false),
        ] {
            assert_eq!(takes_gzip(&headers(header::ACCEPT_ENCODING, value)), takes, "{value}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }

    #[test]
    fn tags_are_found_in_lists() {
        for (tags, found) in [("\"a\"", true), ("\"b\", W/\"a\"", true), ("*", true), ("\"ab\"", false), ("", false)] {
            assert_eq!(names(&HeaderValue::from_str(tags).unwrap(), "\"a\""), found, "{tags}");
        }
    }
}
