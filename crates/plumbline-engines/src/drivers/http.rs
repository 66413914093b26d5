//! Requests to an engine: timeouts, attempts with growing pauses, `Retry-After`, a limit on requests under way.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;
use tokio::sync::Semaphore;

use super::error::DriverError;
use super::key::ApiKey;
use super::tls;

/// Most of a server's own words that an error repeats, in characters.
const MESSAGE_CHARACTERS: usize = 600;

/// How patient a driver is.
#[derive(Clone, Debug)]
pub struct HttpPolicy {
    /// Limit for opening a connection.
    pub connect_timeout: Duration,
    /// Limit for one whole request: a long completion takes long.
    pub request_timeout: Duration,
    /// Attempts in all, at least 1. What is tried again: connections that fail or break, timeouts, 429 and 5xx.
    pub attempts: u32,
    /// Pause after the first failure; it doubles with each further one.
    pub first_pause: Duration,
    /// Longest pause, of our own and of a server's `Retry-After`; a server that asks for more is given up.
    pub longest_pause: Duration,
    /// Requests under way at once.
    pub concurrency: usize,
    /// Largest body that is read.
    pub max_body_bytes: usize,
    /// File in PEM with certificate authorities that are trusted beside the system's.
    pub authorities: Option<PathBuf>,
}

impl Default for HttpPolicy {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(1800),
            attempts: 6,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(60),
            concurrency: 16,
            max_body_bytes: 256 << 20,
            authorities: None,
        }
    }
}

/// A server's address and the way to ask it.
#[derive(Debug)]
pub(super) struct Http {
    client: Client,
    /// Without a slash at its end.
    base: String,
    key: Option<ApiKey>,
    policy: HttpPolicy,
    turns: Semaphore,
}

/// Why one attempt failed.
enum Failure {
    /// Another attempt may help; `wait` is what the server asked for.
    Passing { error: DriverError, wait: Option<Duration> },
    /// It would not.
    Final(DriverError),
}

impl Http {
    pub(super) fn new(url: &str, key: Option<ApiKey>, policy: HttpPolicy) -> Result<Self, DriverError> {
        let base = checked_address(url)?;
        let tls = tls::client_config(&base, policy.authorities.as_deref());
        let tls = tls.map_err(|reason| DriverError::Tls { url: base.clone(), reason })?;
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .connect_timeout(policy.connect_timeout)
            .timeout(policy.request_timeout)
            .build()
            .map_err(|error| DriverError::Address { url: base.clone(), reason: chain(&error) })?;
        let turns = Semaphore::new(policy.concurrency.max(1));
        Ok(Self { client, base, key, policy, turns })
    }

    /// The address, which holds no credentials.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// A JSON body posted, the JSON answer.
    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, DriverError> {
        self.repeat(path, || self.request(Method::POST, path).json(body)).await
    }

    /// The JSON answer of a GET.
    pub(super) async fn get(&self, path: &str) -> Result<Value, DriverError> {
        self.repeat(path, || self.request(Method::GET, path)).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base));
        match &self.key {
            Some(key) => request.bearer_auth(key.expose()),
            None => request,
        }
    }

    async fn repeat(&self, path: &str, request: impl Fn() -> RequestBuilder) -> Result<Value, DriverError> {
        let _turn =
            self.turns.acquire().await.map_err(|_closed| self.unreachable("the driver was closed".into(), 0))?;
        let mut pause = self.policy.first_pause;
        let mut attempt = 1;
        loop {
            let (error, wait) = match self.attempt(path, request(), attempt).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing { error, wait }) => (error, wait),
            };
            if attempt >= self.policy.attempts {
                return Err(error);
            }
            if let Some(wait) = wait
                && wait > self.policy.longest_pause
            {
                let (path, limit) = (path.to_owned(), self.policy.longest_pause);
                return Err(DriverError::WaitTooLong { path, status: error.status().unwrap_or(0), wait, limit });
            }
            tracing::debug!(engine = self.base, %error, attempt, "asked again");
            tokio::time::sleep(wait.unwrap_or(pause)).await;
            pause = (pause * 2).min(self.policy.longest_pause);
            attempt += 1;
        }
    }

    async fn attempt(&self, path: &str, request: RequestBuilder, attempts: u32) -> Result<Value, Failure> {
        let broken = |error: &reqwest::Error| {
            let reason = self.hidden(&chain(error));
            if tls::is_distrust(error) {
                return Failure::Final(DriverError::Distrusted { url: self.base.clone(), reason });
            }
            Failure::Passing { error: self.unreachable(reason, attempts), wait: None }
        };
        let mut response = request.send().await.map_err(|error| broken(&error))?;
        let (status, wait) = (response.status(), retry_after(response.headers(), SystemTime::now()));
        let body = match self.read(path, &mut response).await {
            Ok(body) => body?,
            Err(error) => return Err(broken(&error)),
        };
        if !status.is_success() {
            let message = self.hidden(&message(&body));
            let error = DriverError::Refused { path: path.to_owned(), status: status.as_u16(), message, attempts };
            let passing = status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error();
            return Err(if passing { Failure::Passing { error, wait } } else { Failure::Final(error) });
        }
        serde_json::from_slice(&body).map_err(|error| {
            Failure::Final(DriverError::Answer { path: path.to_owned(), reason: format!("no JSON, {error}") })
        })
    }

    /// The body, up to the limit. The outer error is the connection's.
    async fn read(&self, path: &str, response: &mut Response) -> reqwest::Result<Result<Vec<u8>, Failure>> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > self.policy.max_body_bytes {
                let reason = format!("a body of more than {} bytes", self.policy.max_body_bytes);
                return Ok(Err(Failure::Final(DriverError::Answer { path: path.to_owned(), reason })));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Ok(body))
    }

    fn unreachable(&self, reason: String, attempts: u32) -> DriverError {
        DriverError::Unreachable { url: self.base.clone(), reason, attempts }
    }

    fn hidden(&self, text: &str) -> String {
        self.key.as_ref().map_or_else(|| text.to_owned(), |key| key.hide_in(text))
    }
}

