//! What every request passes through, outermost first: [`track`], [`hold`], [`guard`], then the route.

mod auth;
mod hold;
mod leftover;
mod request_id;
mod traced_body;
mod track;

pub(crate) use self::auth::{Gate, guard};
pub(crate) use self::hold::hold;
pub(crate) use self::request_id::RequestId;
pub(crate) use self::track::{ScoredTokens, track};

/// Routes that are not worth a line in the log: orchestrators ask them every few seconds.
pub(crate) const PROBES: [&str; 3] = ["/livez", "/readyz", "/health"];
