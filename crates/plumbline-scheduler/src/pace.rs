//! How long batches take: what admission promises from.

use std::time::Duration;

/// Weight that a batch keeps when the next one comes.
const DECAY: f64 = 0.97;

/// Spread of the batches' sizes, relative to their mean, below which nothing can be said about the time of an empty batch.
const LEAST_SPREAD: f64 = 0.1;

/// Wall time of a batch as a line over its tokens, by least squares over recent batches: a part that every batch takes (on
/// a GPU it is most of a small one) and a part for each token.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    batches: f64,
    tokens: f64,
    seconds: f64,
    tokens_squared: f64,
    product: f64,
}

/// The line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct BatchTime {
    /// Seconds of every batch.
    pub(crate) each: f64,
    /// Seconds of every token.
    pub(crate) token: f64,
}

impl Pace {
    pub(crate) fn record(&mut self, tokens: usize, elapsed: Duration) {
        let (tokens, seconds) = (tokens as f64, elapsed.as_secs_f64());
        for (sum, term) in [
            (&mut self.batches, 1.0),
            (&mut self.tokens, tokens),
            (&mut self.seconds, seconds),
            (&mut self.tokens_squared, tokens * tokens),
            (&mut self.product, tokens * seconds),
        ] {
            *sum = *sum * DECAY + term;
        }
    }

    /// `None` until a batch with tokens took measurable time.
    pub(crate) fn line(&self) -> Option<BatchTime> {
        if self.tokens <= 0.0 || self.seconds <= 0.0 {
            return None;
        }
        let proportional = BatchTime { each: 0.0, token: self.seconds / self.tokens };
        let (mean, mean_seconds) = (self.tokens / self.batches, self.seconds / self.batches);
        let variance = self.tokens_squared / self.batches - mean * mean;
        if variance < (LEAST_SPREAD * mean).powi(2) {
            return Some(proportional);
        }
        let token = (self.product / self.batches - mean * mean_seconds) / variance;
        let each = mean_seconds - token * mean;
        // Noise can tilt the line until a part is below zero, which none can be.
        Some(if token > 0.0 && each >= 0.0 { BatchTime { each, token } } else { proportional })
    }
}

impl BatchTime {
    /// Seconds of one batch.
    pub(crate) fn batch(self, tokens: usize) -> f64 {
        self.each + self.token * tokens as f64
    }

    /// Seconds of so many tokens in batches of at most `most`.
    pub(crate) fn batches(self, tokens: usize, most: usize) -> f64 {
        self.each * tokens.div_ceil(most.max(1)).max(1) as f64 + self.token * tokens as f64
    }

    /// Tokens of a batch that takes so long; at least one.
    pub(crate) fn tokens_within(self, seconds: f64) -> usize {
        // The cast saturates; what is below zero becomes 0.
        (((seconds - self.each) / self.token) as usize).max(1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_is_known_before_the_first_batch() {
        assert_eq!(Pace::default().line(), None);
        let mut pace = Pace::default();
        pace.record(0, Duration::from_secs(1));
        assert_eq!(pace.line(), None, "a batch without tokens is no measurement");
    }

    #[test]
    fn batches_of_one_size_say_nothing_about_an_empty_one() {
        let mut pace = Pace::default();
        for _ in 0..10 {
            pace.record(100, Duration::from_secs(2));
        }
        let line = pace.line().unwrap();
        assert!(line.each == 0.0 && (line.token - 0.02).abs() < 1e-9, "{line:?}");
    }

    #[test]
    fn more_tokens_that_took_less_time_do_not_make_a_token_free() {
        let mut pace = Pace::default();
        pace.record(100, Duration::from_secs(2));
        pace.record(1000, Duration::from_secs(1));
        assert!(pace.line().unwrap().token > 0.0 && pace.line().unwrap().each >= 0.0);
    }

    proptest! {
        /// A device that keeps to a line is described by it, and the two directions agree.
        #[test]
        fn a_line_is_found_again(each in 0.0f64..0.1, token in 1e-6f64..1e-3, sizes in prop::collection::vec(1usize..9000, 5..60)) {
            let mut pace = Pace::default();
            for &size in sizes.iter().chain(&[10, 8000]) {
                pace.record(size, Duration::from_secs_f64(each + token * size as f64));
            }
            let line = pace.line().unwrap();
            prop_assert!((line.batch(4000) - each - token * 4000.0).abs() < 1e-3 * (each + token * 4000.0) + 1e-6, "{line:?}");
            let within = line.tokens_within(line.batch(500));
            prop_assert!((499..=501).contains(&within), "{within}");
        }
    }
}