/// An `http` or `https` address without credentials, query or fragment; a path is allowed (a gateway's prefix).
fn checked_address(url: &str) -> Result<String, DriverError> {
    // The address itself may hold a password: what comes before an `@` is not repeated.
    let shown = match url.rsplit_once('@') {
        Some((_, host)) => format!("***@{host}"),
        None => url.to_owned(),
    };
    let refuse = |reason: &str| DriverError::Address { url: shown.clone(), reason: reason.to_owned() };
    let parsed = reqwest::Url::parse(url).map_err(|error| refuse(&error.to_string()))?;
    if !["http", "https"].contains(&parsed.scheme()) {
        return Err(refuse("it must begin with http:// or https://"));
    }
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(refuse("it holds credentials; give an API key by file or environment variable"));
    }
    if parsed.query().is_some() || parsed.fragment().is_some() {
        return Err(refuse("it has a query or a fragment"));
    }
    Ok(parsed.as_str().trim_end_matches('/').to_owned())
}

/// Seconds or a date, as RFC 9110 has it; a date in the past is no wait.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Some(httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default()),
    }
}

/// What a server said about an error: its message where the body is one of the usual shapes, else the body.
fn message(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let parsed: Value = serde_json::from_str(&text).unwrap_or_default();
    let fields = ["/error/message", "/message", "/detail", "/error"];
    let said = fields.iter().find_map(|field| parsed.pointer(field)).map(|value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    });
    let said = said.unwrap_or_else(|| text.trim().to_owned());
    match said.char_indices().nth(MESSAGE_CHARACTERS) {
        Some((end, _)) => format!("{}... (shortened)", &said[..end]),
        None if said.is_empty() => "(an empty body)".into(),
        None => said,
    }
}

/// An error with all its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    fn headers(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))])
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        assert_eq!(retry_after(&headers("7"), now), Some(Duration::from_secs(7)));
        assert_eq!(retry_after(&headers("Thu, 01 Jan 1970 00:17:00 GMT"), now), Some(Duration::from_secs(20)));
        assert_eq!(retry_after(&headers("Thu, 01 Jan 1970 00:00:00 GMT"), now), Some(Duration::ZERO));
        assert_eq!(retry_after(&headers("soon"), now), None);
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn addresses_are_checked_and_never_show_a_password() {
        assert_eq!(checked_address("http://127.0.0.1:8000/").unwrap(), "http://127.0.0.1:8000");
        assert_eq!(checked_address("http://gate/a/").unwrap(), "http://gate/a");
        assert_eq!(checked_address("https://gate").unwrap(), "https://gate");
        for bad in ["127.0.0.1:8000", "http://h/?key=1", "ftp://h"] {
            assert!(matches!(checked_address(bad), Err(DriverError::Address { .. })), "{bad}");
        }
        let error = checked_address("http://me:hunter2@host").unwrap_err().to_string();
        assert!(!error.contains("hunter2") && error.contains("credentials"), "{error}");
    }

    #[test]
    fn a_servers_words_are_found_and_shortened() {
        assert_eq!(message(br#"{"error":{"message":"too long","code":400}}"#), "too long");
        assert_eq!(message(br#"{"object":"error","message":"no"}"#), "no");
        assert_eq!(message(br#"{"detail":[{"loc":["body"]}]}"#), r#"[{"loc":["body"]}]"#);
        assert_eq!(message(b"plain"), "plain");
        assert_eq!(message(b""), "(an empty body)");
        let long = message("ü".repeat(2000).as_bytes());
        assert!(long.ends_with("(shortened)") && long.chars().count() < 700);
    }
}
