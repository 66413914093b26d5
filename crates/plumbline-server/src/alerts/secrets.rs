//! What a notification is sent with: signatures and credentials. Nothing of it ever shows.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use ring::hmac;

use super::receiver::{Kind, Receiver};

/// Of the "Standard Webhooks" specification, for which there are libraries in many languages.
const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// Before a secret that is written in base64.
const BASE64: &str = "whsec_";
/// Bytes of a secret to sign with at least: what is shorter can be guessed.
const MIN_SECRET: usize = 16;
/// Instead of a receiver's name: all of them.
const ALL: &str = "*";

/// Secrets of receivers; they may be exchanged while they are used.
#[derive(Clone, Default)]
pub(crate) struct Secrets(Arc<RwLock<Vec<Entry>>>);

#[derive(Clone)]
struct Entry {
    receiver: String,
    secret: Secret,
}

#[derive(Clone)]
enum Secret {
    Sign(hmac::Key),
    /// The value of the header `authorization`.
    Authorization(HeaderValue),
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(***)")
    }
}

impl Secrets {
    /// Takes lines of `RECEIVER KIND SECRET` into use, in place of what was.
    ///
    /// # Errors
    /// The number of the line and what is wrong with it; never what it holds beyond the receiver's name.
    pub(crate) fn replace(&self, lines: &str, receivers: &[Receiver]) -> Result<(), String> {
        let numbered = lines.lines().map(str::trim).zip(1..);
        let wanted = numbered.filter(|(line, _)| !line.is_empty() && !line.starts_with('#'));
        let read =
            |(line, number): (&str, usize)| entry(line, receivers).map_err(|reason| format!("line {number}: {reason}"));
        let entries = wanted.map(read).collect::<Result<Vec<_>, _>>()?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = entries;
        Ok(())
    }

    /// Headers of a notification. A signature is made with each secret there is for the receiver, so that one can be exchanged for
    /// another.
    pub(super) fn headers(&self, receiver: &Receiver, id: &str, seconds: u64, body: &[u8]) -> HeaderMap {
        let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let own = entries.iter().filter(|entry| [ALL, receiver.name.as_str()].contains(&entry.receiver.as_str()));
        let mut headers = HeaderMap::new();
        let mut signatures = Vec::new();
        for Entry { secret, .. } in own {
            match secret {
                Secret::Authorization(value) => {
                    headers.insert(AUTHORIZATION, value.clone());
                }
                Secret::Sign(key) => signatures.push(signature(key, id, seconds, body)),
            }
        }
        if receiver.kind == Kind::Webhook {
            // Ids are made here, of letters, digits and hyphens.
            headers.extend(HeaderValue::from_str(id).ok().map(|value| (ID, value)));
            headers.insert(TIMESTAMP, HeaderValue::from(seconds));
            if !signatures.is_empty() {
                headers.extend(HeaderValue::from_str(&signatures.join(" ")).ok().map(|value| (SIGNATURE, value)));
            }
        }
        headers
    }
}

/// `v1,` and the HMAC-SHA256 of `id.timestamp.body` in base64.
fn signature(key: &hmac::Key, id: &str, seconds: u64, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(key);
    context.update(format!("{id}.{seconds}.").as_bytes());
    context.update(body);
    format!("v1,{}", STANDARD.encode(context.sign()))
}

fn entry(line: &str, receivers: &[Receiver]) -> Result<Entry, String> {
    const FORM: &str = "must be RECEIVER hmac|bearer|basic SECRET";
    let mut words = line.splitn(3, char::is_whitespace).map(str::trim);
    let (Some(receiver), Some(kind), Some(secret)) = (words.next(), words.next(), words.next()) else {
        return Err(FORM.into());
    };
    let named = receivers.iter().find(|own| own.name == receiver);
    if receiver != ALL && named.is_none() {
        return Err(format!("there is no receiver {receiver:?}"));
    }
    let secret = match kind {
        "hmac" if named.is_some_and(|own| own.kind == Kind::Alertmanager) => {
            return Err(format!("{receiver} is an Alertmanager, which checks no signatures; use bearer or basic"));
        }
        "hmac" => Secret::Sign(signing_key(secret)?),
        "bearer" => authorization(&format!("Bearer {secret}"))?,
        "basic" if secret.contains(':') => authorization(&format!("Basic {}", STANDARD.encode(secret)))?,
        "basic" => return Err("after basic comes USER:PASSWORD".into()),
        _ => return Err(FORM.into()),
    };
    Ok(Entry { receiver: receiver.to_owned(), secret })
}

