//! The scheduler from outside, with a model that is a function of the tokens and whose forwards end when a test says so.
//!
//! No test sleeps to get its order right: a gated model reports the start of each forward and waits to be let go.

#[cfg(test)]
mod admission;
#[cfg(test)]
mod aside;
#[cfg(test)]
mod batching;
#[cfg(test)]
mod cancellation;
#[cfg(test)]
mod classes;
#[cfg(test)]
mod concurrency;
#[cfg(test)]
mod copies;
#[cfg(test)]
mod copies_updates;
#[cfg(test)]
mod drain;
#[cfg(test)]
mod failures;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod restarts;
#[cfg(test)]
mod sharing;
#[cfg(test)]
mod support;
#[cfg(test)]
mod updates;
