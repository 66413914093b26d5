//! What Prometheus scrapes: typed structs on a registry that is passed in.

mod admission;
mod divergence;
mod names;
mod service;

pub(crate) use self::divergence::{DivergenceMetrics, Observation, encode};
pub(crate) use self::service::ServiceMetrics;

#[cfg(test)]
mod tests;
