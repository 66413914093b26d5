//! Times as people and machines read them.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use plumbline_model::CivilTime;

/// RFC 3339 in UTC, to the second.
///
/// # Errors
/// For a time that it cannot express.
pub(crate) fn rfc3339(time: SystemTime) -> anyhow::Result<String> {
    let since = time.duration_since(UNIX_EPOCH).context("a time before 1970")?;
    let time = CivilTime::from_unix_utc(since.as_secs(), 0).context("a time after the year 9999")?;
    time.strftime("%Y-%m-%dT%H:%M:%SZ").map_err(|error| anyhow!("the time cannot be written: {error}"))
}
