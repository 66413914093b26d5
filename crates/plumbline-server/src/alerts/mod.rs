//! Alerts that the service posts by itself: drift, a divergent window, a store or a reference in trouble.
//!
//! Every few seconds [`conditions`] says of everything that is watched how it is; [`episodes`] makes of that when an alert begins and
//! when it is over (pure, time is passed in). Each receiver has what it is owed: a webhook an [`outbox`], an ordered queue in which each
//! beginning and each end stands once; an Alertmanager a [`relay`], which shows it all that is firing again and again, as Prometheus
//! does. [`service`] looks and remembers, [`telling`] posts and tries again; what must outlive a restart is one document in the store
//! ([`book`]).

mod alert;
mod backoff;
mod body;
mod book;
mod conditions;
mod ending;
mod episodes;
mod outbox;
mod post;
mod receiver;
mod relay;
mod secrets;
mod service;
mod signals;
mod telling;
mod test_post;
mod texts;

pub(crate) use self::alert::{Alert, AlertName};
pub(crate) use self::ending::Alerting;
pub(crate) use self::receiver::{Receiver, address, parse_label, receivers};
pub(crate) use self::secrets::Secrets;
pub(crate) use self::service::Alerts;
pub use self::test_post::{TestedReceiver, test_receivers};

#[cfg(test)]
mod tests;
