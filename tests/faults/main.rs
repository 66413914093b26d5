//! Planted faults: does the diagnosis name the fault that was put into an engine, and nothing where there is none?
//!
//! - `engine`: a small inference engine with switches for what goes wrong in real ones; `rng`: its random numbers;
//! - `world`: the models; `prompts`: what is asked of them;
//! - `plants`: runs of rollouts with one known fault each;
//! - `references`: the resident models that a diagnosis asks; `floor`: their noise floor;
//! - `cases`: a plant's rollouts as the service treats them; `matrix`: what was named for what was planted;
//! - `harness`: how often it is right; `sanity`: each plant is what it says.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap in a test is a failed test"
)]
#![allow(clippy::print_stdout, reason = "a case's outcome is what the test is run for")]

mod cases;
mod engine;
mod floor;
mod harness;
mod matrix;
mod plants;
mod prompts;
mod references;
mod rng;
mod sanity;
mod world;
