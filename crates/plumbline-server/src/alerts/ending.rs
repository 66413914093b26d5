//! The tasks of alerting, from the start of the service to its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::book::Book;
use super::service::Alerts;
use super::telling::Door;
use crate::state::AppState;

/// How long the end of the service waits for notifications at most.
const FLUSH: Duration = Duration::from_secs(5);
/// Between two looks whether all is told then.
const FLUSH_STEP: Duration = Duration::from_millis(20);

/// The tasks of alerting. They end when this is dropped.
pub(crate) struct Alerting {
    watch: JoinSet<()>,
    receivers: JoinSet<()>,
}

impl Alerting {
    /// Takes over what was known and starts looking and telling.
    pub(crate) async fn start(state: &Arc<AppState>) -> Self {
        state.alerts.restore(state).await;
        let (mut watch, mut receivers) = (JoinSet::new(), JoinSet::new());
        for index in 0..state.alerts.doors.len() {
            let state = Arc::clone(state);
            receivers.spawn(async move {
                if let Some(door) = state.alerts.doors.get(index) {
                    state.alerts.serve(door, &state).await;
                }
            });
        }
        let own = Arc::clone(state);
        watch.spawn(async move {
            let mut ticks = tokio::time::interval(own.alerts.interval);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                own.alerts.look(&own).await;
            }
        });
        Self { watch, receivers }
    }

    /// The service ends, within `limit`; `broken`: because the reference cannot score, which is told too.
    pub(crate) async fn end(mut self, state: &AppState, limit: Duration, broken: bool) {
        self.watch.shutdown().await;
        if broken {
            state.alerts.look(state).await;
        }
        state.alerts.end(state, limit, broken).await;
        self.receivers.shutdown().await;
    }
}

impl Alerts {
    /// Ends what cannot be remembered, tells what is still to be told, for a bounded time, and remembers the rest. Nothing is ended
    /// where the service is `broken`: it is not well then.
    async fn end(&self, state: &AppState, limit: Duration, broken: bool) {
        let now = self.clock.now();
        let waiting_before: Vec<_> = {
            let mut book = self.book();
            if state.ledger.store().is_none() && !broken {
                let why = "the service ends and has no data dir to remember this in; if it lasts, it fires again";
                let changes = book.episodes.resolve_all(now, why);
                let dropped = book.change(&changes, self.room);
                self.tell(&changes, &dropped);
            }
            book.hurry();
            self.doors.iter().map(|door| book.failures(&door.post.receiver)).collect()
        };
        self.keep(state).await;
        self.wake();
        let over = Instant::now() + limit.min(FLUSH);
        // Who has failed once more will not be well in time.
        let busy = |book: &Book| {
            self.doors.iter().zip(&waiting_before).any(|(door, before)| {
                let receiver = &door.post.receiver;
                book.waiting(self.clock.now(), receiver) > 0 && book.failures(receiver) <= *before
            })
        };
        while busy(&self.book()) && Instant::now() < over {
            tokio::time::sleep(FLUSH_STEP).await;
        }
        self.keep(state).await;
        let book = self.book();
        for Door { post, .. } in &self.doors {
            let (receiver, waiting) = (&post.receiver.name, book.waiting(self.clock.now(), &post.receiver));
            if waiting == 0 {
                continue;
            }
            if state.ledger.store().is_some() {
                tracing::warn!(receiver, waiting, "notifications wait: the next start goes on with them");
            } else {
                self.metrics.dropped(receiver, waiting as u64);
                tracing::error!(receiver, waiting, "notifications are lost: the receiver did not take them in time");
            }
        }
    }
}
