//! Drivers: make an engine generate over HTTP, ids in and ids out, and ask it for logprobs of given tokens.
//!
//! A driver sends the same prompt ids, seeds and sampling parameters to every engine, names every sampling parameter so that no
//! server default is left, and hands back the two bodies as they were. What they mean is read elsewhere, by the same code
//! that reads recorded bodies. Nothing here tokenises.

mod ask;
mod driver;
mod error;
mod facts;
mod http;
mod key;
mod kind;
mod llama_cpp;
mod openai;
mod sglang;
mod tls;
mod vllm;

pub use ask::{Answer, Ask};
pub use driver::{Driver, Endpoint};
pub use error::DriverError;
pub use http::HttpPolicy;
pub use key::ApiKey;
pub use kind::DriverKind;
pub use tls::client_config;
