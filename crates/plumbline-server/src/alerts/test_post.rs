//! `plumbline alerts test`: a test alert for each receiver.

use std::time::{Duration, SystemTime};

use super::alert::{Alert, AlertName, Moment};
use super::post::Outcome;
use super::receiver::{Kind, parse_label, receivers};
use super::secrets::Secrets;
use super::signals::{Sign, Signal};
use super::telling::post;
use super::texts;
use crate::config::Config;
use crate::credentials::alert_secrets;
use crate::serve::ServerError;

/// How long the test alert fires in an Alertmanager: long enough to be passed on.
const FIRES: Duration = Duration::from_secs(5 * 60);

/// How the test of a receiver ended.
#[derive(Clone, Debug)]
pub struct TestedReceiver {
    /// Its name.
    pub name: String,
    /// `alertmanager` or `webhook`.
    pub kind: &'static str,
    /// Scheme, host and port.
    pub origin: String,
    /// What it said no to, if it did.
    pub outcome: Result<(), String>,
}

/// Posts a test alert to each receiver of the configuration, or to the one of this name: to a webhook its beginning and its end, to an
/// Alertmanager one that is over by itself after five minutes. Each is tried once.
///
/// # Errors
/// Secrets or authorities cannot be used; there is no receiver, or none of this name.
pub async fn test_receivers(config: &Config, only: Option<&str>) -> Result<Vec<TestedReceiver>, ServerError> {
    let bad = |(key, reason): (&'static str, String)| ServerError::Alerts { key, reason };
    let all = receivers(&config.alertmanager_url, &config.alert_webhook_url).map_err(bad)?;
    let secrets = Secrets::default();
    alert_secrets(config, &secrets, &all)?;
    let chosen: Vec<_> = all.into_iter().filter(|own| only.is_none_or(|only| own.name == only)).collect();
    if chosen.is_empty() {
        return Err(ServerError::NoReceiver { name: only.map(str::to_owned) });
    }
    let labels = config.alert_label.iter().map(|text| parse_label(text)).collect::<Result<_, _>>();
    let labels = labels.map_err(|reason| bad(("alert_label", reason)))?;
    let mut tested = Vec::with_capacity(chosen.len());
    for receiver in chosen {
        let (name, kind, origin) = (receiver.name.clone(), receiver.kind, receiver.origin());
        let post = post(config, receiver, &secrets).map_err(bad)?;
        let now = Moment::of(SystemTime::now());
        let alert = Alert {
            labels: Signal::new(AlertName::Test, &labels, Sign::Unknown).labels,
            annotations: texts::test(),
            generator_url: config.external_url.clone().unwrap_or_default(),
            starts_at: now,
            ends_at: None,
        };
        let outcome = match kind {
            Kind::Alertmanager => taken(post.alertmanager(&[(alert, now.plus(FIRES))], now).await),
            Kind::Webhook => {
                let id = |alert: &Alert| format!("{}-{}-0", alert.episode(), alert.status());
                let resolved = Alert { ends_at: Some(now), ..alert.clone() };
                match taken(post.webhook(&id(&alert), &alert, now).await) {
                    Ok(()) => taken(post.webhook(&id(&resolved), &resolved, now).await),
                    refused => refused,
                }
            }
        };
        tested.push(TestedReceiver { name, kind: kind.as_str(), origin, outcome });
    }
    Ok(tested)
}

fn taken(outcome: Outcome) -> Result<(), String> {
    match outcome {
        Outcome::Delivered => Ok(()),
        Outcome::Failed { reason, .. } | Outcome::Refused { reason } => Err(reason),
    }
}
