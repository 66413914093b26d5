//! An engine's request and response, read as rollouts.

mod at;
mod engine;
mod error;
mod events;
mod llama_cpp;
mod openai;
mod pairs;
mod places;
mod prompts;
mod read;
mod sampling;
mod sglang;
mod shape;
#[cfg(test)]
mod tests;
mod tgi;
mod versions;

use plumbline_core::{LogprobsMode, Rollout, Sampling};
use serde_json::Value;

pub use self::engine::EngineKind;
pub use self::error::{ExchangeError, ExchangeErrorCode};
pub use self::places::Places;
pub use self::read::read_exchange;

/// One request to an engine and its answer, both as they went over the wire.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exchange {
    /// Rollouts are named `{id}-{choice}`, where `choice` counts the completions in the exchange from 0.
    pub id: String,
    /// The route (`/v1/completions`), if known: it helps where the bodies leave the route open.
    pub path: Option<String>,
    /// The engine; `None` = by the shape of the response.
    pub engine: Option<EngineKind>,
    /// What the logprobs mean; `None` = the engine's default.
    pub logprobs_mode: Option<LogprobsMode>,
    /// Stands above the parameters in `request`, as a whole: for servers with other defaults than their engine's.
    pub sampling: Option<Sampling>,
    /// Stands above what the response says of weight versions.
    pub policy_version: Option<String>,
    /// The body sent. `null` = not known: then the response must hold the prompt's ids, and `sampling` must be stated if the
    /// logprobs depend on it.
    pub request: Value,
    /// The body received: JSON, or a string that holds server-sent events or JSON.
    pub response: Value,
}

/// What an exchange holds.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadExchange {
    /// The engine.
    pub engine: EngineKind,
    /// By prompt, then by choice; never empty.
    pub rollouts: Vec<ExchangeRollout>,
}

/// A completion of an exchange.
#[derive(Clone, Debug, PartialEq)]
pub struct ExchangeRollout {
    /// The rollout. It need not be valid: [`Rollout::violations`] says what is wrong with it, [`Places::locate`] where.
    pub rollout: Rollout,
    /// Index of its prompt in the request, 0 unless that holds several; completions of one prompt are a group.
    pub prompt: usize,
    /// Tokens of the prompt that the engine took from its prefix cache, if it says so.
    pub cached_tokens: Option<usize>,
    /// Where its fields stand.
    pub places: Places,
}
