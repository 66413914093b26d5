//! How fast the models are.

use std::time::Duration;

/// Weight that a batch keeps when the next one comes.
const DECAY: f64 = 0.9;

/// Tokens per second over recent batches: the ratio of two exponentially decayed sums, so that a batch weighs by its time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Throughput {
    tokens: f64,
    seconds: f64,
}

impl Throughput {
    pub(crate) fn record(&mut self, tokens: usize, elapsed: Duration) {
        self.tokens = self.tokens * DECAY + tokens as f64;
        self.seconds = self.seconds * DECAY + elapsed.as_secs_f64();
    }

    /// `None` until a batch with tokens took measurable time.
    pub(crate) fn tokens_per_second(&self) -> Option<f64> {
        (self.tokens > 0.0 && self.seconds > 0.0).then(|| self.tokens / self.seconds)
    }
}

/// Speed of several model threads together; one that has measured nothing yet counts nothing.
pub(crate) fn together(threads: &[Throughput]) -> Option<f64> {
    threads.iter().filter_map(Throughput::tokens_per_second).reduce(|all, own| all + own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_known_before_the_first_batch() {
        assert_eq!(Throughput::default().tokens_per_second(), None);
        assert_eq!(together(&[Throughput::default(); 2]), None);
    }

    #[test]
    fn the_first_batch_counts_whole_and_later_ones_take_over() {
        let mut throughput = Throughput::default();
        throughput.record(100, Duration::from_secs(2));
        assert_eq!(throughput.tokens_per_second(), Some(50.0));
        for _ in 0..200 {
            throughput.record(1000, Duration::from_secs(1));
        }
        let speed = throughput.tokens_per_second().unwrap();
        assert!((speed - 1000.0).abs() < 1.0, "{speed}");
    }

    #[test]
    fn a_short_batch_weighs_by_its_time() {
        let mut throughput = Throughput::default();
        throughput.record(10_000, Duration::from_secs(10));
        throughput.record(1, Duration::from_millis(10));
        let speed = throughput.tokens_per_second().unwrap();
        assert!(speed > 990.0, "one tiny batch must not halve the estimate: {speed}");
    }

    #[test]
    fn threads_add_up() {
        let mut threads = [Throughput::default(); 3];
        threads[0].record(100, Duration::from_secs(1));
        assert_eq!(together(&threads), Some(100.0), "two have scored nothing yet");
        threads[2].record(100, Duration::from_secs(2));
        assert_eq!(together(&threads), Some(150.0));
    }

    #[test]
    fn a_batch_without_tokens_is_no_measurement() {
        let mut throughput = Throughput::default();
        throughput.record(0, Duration::from_secs(1));
        assert_eq!(throughput.tokens_per_second(), None);
    }
}
