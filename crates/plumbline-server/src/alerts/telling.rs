//! Telling receivers: each has a task of its own, so that one that is slow or away keeps no other waiting.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::Notify;

use super::alert::{Alert, Moment};
use super::backoff::pause;
use super::book::Book;
use super::outbox::{Next, Notification};
use super::post::{Outcome, Post};
use super::receiver::{Kind, Receiver};
use super::relay::Batch;
use super::secrets::Secrets;
use super::service::Alerts;
use crate::config::Config;
use crate::state::AppState;

/// Looks between two times that an Alertmanager is shown what fires.
const LOOKS_PER_SHOW: u32 = 4;

/// One receiver and how it is doing.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) post: Post,
    /// There is something new to be told.
    pub(super) wake: Notify,
    pub(super) state: Mutex<ReceiverState>,
}

/// How a receiver is doing.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReceiverState {
    /// When it was told something last.
    pub(crate) delivered_at: Option<Moment>,
    /// Why the last try failed; `None` after one that did not.
    pub(crate) error: Option<String>,
}

impl Alerts {
    /// Tells one receiver what it is to be told. Never returns.
    pub(super) async fn serve(&self, door: &Door, state: &AppState) {
        loop {
            let now = self.clock.now();
            let work = self.next(&door.post.receiver, now);
            let until = match work {
                Work::Tell(notification) => {
                    let outcome = door.post.webhook(&notification.id, &notification.alert, now).await;
                    self.told(door, &outcome, |book, retry_at, now| {
                        let Some(outbox) = book.outboxes.get_mut(&door.post.receiver.name) else { return 0 };
                        match &outcome {
                            Outcome::Delivered => outbox.delivered(now, &notification.id),
                            Outcome::Failed { .. } => outbox.failed(&notification.id, retry_at),
                            Outcome::Refused { .. } => return outbox.refused(now, &notification.id),
                        }
                        0
                    });
                    if !matches!(outcome, Outcome::Failed { .. }) {
                        self.keep(state).await;
                    }
                    continue;
                }
                Work::Show(alerts) => {
                    let outcome = door.post.alertmanager(&alerts, now).await;
                    self.told(door, &outcome, |book, retry_at, _| {
                        let Some(relay) = book.relays.get_mut(&door.post.receiver.name) else { return 0 };
                        match &outcome {
                            Outcome::Delivered => relay.delivered(now, &alerts),
                            // One that is refused would be shown again all the same: it is in what fires.
                            Outcome::Failed { .. } | Outcome::Refused { .. } => relay.failed(retry_at),
                        }
                        0
                    });
                    continue;
                }
                Work::Wait(until) => until,
            };
            let wait = until.map_or(Duration::MAX, |until| until.since(self.clock.now()));
            tokio::select! {
                () = door.wake.notified() => {}
                () = tokio::time::sleep(wait), if wait < Duration::MAX => {}
            }
        }
    }

    fn next(&self, receiver: &Receiver, now: Moment) -> Work {
        let mut book = self.book();
        match receiver.kind {
            Kind::Webhook => match book.outboxes.get(&receiver.name).map_or(Next::Nothing, |outbox| outbox.next(now)) {
                Next::Send(notification) => Work::Tell(notification),
                Next::Wait(until) => Work::Wait(Some(until)),
                Next::Nothing => Work::Wait(None),
            },
            Kind::Alertmanager => {
                let Book { episodes, relays, .. } = &mut *book;
                let shown = episodes.firing().chain(episodes.recent().rev());
                let next =
                    relays.get_mut(&receiver.name).map(|relay| relay.next(now, shown, self.interval * LOOKS_PER_SHOW));
                match next {
                    Some(Batch::Send(alerts)) => Work::Show(alerts),
                    Some(Batch::Wait(until)) => Work::Wait(Some(until)),
                    None => Work::Wait(None),
                }
            }
        }
    }

    /// Takes note of how a try ended: `note` does so in the book, given when to try again and the time, and says how many
    /// notifications are left out.
    fn told(&self, door: &Door, outcome: &Outcome, note: impl FnOnce(&mut Book, Moment, Moment) -> u64) {
        let (now, name) = (self.clock.now(), &door.post.receiver.name);
        let asked = match outcome {
            Outcome::Failed { retry_after, .. } => *retry_after,
            _ => None,
        };
        let mut book = self.book();
        let failures = book.failures(&door.post.receiver) + 1;
        let retry_at = now.plus(pause(failures, asked, chance()));
        let dropped = note(&mut book, retry_at, now);
        self.show(&book);
        drop(book);
        let mut state = door.state();
        match outcome {
            Outcome::Delivered => {
                if state.error.take().is_some() {
                    tracing::info!(receiver = name, "a receiver of alerts takes notifications again");
                }
                state.delivered_at = Some(now);
                self.metrics.tried(name, "delivered");
            }
            Outcome::Failed { reason, .. } => {
                // Said once for each reason, not for each try.
                if state.error.as_ref() != Some(reason) {
                    tracing::warn!(receiver = name, reason, "a notification was not taken, it is tried again");
                }
                state.error = Some(reason.clone());
                self.metrics.tried(name, "failed");
            }
            Outcome::Refused { reason } => {
                tracing::error!(receiver = name, reason, "a notification was refused");
                state.error = Some(reason.clone());
                self.metrics.tried(name, "refused");
            }
        }
        self.metrics.dropped(name, dropped);
    }
}

/// What a receiver's task has to do next.
enum Work {
    Tell(Box<Notification>),
    Show(Vec<(Alert, Moment)>),
    /// Until then, or until something is new.
    Wait(Option<Moment>),
}

impl Door {
    pub(super) fn state(&self) -> MutexGuard<'_, ReceiverState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way to a receiver, as configured.
///
/// # Errors
/// The key of the configuration and why it cannot be used.
pub(super) fn post(config: &Config, receiver: Receiver, secrets: &Secrets) -> Result<Post, (&'static str, String)> {
    let timeout = Duration::from_secs(config.alert_timeout_seconds);
    let external_url = config.external_url.clone().unwrap_or_default();
    let post = Post::new(receiver, config.alert_ca_file.as_deref(), timeout, secrets.clone(), external_url);
    post.map_err(|reason| ("alert_ca_file", reason))
}

/// 64 random bits; where the system has none, all try again at the same time.
fn chance() -> u64 {
    let mut bytes = [0; 8];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => u64::from_le_bytes(bytes),
        Err(_) => 0,
    }
}
