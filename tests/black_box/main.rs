//! Black-box tests: the real binary, as a user runs it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap in a test is a failed test"
)]

mod alerts;
mod bad_input;
mod commands;
mod compare;
mod concurrency;
mod db;
mod durability;
mod fake_engine;
#[cfg(feature = "hub")]
mod hub;
mod lifecycle;
mod metrics_page;
#[cfg(feature = "otel")]
mod otlp;
mod overload;
mod page;
mod recordings;
mod security;
#[cfg(feature = "selfcheck")]
mod selfcheck;
mod support;
mod trace_context;
mod verify;
mod weights;
