//! The running service: configuration, HTTP routes, metrics.
//!
//! [`Config::load`] turns defaults, a file, the environment and flags into one validated [`Config`]; [`serve`] runs the
//! service on a listener until it is told to stop, and drains.
//!
//! The way of a request: `listen` (connections, TLS) -> `middleware` (id, log, metrics, API key) -> `routes::verifications` -> `body` (bytes to
//! validated rollouts) -> `intake` (at once, or accepted for `jobs`) -> `verify` (version of the weights, admission, the scheduler,
//! comparison, answer) -> `ledger` (stored, and what is new counted) -> `metrics`. Errors travel as `problem::Problem` and become
//! documents in one place.
//!
//! People look at `page`, a live page whose parts are those of the HTML report; `live` tells it what has changed.
//!
//! Beside requests, in small jobs on the model threads (`plumbline_probe`): `floor` measures the noise floor of each version of the
//! weights, `diagnosis` looks for the causes of what is suspicious. `alerts` looks at everything every few seconds and tells receivers
//! what begins to be wrong and what is over.

mod access;
mod alerts;
mod body;
pub mod config;
mod credentials;
mod diagnosis;
mod evidence_view;
mod findings;
mod floor;
mod floors;
mod intake;
mod jobs;
mod ledger;
mod listen;
mod live;
mod metrics;
mod middleware;
mod openapi;
mod page;
mod problem;
mod reload;
mod reports;
mod routes;
mod run_view;
mod sequences;
mod serve;
mod state;
mod streamed;
mod timestamp;
mod trace;
mod verify;
mod weights;

pub use plumbline_divergence::ModelFacts;

pub use alerts::{TestedReceiver, test_receivers};
pub use config::{Config, ConfigError, KeyProblem};
pub use serve::{ServerError, serve};
pub use trace::{FinishedTrace, SpanListener, Stage, TraceContext, Value, listen_to_spans};
pub use weights::{ModelKnowledge, ReferenceSource, StartedReference};

#[cfg(test)]
mod tests;
