//! Chaos: the real binary under load, killed, starved, flooded and lied to. What was acknowledged must be there afterwards, once.
//!
//! A short form of each runs with the other tests. The long forms are `#[ignore]`d; `docs/reliability.md` has their commands and
//! what they measured. Long forms may assert times: they are run on a quiet machine.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed unwrap in a test is a failed test, and long forms print what they measured"
)]

mod bombs;
mod clock;
mod connections;
mod disk;
mod drain;
mod kill;
mod load;
mod overload;
mod panics;
mod process;
mod reconcile;
#[path = "../faults/rng.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod rng;
mod soak;
mod statistics;
#[path = "../black_box/support.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod support;
mod work;

/// A number from the environment, or what the short form takes.
fn setting(name: &str, otherwise: usize) -> usize {
    std::env::var(name)
        .map_or(otherwise, |value| value.parse().unwrap_or_else(|error| panic!("{name}={value}: {error}")))
}
