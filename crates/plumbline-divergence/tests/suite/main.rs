//! Tests of the public interface: an independent oracle, real recordings, and laws that must hold for any input.

#![allow(clippy::unwrap_used, reason = "a failed unwrap in a helper of a test is a failed test")]

mod drift;
mod fixtures;
mod floors;
mod intervals;
mod oracle;
mod properties;
mod random;
mod streams;
mod verdicts;
