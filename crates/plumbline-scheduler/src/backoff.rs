//! Smaller batches after the device ran out of memory, and slowly back.

use crate::SchedulerConfig;

/// Successful batches until a model takes back one step of saving memory.
const CALM_BATCHES: u32 = 64;

/// After each successful batch the budget grows by one part in so many of the configured one.
const GROWTH: usize = 64;

/// The budget of a batch as the device's memory allows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    configured: usize,
    tokens: usize,
    successes: u32,
}

impl Backoff {
    pub(crate) fn new(config: &SchedulerConfig) -> Self {
        Self { configured: config.max_batch_tokens, tokens: config.max_batch_tokens, successes: 0 }
    }

    /// Rows of the next batch at most.
    pub(crate) fn batch_tokens(&self) -> usize {
        self.tokens
    }

    /// A batch of so many rows did not fit.
    pub(crate) fn out_of_memory(&mut self, rows: usize) {
        self.tokens = self.tokens.min(rows / 2).max(1);
        self.successes = 0;
    }

    /// A batch was scored. Whether the model may spend a step of memory again.
    pub(crate) fn scored(&mut self) -> bool {
        self.tokens = self.tokens.saturating_add(self.configured.div_ceil(GROWTH)).min(self.configured);
        self.successes += 1;
        let calm = self.successes >= CALM_BATCHES;
        if calm {
            self.successes = 0;
        }
        calm
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backoff() -> Backoff {
        Backoff::new(&SchedulerConfig {
            max_queue_tokens: 1,
            max_batch_tokens: 1000,
            max_batch_sequences: 1,
            keep_versions: 1,
            max_weight_bytes: 0,
            aside_share: 0.0,
            max_aside_jobs: 1,
            interactive_stretch: 2.5,
            quarantine: std::time::Duration::ZERO,
            restart_after_panics: 0,
        })
    }

    #[test]
    fn the_budget_halves_and_comes_back_slowly_but_not_further() {
        let mut backoff = backoff();
        assert_eq!(backoff.batch_tokens(), 1000);
        backoff.out_of_memory(800);
        assert_eq!(backoff.batch_tokens(), 400);
        backoff.out_of_memory(1);
        assert_eq!(backoff.batch_tokens(), 1, "never nothing");
        backoff.scored();
        assert_eq!(backoff.batch_tokens(), 17);
        for _ in 0..100 {
            backoff.scored();
        }
        assert_eq!(backoff.batch_tokens(), 1000);
    }

    #[test]
    fn memory_is_spent_again_after_a_calm_while() {
        let mut backoff = backoff();
        let calm = |backoff: &mut Backoff, count| (0..count).filter(|_| backoff.scored()).count();
        assert_eq!(calm(&mut backoff, 63), 0);
        backoff.out_of_memory(10);
        assert_eq!(calm(&mut backoff, 63), 0, "counted anew");
        assert_eq!(calm(&mut backoff, 65), 2);
    }
}
