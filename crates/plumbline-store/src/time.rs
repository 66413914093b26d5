//! Times as they are stored: milliseconds since 1970.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Saturates; a time before 1970 is negative.
pub(crate) fn to_millis(time: SystemTime) -> i64 {
    let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => millis(after),
        Err(before) => -millis(before.duration()),
    }
}

/// The nearest time that the system can express.
pub(crate) fn from_millis(millis: i64) -> SystemTime {
    let distance = Duration::from_millis(millis.unsigned_abs());
    let time = if millis < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    time.unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back() {
        for millis in [0, 1, -1, 1_800_000_000_123, -62_000_000_000_000] {
            assert_eq!(to_millis(from_millis(millis)), millis);
        }
    }
}
