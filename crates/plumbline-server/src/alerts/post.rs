//! Posting to one receiver, once.

use std::error::Error;
use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Response};

use super::alert::{Alert, Moment};
use super::body;
use super::receiver::Receiver;
use super::secrets::Secrets;

/// Bytes of an answer that are read; the rest is not waited for.
const MAX_ANSWER: usize = 64 * 1024;
/// Characters of an answer that a reason repeats.
const SHOWN_ANSWER: usize = 200;

/// How a try ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Delivered,
    /// It is worth another try, for which the receiver may have said when.
    Failed {
        reason: String,
        retry_after: Option<Duration>,
    },
    /// The receiver will never want it.
    Refused {
        reason: String,
    },
}

/// The way to one receiver.
#[derive(Clone, Debug)]
pub(crate) struct Post {
    pub(crate) receiver: Receiver,
    client: Client,
    secrets: Secrets,
    external_url: String,
}

impl Post {
    /// # Errors
    /// The authorities cannot be used.
    pub(crate) fn new(
        receiver: Receiver,
        authorities: Option<&Path>,
        timeout: Duration,
        secrets: Secrets,
        external_url: String,
    ) -> Result<Self, String> {
        let tls = plumbline_engines::drivers::client_config(receiver.url.as_str(), authorities)?;
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            // What is signed for one address is not for another.
            .redirect(Policy::none())
            .connect_timeout(timeout)
            .timeout(timeout)
            .user_agent(concat!("plumbline/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| chain(&error))?;
        Ok(Self { receiver, client, secrets, external_url })
    }

    /// Tells a webhook.
    pub(crate) async fn webhook(&self, id: &str, alert: &Alert, now: Moment) -> Outcome {
        match body::webhook(&self.receiver, alert, &self.external_url) {
            Ok(body) => self.send(id, body, now).await,
            Err(error) => Outcome::Refused { reason: format!("it cannot be written: {error}") },
        }
    }

    /// Shows alerts to an Alertmanager.
    pub(crate) async fn alertmanager(&self, alerts: &[(Alert, Moment)], now: Moment) -> Outcome {
        match body::alertmanager(alerts) {
            Ok(body) => self.send("", body, now).await,
            Err(error) => Outcome::Refused { reason: format!("they cannot be written: {error}") },
        }
    }

    async fn send(&self, id: &str, body: Vec<u8>, now: Moment) -> Outcome {
        let headers = self.secrets.headers(&self.receiver, id, now.seconds(), &body);
        let request = self.client.post(self.receiver.url.clone()).headers(headers);
        let sent = request.header(CONTENT_TYPE, "application/json").body(body).send().await;
        match sent {
            Ok(response) => outcome(response).await,
            Err(error) => Outcome::Failed { reason: chain(&error.without_url()), retry_after: None },
        }
    }
}

async fn outcome(mut response: Response) -> Outcome {
    let status = response.status();
    let retry_after = retry_after(response.headers());
    // What it says is read before it is judged, so that the connection can be used again.
    let answer = read(&mut response).await;
    if status.is_success() {
        return Outcome::Delivered;
    }
    let reason = match shown(&answer) {
        said if said.is_empty() => format!("status {status}"),
        said => format!("status {status}: {said}"),
    };
    match status.as_u16() {
        // Who is configured wrongly (401, 403, 404, 407) may be put right; the others may pass.
        401 | 403 | 404 | 405 | 407 | 408 | 409 | 421 | 423 | 425 | 429 => Outcome::Failed { reason, retry_after },
        400..500 => Outcome::Refused { reason },
        _ => Outcome::Failed { reason, retry_after },
    }
}

/// The beginning of an answer. What breaks off is as long as it is: only the status counts.
async fn read(response: &mut Response) -> Vec<u8> {
    let mut answer = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        let room = MAX_ANSWER - answer.len();
        answer.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if answer.len() == MAX_ANSWER {
            break;
        }
    }
    answer
}

fn shown(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    text.trim().chars().take(SHOWN_ANSWER).flat_map(char::escape_debug).collect()
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).ok(),
    }
}

/// An error with its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            // Writing to a string does not fail.
            let _ = write!(text, ": {said}");
        }
        source = cause.source();
    }
    text
}
