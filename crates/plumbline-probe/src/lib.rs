//! Questions to the resident model beside scoring, in jobs that are small enough for the model threads.
//!
//! [`FloorMeasurement`] measures the noise floor of a version of the weights, on text that was verified lately
//! ([`RecentTraffic`]) or on text sampled from the model itself. [`AsideProber`] answers what a diagnosis asks. Both are used
//! alike by the service and by offline commands.

mod floor;
mod pieces;
mod prober;
mod published;

pub use floor::{FloorError, FloorMeasurement, FloorSource, RecentTraffic};
pub use pieces::{PieceError, PieceLimits};
pub use prober::AsideProber;
pub use published::PublishedFloor;
