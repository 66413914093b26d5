//! Drift: when did an engine's divergence change, by how much, and with what.
//!
//! [`DriftDetector`] watches one run and engine sequence by sequence. `docs/drift.md` explains the method and has the
//! measured delays and false-alarm rates; in short: each sequence gives its mean `|d|` as a multiple of the level that was
//! learned from the run's own first sequences, limited to [`DriftConfig::cap`]. An e-detector (Shin, Ramdas and Rinaldo,
//! "E-detectors", 2022) in its CUSUM form bets against "the expected multiple is at most [`DriftConfig::tolerance`]", and a
//! second one against "it is at least 1 / tolerance". As long as that holds given the past, the mean number of sequences
//! to a false alarm is at least [`DriftConfig::mean_run_length`], whatever the distribution and the dependence.
//!
//! Deterministic, of bounded size, and without a clock: time is passed in.

mod config;
mod cusum;
mod detector;
mod history;
mod kinds;
mod level;
mod trend;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use config::{DriftConfig, DriftConfigError};
pub use detector::{DriftDetector, DriftMemory};

/// What levels are measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriftUnit {
    /// Mean `|d|` in nats: no noise floor is known.
    Nats,
    /// Multiples of the noise floor expected for the very tokens of each sequence.
    NoiseFloors,
}

/// Why a sequence cannot be watched.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum DriftSampleError {
    /// Nothing was compared.
    #[error("a sequence without compared tokens has no level")]
    NoTokens,
    /// Not a mean of absolute values.
    #[error("mean absolute log ratio is {0}, not a finite number of at least 0")]
    InvalidMean(f64),
    /// Not a level to divide by.
    #[error("noise floor is {0}, not a positive finite number")]
    InvalidFloor(f64),
}

/// One sequence, as the detector sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DriftSample<'a> {
    at: Duration,
    policy_version: Option<&'a str>,
    tokens: u64,
    level: f64,
    unit: DriftUnit,
}

impl<'a> DriftSample<'a> {
    /// A sequence seen at `at` with `tokens` compared tokens and mean `|d|` of `mean_abs_delta` nats.
    ///
    /// `noise_floor` is the mean `|d|` in nats that a faithful engine would show on these tokens (by their entropies), if it
    /// is known; a stream should give it always or never, because learning starts anew when the unit changes.
    ///
    /// # Errors
    /// [`DriftSampleError`] for no tokens, a mean that is negative or not finite, and a floor that is not positive.
    pub fn new(
        at: Duration,
        policy_version: Option<&'a str>,
        tokens: u64,
        mean_abs_delta: f64,
        noise_floor: Option<f64>,
    ) -> Result<Self, DriftSampleError> {
        if tokens == 0 {
            return Err(DriftSampleError::NoTokens);
        }
        if !mean_abs_delta.is_finite() || mean_abs_delta < 0.0 {
            return Err(DriftSampleError::InvalidMean(mean_abs_delta));
        }
        let (level, unit) = match noise_floor {
            None => (mean_abs_delta, DriftUnit::Nats),
            Some(floor) if floor.is_finite() && floor > 0.0 && (mean_abs_delta / floor).is_finite() => {
                (mean_abs_delta / floor, DriftUnit::NoiseFloors)
            }
            Some(floor) => return Err(DriftSampleError::InvalidFloor(floor)),
        };
        Ok(Self { at, policy_version, tokens, level, unit })
    }
}

/// Which way a level changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriftDirection {
    /// The engine moved away from the reference.
    Up,
    /// It came closer: it recovered, or the signal was lost (e.g. it echoes the reference).
    Down,
}

/// How a level changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriftKind {
    /// Once, to another level.
    Step,
    /// Again and again where the policy version changes: stale weights or caches.
    VersionSteps,
    /// Gradually, within policy versions too: grows with the engine's uptime.
    Creep,
}

/// A change that was detected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DriftEvent {
    /// Up or down.
    pub direction: DriftDirection,
    /// What the history says so far: it is judged again while the alarm lasts, so [`DriftState`] may know better later.
    pub kind: DriftKind,
    /// Estimated time of the first sequence after the change.
    pub began_at: Duration,
    /// Its number since the detector's first sequence, which has number 0.
    pub began_sequence: u64,
    /// Its policy version.
    pub policy_version: Option<String>,
    /// Whether the change began, as closely as can be told, with the first sequence of that policy version.
    pub at_version_change: bool,
    /// Time of the sequence that raised the alarm.
    pub seen_at: Duration,
    /// Its number.
    pub seen_sequence: u64,
    /// Level before the change, in `unit`.
    pub level_before: f64,
    /// What levels are measured in.
    pub unit: DriftUnit,
    /// Level after the change as a multiple of that before; below 1 for a change down. An estimate from the sequences
    /// between beginning and alarm, refined in [`DriftState`] once the new level is learned.
    pub size: f64,
}

/// What the observation of a sequence brought about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriftUpdate {
    /// A change was detected.
    Began(DriftEvent),
    /// The alarm is over: the level is back, or (after a change down) the new level is learned and accepted.
    Ended(DriftEvent),
}

/// Where a detector stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DriftState {
    /// Evidence of a change relative to what raises an alarm: 0 = none, 1 and above = alarm. At least 1 while an alarm
    /// lasts.
    pub score: f64,
    /// The alarm, until the level is back.
    pub alarm: Option<DriftEvent>,
    /// Level that new sequences are compared with, in `unit`; `None` while it is being learned.
    pub level: Option<f64>,
    /// What levels are measured in; `None` before the first sequence.
    pub unit: Option<DriftUnit>,
    /// Sequences that are still needed to learn the level.
    pub learning: u64,
}
