//! What long forms print and compare.

use std::time::Duration;

/// The value below which so much of all lie (nearest rank).
pub(crate) fn quantile(values: &mut [Duration], share: f64) -> Duration {
    assert!(!values.is_empty(), "nothing was measured");
    values.sort_unstable();
    let rank = (share * values.len() as f64).ceil() as usize;
    values[rank.clamp(1, values.len()) - 1]
}

/// `p50 / p99 / max` in milliseconds.
pub(crate) fn latencies(values: &mut [Duration]) -> String {
    let ms = |share: f64, values: &mut [Duration]| quantile(values, share).as_secs_f64() * 1e3;
    format!("p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms", ms(0.5, values), ms(0.99, values), ms(1.0, values))
}

pub(crate) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[test]
fn quantiles_are_nearest_ranks() {
    let mut values: Vec<_> = (1..=100).rev().map(Duration::from_millis).collect();
    let ms = |share, values: &mut Vec<Duration>| quantile(values, share).as_millis();
    assert_eq!(
        (ms(0.5, &mut values), ms(0.99, &mut values), ms(1.0, &mut values), ms(0.0, &mut values)),
        (50, 99, 100, 1)
    );
}