fn signing_key(secret: &str) -> Result<hmac::Key, String> {
    let bytes = match secret.strip_prefix(BASE64) {
        Some(text) => STANDARD.decode(text).map_err(|_shows_it| format!("after {BASE64} comes base64"))?,
        None => secret.as_bytes().to_vec(),
    };
    if bytes.len() < MIN_SECRET {
        return Err(format!("a secret to sign with has at least {MIN_SECRET} bytes"));
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

fn authorization(text: &str) -> Result<Secret, String> {
    let mut value =
        HeaderValue::from_str(text).map_err(|_shows_it| "it has characters that a header cannot carry".to_owned())?;
    value.set_sensitive(true);
    Ok(Secret::Authorization(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alerts::receivers;

    fn both() -> Vec<Receiver> {
        receivers(&["am=http://am".into()], &["ops=http://h".into()]).unwrap()
    }

    #[test]
    fn signatures_are_those_of_standard_webhooks() {
        let (secrets, receivers) = (Secrets::default(), both());
        // The example of the specification's own libraries.
        secrets.replace("ops hmac whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", &receivers).unwrap();
        let headers =
            secrets.headers(&receivers[1], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(headers["webhook-signature"], "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_eq!(headers["webhook-id"], "msg_p5jXN8AQM9LWM0D4loKWxJek");
        assert_eq!(headers["webhook-timestamp"], "1614265330");
    }

    #[test]
    fn secrets_are_for_their_receivers_and_two_sign_while_they_are_exchanged() {
        let (secrets, receivers) = (Secrets::default(), both());
        let lines =
            "# of people\nops hmac 0123456789abcdef\n\n* hmac fedcba9876543210\nam basic me:pass word\nops bearer t";
        secrets.replace(lines, &receivers).unwrap();
        let of = |index: usize| secrets.headers(&receivers[index], "id", 1, b"{}");
        assert_eq!(of(1)["webhook-signature"].to_str().unwrap().split(' ').count(), 2);
        assert_eq!(of(1)["authorization"], "Bearer t");
        assert_eq!(of(0)["authorization"], "Basic bWU6cGFzcyB3b3Jk");
        assert!(of(0).get("webhook-signature").is_none() && of(0)["authorization"].is_sensitive());
        assert_eq!(format!("{secrets:?}"), "Secrets(***)");
    }

    #[test]
    fn bad_lines_are_named_by_number_and_change_nothing() {
        let (secrets, receivers) = (Secrets::default(), both());
        secrets.replace("ops bearer hunter22", &receivers).unwrap();
        for (bad, part) in [
            ("\nnobody hmac 0123456789abcdef", "line 2: there is no receiver"),
            ("ops hmac hunter2", "at least 16 bytes"),
            ("ops hmac whsec_%", "base64"),
            ("am hmac 0123456789abcdef", "Alertmanager"),
            ("ops basic hunter2", "USER:PASSWORD"),
            ("ops sign hunter2", "hmac|bearer|basic"),
            ("ops", "hmac|bearer|basic"),
            ("ops bearer \u{1}hunter2", "characters"),
        ] {
            let reason = secrets.replace(bad, &receivers).unwrap_err();
            assert!(reason.contains(part) && !reason.contains("hunter2"), "{bad:?}: {reason}");
        }
        assert_eq!(secrets.headers(&receivers[1], "id", 1, b"")["authorization"], "Bearer hunter22");
    }
}
