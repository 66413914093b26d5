//! Looking, and remembering what was seen: the part of alerting that runs.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;

use super::alert::{Alert, AlertName, Labels, Moment};
use super::book::Book;
use super::conditions;
use super::episodes::{RESOLUTION, Rules};
use super::receiver::{Receiver, parse_label, receivers};
use super::secrets::Secrets;
use super::telling::{Door, ReceiverState, post};
use crate::config::Config;
use crate::ledger::read;
use crate::metrics::AlertMetrics;
use crate::state::AppState;

/// The document's name in the store.
const DOCUMENT: &str = "alerts";

/// Everything about alerts: what is known, who is told, and how.
#[derive(Debug)]
pub(crate) struct Alerts {
    book: Mutex<Book>,
    pub(super) doors: Vec<Door>,
    rules: Rules,
    pub(super) interval: Duration,
    repeat: Duration,
    pub(super) room: usize,
    /// On every alert.
    labels: Labels,
    pub(super) clock: Clock,
    pub(super) metrics: AlertMetrics,
    /// Held while the document is written: a newer one never comes before an older one.
    writing: tokio::sync::Mutex<()>,
}

/// The time of day when the process began, and what has passed since: it does not jump.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    began_at: SystemTime,
    began: Instant,
}

impl Clock {
    pub(super) fn now(self) -> Moment {
        Moment::of(self.began_at + self.began.elapsed())
    }
}

impl Alerts {
    /// # Errors
    /// The key of the configuration and why it cannot be used.
    pub(crate) fn new(
        config: &Config,
        metrics: AlertMetrics,
        secrets: &Secrets,
    ) -> Result<Self, (&'static str, String)> {
        let receivers = receivers(&config.alertmanager_url, &config.alert_webhook_url)?;
        let mut doors = Vec::with_capacity(receivers.len());
        for receiver in &receivers {
            metrics.receiver(&receiver.name);
            let post = post(config, receiver.clone(), secrets)?;
            doors.push(Door { post, wake: Notify::new(), state: Mutex::default() });
        }
        let labels = config.alert_label.iter().map(|text| parse_label(text)).collect::<Result<_, _>>();
        let seconds = Duration::from_secs;
        Ok(Self {
            book: Mutex::new(Book::new(&receivers)),
            doors,
            rules: Rules {
                hold: seconds(config.alert_for_seconds),
                keep: seconds(config.alert_keep_seconds),
                min_tokens: config.alert_min_tokens,
            },
            interval: seconds(config.alert_interval_seconds),
            repeat: seconds(config.alert_repeat_seconds),
            room: config.alert_queue,
            labels: labels.map_err(|reason| ("alert_label", reason))?,
            clock: Clock { began_at: SystemTime::now(), began: Instant::now() },
            metrics,
            writing: tokio::sync::Mutex::new(()),
        })
    }

    /// What fires, and what was resolved lately, the latest first.
    pub(crate) fn all(&self) -> (Vec<Alert>, Vec<Alert>) {
        let book = self.book();
        (book.episodes.firing().cloned().collect(), book.episodes.recent().rev().cloned().collect())
    }

    /// Who is told, how many notifications wait for each, and how it is doing.
    pub(crate) fn receivers(&self) -> Vec<(Receiver, usize, ReceiverState)> {
        let now = self.clock.now();
        let of = |door: &Door| {
            let waiting = self.book().waiting(now, &door.post.receiver);
            (door.post.receiver.clone(), waiting, door.state().clone())
        };
        self.doors.iter().map(of).collect()
    }

    /// Takes over what was known before the last end of the service.
    pub(super) async fn restore(&self, state: &AppState) {
        let Some(store) = state.ledger.store() else { return };
        let document = match read(store, |reader| reader.document(DOCUMENT)).await {
            Ok(Some(document)) => document,
            Ok(None) => return,
            Err(error) => {
                tracing::error!(%error, "the alerts of before cannot be read: what still fires is told again");
                return;
            }
        };
        match self.book().restore(&document) {
            Ok(gone) => {
                for (receiver, waiting) in gone {
                    tracing::warn!(receiver, waiting, "a receiver of alerts is not configured any more");
                }
            }
            Err(reason) => {
                tracing::error!(reason, "the alerts of before cannot be understood: what still fires is told again");
            }
        }
    }

    /// Looks at everything once, and tells what changed.
    pub(crate) async fn look(&self, state: &AppState) {
        let look = conditions::look(state, &self.labels);
        let now = self.clock.now();
        let changed = {
            let mut book = self.book();
            let (changes, dropped) = book.look(now, &look, &self.rules, self.room);
            let more = book.refresh(now, self.repeat, self.room);
            self.tell(&changes, &dropped);
            self.show(&book);
            more || !changes.is_empty()
        };
        if changed {
            // Before anybody is told: what was told must not be forgotten.
            self.keep(state).await;
            self.wake();
        }
    }

    /// Says in the log and in the metrics what changed.
    pub(super) fn tell(&self, changes: &[Alert], dropped: &BTreeMap<String, u64>) {
        for alert in changes {
            let label = |name: &str| alert.labels.get(name).map_or("", String::as_str);
            let text = |name: &str| alert.annotations.get(name).map_or("", String::as_str);
            let (alertname, run, engine) = (label("alertname"), label("run"), label("engine"));
            match alert.ends_at {
                None => tracing::warn!(alertname, run, engine, summary = text("summary"), "an alert fires"),
                Some(_) => {
                    tracing::info!(alertname, run, engine, why = text(RESOLUTION), "an alert is resolved");
                }
            }
        }
        for (receiver, count) in dropped {
            self.metrics.dropped(receiver, *count);
            tracing::error!(
                receiver,
                count,
                "notifications are left out: there was no room for them, or they were refused"
            );
        }
    }

    /// Brings gauges up to date.
    pub(super) fn show(&self, book: &Book) {
        for name in AlertName::WATCHED {
            let own = |alert: &&Alert| alert.labels.get("alertname").is_some_and(|own| own == name.as_str());
            self.metrics.firing(name, book.episodes.firing().filter(own).count());
        }
        let now = self.clock.now();
        for Door { post, .. } in &self.doors {
            self.metrics.waiting(&post.receiver.name, book.waiting(now, &post.receiver));
        }
    }

    /// Writes what must outlive a restart into the store, if there is one.
    pub(super) async fn keep(&self, state: &AppState) {
        let Some(store) = state.ledger.store() else { return };
        let _turn = self.writing.lock().await;
        let document = self.book().document();
        match document {
            Ok(document) => {
                if let Err(error) = store.keep_document(DOCUMENT, document).await {
                    // The store says itself, once, what is the matter; who is told is told all the same.
                    tracing::debug!(%error, "the alerts are not stored");
                }
            }
            Err(error) => tracing::error!(%error, "the alerts cannot be written down"),
        }
    }

    pub(super) fn wake(&self) {
        self.doors.iter().for_each(|door| door.wake.notify_one());
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        // Nothing in here panics half way through a change that matters more than going on.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
