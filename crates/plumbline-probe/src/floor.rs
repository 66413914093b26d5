//! The measurement of the noise floor of one version of the weights.

mod measure;
mod recent;
mod sampling;

use plumbline_scheduler::AsideError;

pub use self::measure::FloorMeasurement;
pub use self::recent::RecentTraffic;
use crate::PieceError;

/// Why there is no floor.
#[derive(Debug, thiserror::Error)]
pub enum FloorError {
    /// The reference cannot simulate a bf16 engine.
    #[error("the reference cannot simulate a bf16 engine")]
    Unsupported,
    /// There is nothing to measure it on yet; the reason why the reference cannot be sampled from.
    #[error("there is no traffic to measure it on yet, and the reference cannot be sampled from: {0}")]
    NoText(String),
    /// The measured tokens do not make a floor.
    #[error("too few of the measured tokens are of use")]
    TooFew,
    /// The model failed.
    #[error(transparent)]
    Piece(#[from] PieceError),
    /// The scheduler ended.
    #[error(transparent)]
    Aside(#[from] AsideError),
}

/// On what a floor was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloorSource {
    /// Text sampled from the reference.
    Sampled,
    /// What was verified lately.
    Traffic,
}
