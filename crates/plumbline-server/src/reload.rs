//! Credentials that are exchanged while the server runs: files are looked at every few seconds, and read again when they change.
//!
//! Looking, not being told: it works on every file system, and with how Kubernetes exchanges mounted secrets.

use std::path::PathBuf;
use std::time::Duration;

use crate::metrics::ServiceMetrics;

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Credential {
    ApiKeys,
    Certificate,
    AlertSecrets,
}

impl Credential {
    pub(crate) const ALL: [Self; 3] = [Self::ApiKeys, Self::Certificate, Self::AlertSecrets];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::ApiKeys => "api_keys",
            Self::Certificate => "certificate",
            Self::AlertSecrets => "alert_secrets",
        }
    }
}

/// Contents of files, in their order.
pub(crate) type Contents = Vec<Vec<u8>>;

/// Takes contents into use, or says why they cannot be.
type Apply = dyn Fn(&[Vec<u8>]) -> Result<(), String> + Send + Sync;

/// Files that belong together, and what to do with them.
pub(crate) struct Followed {
    pub(crate) credential: Credential,
    pub(crate) files: Vec<PathBuf>,
    /// Takes the contents into use, in the order of the files; what cannot be used leaves everything as it is and says why, without
    /// showing any of it.
    pub(crate) apply: Box<Apply>,
}

impl Followed {
    /// Reads the files and takes them into use for the first time.
    ///
    /// # Errors
    /// The file and why, or what is wrong with what they hold.
    pub(crate) fn start(&self) -> Result<Contents, String> {
        let contents = self.read()?;
        (self.apply)(&contents)?;
        Ok(contents)
    }

    fn read(&self) -> Result<Contents, String> {
        let read = |path: &PathBuf| std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
        self.files.iter().map(read).collect()
    }

    /// Takes every change of the files into use. Never returns. `last` is what is in use.
    pub(crate) async fn follow(self, mut last: Contents, interval: Duration, metrics: ServiceMetrics) {
        let credential = self.credential.as_str();
        // Of the last complaint, so that one state is complained of once.
        let mut complaint: Option<String> = None;
        let followed = std::sync::Arc::new(self);
        loop {
            tokio::time::sleep(interval).await;
            let own = followed.clone();
            // A network mount may hang, which must not take a worker with it.
            let read = tokio::task::spawn_blocking(move || own.read()).await;
            let outcome = match read {
                Ok(Ok(contents)) if contents == last => {
                    complaint = None;
                    continue;
                }
                Ok(Ok(contents)) => (followed.apply)(&contents).map(|()| contents),
                Ok(Err(reason)) => Err(reason),
                Err(error) => Err(error.to_string()),
            };
            match outcome {
                Ok(contents) => {
                    last = contents;
                    complaint = None;
                    metrics.credential_reloaded(followed.credential, true);
                    tracing::info!(credential, "changed, in use now");
                }
                Err(reason) if complaint.as_ref() != Some(&reason) => {
                    metrics.credential_reloaded(followed.credential, false);
                    tracing::error!(credential, reason, "changed, but cannot be used: what was in use stays");
                    complaint = Some(reason);
                }
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::{Arc, Mutex};

    use prometheus::Registry;

    use super::*;

    #[tokio::test]
    async fn changes_are_taken_and_what_cannot_be_used_is_left() {
        let path = std::env::temp_dir().join(format!("plumbline-reload-{}", std::process::id()));
        fs::write(&path, "one").unwrap();
        let used = Arc::new(Mutex::new(Vec::new()));
        let seen = used.clone();
        let apply = move |contents: &[Vec<u8>]| {
            if contents[0] == b"bad" {
                return Err("bad".to_owned());
            }
            seen.lock().unwrap().push(String::from_utf8(contents[0].clone()).unwrap());
            Ok(())
        };
        let followed = Followed { credential: Credential::ApiKeys, files: vec![path.clone()], apply: Box::new(apply) };
        let last = followed.start().unwrap();
        let registry = Registry::new();
        let metrics = ServiceMetrics::register(&registry, []).unwrap();
        let count = |outcome: &str| {
            let series = format!(r#"plumbline_credential_reloads_total{{credential="api_keys",outcome="{outcome}"}}"#);
            crate::tests::metric(&String::from_utf8(crate::metrics::encode(&registry).unwrap()).unwrap(), &series)
        };
        assert_eq!(count("refused"), Some(0.0));
        let task = tokio::spawn(followed.follow(last, Duration::from_millis(1), metrics.clone()));
        fs::write(&path, "bad").unwrap();
        crate::tests::until("the bad one is refused", async || count("refused") == Some(1.0)).await;
        // As Kubernetes does it: another file takes its place.
        let other = path.with_extension("new");
        fs::write(&other, "two").unwrap();
        fs::rename(other, &path).unwrap();
        crate::tests::until("the new one is in use", async || count("applied") == Some(1.0)).await;
        fs::remove_file(&path).unwrap();
        crate::tests::until("a missing one is refused", async || count("refused") == Some(2.0)).await;
        assert_eq!(*used.lock().unwrap(), ["one", "two"]);
        task.abort();
    }

    #[test]
    fn a_start_without_the_file_names_it() {
        let followed = Followed {
            credential: Credential::Certificate,
            files: vec!["/no/such/file".into()],
            apply: Box::new(|_| Ok(())),
        };
        assert!(followed.start().unwrap_err().contains("/no/such/file"));
    }
}
