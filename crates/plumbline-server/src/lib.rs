//! The running service: configuration, HTTP routes, metrics.
//!
//! [`Config::load`] turns defaults, a file, the environment and flags into one validated [`Config`]; [`serve`] runs the
//! service on a listener until it is told to stop, and drains.
//!
//! The way of a request: `middleware` (id, log, metrics, API key) -> `routes::verifications` -> `body` (bytes to
//! validated rollouts) -> `weights` (wait for their version) -> the scheduler -> `verification` (comparison and answer) ->
//! `metrics`. Errors travel as
//! `problem::Problem` and become documents in one place.

mod body;
pub mod config;
mod floors;
mod metrics;
mod middleware;
mod openapi;
mod problem;
mod routes;
mod run_view;
mod sequences;
mod serve;
mod state;
mod timestamp;
mod verification;
mod weights;

pub use config::{Config, ConfigError, KeyProblem};
pub use serve::{ServerError, serve};
pub use weights::ReferenceSource;

#[cfg(test)]
mod tests;
