//! How long to wait before the next try.

use std::time::Duration;

/// Pause after the first failure.
const FIRST: Duration = Duration::from_secs(1);
/// Longest pause of our own.
const LONGEST: Duration = Duration::from_secs(60);
/// Longest pause that a receiver may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(300);

/// The pause after so many failures in a row: it doubles, and a random part of it (`chance`, all of whose bits are random) between half
/// and all is taken, so that what failed together does not come again together. What the receiver asked for is waited at least.
pub(super) fn pause(failures: u32, asked: Option<Duration>, chance: u64) -> Duration {
    let whole = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST);
    let part = 0.5 + 0.5 * (chance >> 11) as f64 / (1u64 << 53) as f64;
    whole.mul_f64(part).max(asked.unwrap_or_default().min(LONGEST_ASKED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        let seconds = |failures, chance| pause(failures, None, chance).as_secs_f64();
        assert_eq!((seconds(1, 0), seconds(3, 0), seconds(7, 0), seconds(u32::MAX, 0)), (0.5, 2.0, 30.0, 30.0));
        assert!((seconds(1, u64::MAX) - 1.0).abs() < 1e-9 && seconds(99, u64::MAX) <= 60.0);
        assert_eq!(pause(1, Some(Duration::from_secs(7)), 0), Duration::from_secs(7));
        assert_eq!(pause(1, Some(Duration::from_secs(86_400)), 0), LONGEST_ASKED);
    }
}
