//! What Prometheus scrapes: typed structs on a registry that is passed in.

mod admission;
mod alerts;
mod divergence;
mod ledger;
mod names;
mod service;

pub(crate) use self::alerts::AlertMetrics;
pub(crate) use self::divergence::{Clock, DivergenceMetrics, Observation, encode};
pub(crate) use self::ledger::LedgerMetrics;
pub(crate) use self::service::ServiceMetrics;

#[cfg(test)]
mod tests;
