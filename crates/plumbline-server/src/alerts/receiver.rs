//! Who is told: receivers as the configuration names them.

use std::collections::BTreeSet;

use reqwest::Url;

/// Longest name of a receiver.
const MAX_NAME: usize = 63;

/// What a receiver understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An Alertmanager: its API v2.
    Alertmanager,
    /// Anything that takes the body of Alertmanager's webhooks.
    Webhook,
}

impl Kind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Alertmanager => "alertmanager",
            Self::Webhook => "webhook",
        }
    }
}

/// A receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Receiver {
    /// What it is called in metrics, logs and the file of secrets.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Where its notifications are posted.
    pub(crate) url: Url,
}

impl Receiver {
    /// Scheme, host and port: the rest of an address may be what keeps it secret.
    pub(crate) fn origin(&self) -> String {
        self.url.origin().ascii_serialization()
    }
}

/// The receivers of `NAME=URL` or `URL`; without a name they are called by their kind, from the second on with a number.
///
/// # Errors
/// The key of the configuration and what is wrong with it, without any credentials.
pub(crate) fn receivers(
    alertmanagers: &[String],
    webhooks: &[String],
) -> Result<Vec<Receiver>, (&'static str, String)> {
    let mut receivers = Vec::new();
    let mut names = BTreeSet::new();
    let groups =
        [("alertmanager_url", Kind::Alertmanager, alertmanagers), ("alert_webhook_url", Kind::Webhook, webhooks)];
    for (key, kind, texts) in groups {
        for (index, text) in texts.iter().enumerate() {
            let receiver = receiver(kind, text, index).map_err(|reason| (key, reason))?;
            if !names.insert(receiver.name.clone()) {
                return Err((key, format!("two receivers are called {:?}", receiver.name)));
            }
            receivers.push(receiver);
        }
    }
    Ok(receivers)
}

fn receiver(kind: Kind, text: &str, index: usize) -> Result<Receiver, String> {
    let has_scheme = |text: &str| text.starts_with("http://") || text.starts_with("https://");
    let (name, url) = match text.split_once('=') {
        Some((name, url)) if !has_scheme(text) => (name.trim().to_owned(), url.trim()),
        _ if index == 0 => (kind.as_str().to_owned(), text.trim()),
        _ => (format!("{}-{}", kind.as_str(), index + 1), text.trim()),
    };
    let named = |char: char| char.is_ascii_alphanumeric() || "-_.".contains(char);
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(named) {
        return Err(format!("a receiver's name has 1 to {MAX_NAME} letters, digits, -, _ and ., not {name:?}"));
    }
    let mut url = address(url).map_err(|reason| format!("the address of {name}: {reason}"))?;
    if kind == Kind::Alertmanager {
        if url.query().is_some() {
            return Err(format!("the address of {name}: it has a query; name only where Alertmanager is"));
        }
        url.set_path(&format!("{}/api/v2/alerts", url.path().trim_end_matches('/')));
    }
    Ok(Receiver { name, kind, url })
}

/// An address with `http` or `https` and without credentials.
///
/// # Errors
/// What is wrong with it; it does not show the address, which may hold a password.
pub(crate) fn address(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    if !["http", "https"].contains(&url.scheme()) {
        return Err("it must begin with http:// or https://".into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it holds credentials; they belong into alert_secret_file".into());
    }
    if url.fragment().is_some() {
        return Err("it has a fragment".into());
    }
    Ok(url)
}

/// A label of `NAME=VALUE`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn parse_label(text: &str) -> Result<(String, String), String> {
    const OWN: [&str; 5] = ["alertname", "severity", "run", "engine", "model_name"];
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=VALUE"))?;
    let good =
        |(index, byte): (usize, u8)| byte == b'_' || byte.is_ascii_alphabetic() || (index > 0 && byte.is_ascii_digit());
    if name.is_empty() || !name.bytes().enumerate().all(good) {
        return Err(format!("{name:?} is no name of a label: letters, digits and _, no digit first"));
    }
    if OWN.contains(&name) {
        return Err(format!("{name} is a label that every alert has"));
    }
    if value.is_empty() {
        return Err(format!("{name} has no value"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn receivers_have_names_and_alertmanagers_their_path() {
        let found = receivers(
            &texts(&["http://am:9093/", "b=https://gate/am"]),
            &texts(&["https://hooks/x?key=a=b", "http://h:1", "pager=http://p/"]),
        );
        let found: Vec<_> = found.unwrap().into_iter().map(|own| (own.name, own.url.to_string())).collect();
        let expected = [
            ("alertmanager", "http://am:9093/api/v2/alerts"),
            ("b", "https://gate/am/api/v2/alerts"),
            ("webhook", "https://hooks/x?key=a=b"),
            ("webhook-2", "http://h:1/"),
            ("pager", "http://p/"),
        ];
        assert_eq!(found, expected.map(|(name, url)| (name.to_owned(), url.to_owned())));
    }

    #[test]
    fn what_cannot_be_used_is_refused_without_showing_a_password() {
        for (bad, part) in [
            ("ftp://h", "http://"),
            ("h:9093", "http://"),
            ("http://me:hunter2@h", "alert_secret_file"),
            ("http://h/#x", "fragment"),
            ("a b=http://h", "name"),
            ("", "address"),
        ] {
            let (key, reason) = receivers(&[], &texts(&[bad])).unwrap_err();
            assert!(key == "alert_webhook_url" && reason.contains(part), "{bad}: {reason}");
            assert!(!reason.contains("hunter2"), "{reason}");
        }
        assert!(receivers(&texts(&["http://h/?x=1"]), &[]).unwrap_err().1.contains("query"));
        assert!(receivers(&texts(&["a=http://h"]), &texts(&["a=http://i"])).unwrap_err().1.contains("two"));
    }

    #[test]
    fn labels_are_checked() {
        assert_eq!(parse_label("cluster=eu=1"), Ok(("cluster".into(), "eu=1".into())));
        for bad in ["cluster", "=x", "1a=x", "a-b=x", "run=x", "a="] {
            assert!(parse_label(bad).is_err(), "{bad}");
        }
    }
}
