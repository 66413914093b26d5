//! What proves who is who: API keys of clients, the server's own certificate, secrets for receivers of alerts. Read at the start, followed while the server runs.

use std::future::Future;
use std::time::Duration;

use crate::access::ApiKeys;
use crate::alerts::{Receiver, Secrets, receivers};
use crate::config::Config;
use crate::listen::Tls;
use crate::reload::{Contents, Credential, Followed};
use crate::serve::ServerError;
use crate::state::AppState;

/// The credentials in use.
pub(crate) struct Credentials {
    pub(crate) keys: ApiKeys,
    pub(crate) tls: Option<Tls>,
    pub(crate) alerts: Secrets,
    /// Files that may change, with their contents in use.
    followed: Vec<(Followed, Contents)>,
}

impl Credentials {
    /// Reads everything that is configured.
    ///
    /// # Errors
    /// What cannot be used, and why.
    pub(crate) fn load(config: &Config) -> Result<Self, ServerError> {
        let mut followed = Vec::new();
        let keys = keys(config, &mut followed)?;
        let tls = tls(config, &mut followed)?;
        let alerts = Secrets::default();
        followed.extend(alert_secrets(config, &alerts, &receivers_of(config)?)?);
        Ok(Self { keys, tls, alerts, followed })
    }

    /// Follows the files. Never returns.
    pub(crate) fn follow(&mut self, state: &AppState) -> impl Future<Output = ()> + Send + use<> {
        let interval = Duration::from_secs(state.config.credentials_poll_seconds);
        let metrics = state.metrics.clone();
        let followed = std::mem::take(&mut self.followed);
        async move {
            let mut tasks = tokio::task::JoinSet::new();
            for (files, contents) in followed {
                tasks.spawn(files.follow(contents, interval, metrics.clone()));
            }
            // Only a defect ends one; with none there is nothing to wait for.
            if tasks.join_next().await.is_none() {
                std::future::pending().await
            }
        }
    }
}

/// The keys of the variable and of the file together.
fn keys(config: &Config, followed: &mut Vec<(Followed, Contents)>) -> Result<ApiKeys, ServerError> {
    let mut fixed = String::new();
    if let Some(name) = &config.api_key_env {
        let refuse = |reason: String| ServerError::ApiKeys { place: format!("the variable {name}"), reason };
        fixed = variable(name).map_err(refuse)?;
        let keys = ApiKeys::parse(&fixed).map_err(refuse)?;
        if config.api_key_file.is_none() {
            return Ok(keys);
        }
    }
    let keys = ApiKeys::open();
    let Some(path) = &config.api_key_file else { return Ok(keys) };
    let used = keys.clone();
    let apply = move |contents: &[Vec<u8>]| {
        let text = contents.first().and_then(|bytes| std::str::from_utf8(bytes).ok()).ok_or("it is not valid UTF-8")?;
        // The file first: complaints count its lines.
        used.replace(&[text, &fixed])
    };
    let files = Followed { credential: Credential::ApiKeys, files: vec![path.clone()], apply: Box::new(apply) };
    let contents = files.start().map_err(|reason| {
        let place = format!("the file {}", path.display());
        ServerError::ApiKeys { place, reason }
    })?;
    followed.push((files, contents));
    Ok(keys)
}

fn tls(config: &Config, followed: &mut Vec<(Followed, Contents)>) -> Result<Option<Tls>, ServerError> {
    let (Some(certificate), Some(key)) = (&config.tls_cert_file, &config.tls_key_file) else { return Ok(None) };
    let refuse = |reason| ServerError::Tls { certificate: certificate.clone(), key: key.clone(), reason };
    let read =
        |path: &std::path::Path| std::fs::read(path).map_err(|error| refuse(format!("{}: {error}", path.display())));
    let contents = vec![read(certificate)?, read(key)?];
    let tls = Tls::new(&contents[0], &contents[1]).map_err(refuse)?;
    let used = tls.clone();
    let apply = move |contents: &[Vec<u8>]| match contents {
        [certificate, key] => used.replace(certificate, key),
        _ => Err("there are not two files".into()),
    };
    let files = vec![certificate.clone(), key.clone()];
    followed.push((Followed { credential: Credential::Certificate, files, apply: Box::new(apply) }, contents));
    Ok(Some(tls))
}

/// The value of a variable.
fn variable(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|error| match error {
        std::env::VarError::NotPresent => "it is not set".into(),
        // The error would show the value.
        std::env::VarError::NotUnicode(_) => "it is not valid UTF-8".into(),
    })
}

/// The configured receivers of alerts.
fn receivers_of(config: &Config) -> Result<Vec<Receiver>, ServerError> {
    receivers(&config.alertmanager_url, &config.alert_webhook_url)
        .map_err(|(key, reason)| ServerError::Alerts { key, reason })
}

/// Takes the secrets of the variable and of the file into use; the file, to be followed.
///
/// # Errors
/// What cannot be used, and why.
pub(crate) fn alert_secrets(
    config: &Config,
    used: &Secrets,
    receivers: &[Receiver],
) -> Result<Option<(Followed, Contents)>, ServerError> {
    let refuse = |key| move |reason| ServerError::Alerts { key, reason };
    let fixed = match &config.alert_secret_env {
        // In a variable, semicolons may stand for ends of lines.
        Some(name) => variable(name).map_err(refuse("alert_secret_env"))?.replace(';', "\n"),
        None => String::new(),
    };
    used.replace(&fixed, receivers).map_err(refuse("alert_secret_env"))?;
    let Some(path) = &config.alert_secret_file else { return Ok(None) };
    let (own, receivers) = (used.clone(), receivers.to_vec());
    let apply = move |contents: &[Vec<u8>]| {
        let text = contents.first().and_then(|bytes| std::str::from_utf8(bytes).ok()).ok_or("it is not valid UTF-8")?;
        // The file first: complaints count its lines.
        own.replace(&format!("{text}\n{fixed}"), &receivers)
    };
    let files = Followed { credential: Credential::AlertSecrets, files: vec![path.clone()], apply: Box::new(apply) };
    let contents = files.start().map_err(refuse("alert_secret_file"))?;
    Ok(Some((files, contents)))
}
