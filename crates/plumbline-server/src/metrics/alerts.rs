//! What fires, and how telling goes.

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

use super::names;
use super::service::registered;
use crate::alerts::AlertName;

/// Metrics of alerts. Series of receivers exist from the start, by their names in the configuration.
#[derive(Clone, Debug)]
pub(crate) struct AlertMetrics {
    firing: IntGaugeVec,
    notifications: IntCounterVec,
    dropped: IntCounterVec,
    waiting: IntGaugeVec,
}

impl AlertMetrics {
    /// Registers everything.
    ///
    /// # Errors
    /// A name that the registry already has.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let opts = |(name, help): names::Described| Opts::new(name, help);
        let metrics = Self {
            firing: registered(registry, IntGaugeVec::new(opts(names::ALERTS_FIRING), &["alertname", "severity"])?)?,
            notifications: registered(
                registry,
                IntCounterVec::new(opts(names::NOTIFICATIONS), &["receiver", "status"])?,
            )?,
            dropped: registered(registry, IntCounterVec::new(opts(names::NOTIFICATIONS_DROPPED), &["receiver"])?)?,
            waiting: registered(registry, IntGaugeVec::new(opts(names::NOTIFICATIONS_WAITING), &["receiver"])?)?,
        };
        AlertName::WATCHED.into_iter().for_each(|name| metrics.firing(name, 0));
        Ok(metrics)
    }

    /// There is a receiver of this name.
    pub(crate) fn receiver(&self, name: &str) {
        for status in names::NOTIFICATION_STATUSES {
            self.notifications.with_label_values(&[name, status]).inc_by(0);
        }
        self.dropped(name, 0);
        self.waiting(name, 0);
    }

    /// So many alerts of a name fire.
    pub(crate) fn firing(&self, name: AlertName, count: usize) {
        self.firing.with_label_values(&[name.as_str(), name.severity()]).set(count as i64);
    }

    /// A try to tell a receiver ended; one of [`names::NOTIFICATION_STATUSES`].
    pub(crate) fn tried(&self, receiver: &str, status: &str) {
        self.notifications.with_label_values(&[receiver, status]).inc();
    }

    /// So many notifications are left out.
    pub(crate) fn dropped(&self, receiver: &str, count: u64) {
        self.dropped.with_label_values(&[receiver]).inc_by(count);
    }

    /// So many notifications wait.
    pub(crate) fn waiting(&self, receiver: &str, count: usize) {
        self.waiting.with_label_values(&[receiver]).set(count as i64);
    }
}
