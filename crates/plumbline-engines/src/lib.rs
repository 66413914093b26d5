//! What engines and trainers write down, as rollouts.
//!
//! [`read_exchange`] takes an engine's own request and response bodies, as they went over the wire, and gives the
//! [`Rollout`](plumbline_core::Rollout)s in them: exact token ids, logprobs, sampling parameters, and what the logprobs mean.
//! Nothing is re-tokenised and nothing is guessed: what a body does not hold is an [`ExchangeError`] that names the
//! request flag which would have brought it. [`dumps`] reads files of recorded rollouts: trainers' dumps, saved exchanges,
//! Plumbline's own forms. [`drivers`] ask engines over HTTP and hand back such bodies.

pub mod drivers;
pub mod dumps;
mod exchange;
mod logprob;
mod non_finite;
mod pointer;

pub use exchange::{
    EngineKind, Exchange, ExchangeError, ExchangeErrorCode, ExchangeRollout, Places, ReadExchange, read_exchange,
};
pub use logprob::Logprob;
pub use non_finite::{Quoted, quote_non_finite};
pub use pointer::{escaped_key, json_pointer};
