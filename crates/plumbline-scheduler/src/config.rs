//! Limits of the queue, of a batch and of the versions in memory.

use std::io;

/// Limits of the queue, of a batch and of the versions in memory. All but `max_weight_bytes` must be above 0.
///
/// A sequence counts [`ScoringSequence::forward_tokens`](plumbline_core::ScoringSequence::forward_tokens), but at least 1,
/// so that sequences with nothing to score are bounded too.
#[derive(Clone, Copy, Debug)]
pub struct SchedulerConfig {
    /// Most tokens that may wait; what is being scored no longer counts.
    pub max_queue_tokens: usize,
    /// Most tokens of a batch of several sequences. A longer sequence is scored alone.
    pub max_batch_tokens: usize,
    /// Most sequences of a batch.
    pub max_batch_sequences: usize,
    /// Versions of the weights that work can ask for, the current one included.
    pub keep_versions: usize,
    /// Bytes of all weights in memory, on all devices together, those of a version that is being loaded included; 0 = no
    /// limit.
    pub max_weight_bytes: u64,
}

impl SchedulerConfig {
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] naming the limit that is 0.
    pub(crate) fn check(&self) -> io::Result<()> {
        for (name, value) in [
            ("max_queue_tokens", self.max_queue_tokens),
            ("max_batch_tokens", self.max_batch_tokens),
            ("max_batch_sequences", self.max_batch_sequences),
            ("keep_versions", self.keep_versions),
        ] {
            if value == 0 {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name} must be above 0")));
            }
        }
        Ok(())
    }
}
