//! Limits of the queue, of a batch, of the versions in memory and of jobs beside scoring.

use std::io;
use std::time::Duration;

/// Limits of the queue, of a batch, of the versions in memory and of jobs beside scoring, and what follows a panic.
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
    /// Part of a model thread's time that jobs beside scoring ([`Scheduler::aside`](crate::Scheduler::aside)) get while there
    /// is something to score; at least 0 (they wait for idle time) and below 1. What a job takes above it, later ones wait
    /// for.
    pub aside_share: f64,
    /// Jobs that may wait.
    pub max_aside_jobs: usize,
    /// How many times as long as alone [`Class::Interactive`](crate::Class::Interactive) work may take, by estimate; above 1.
    pub interactive_stretch: f64,
    /// How long a sequence that made the model panic is refused; zero = not at all.
    pub quarantine: Duration,
    /// Batches that panicked after which a model thread loads its weights again; 0 = it never does for that reason.
    pub restart_after_panics: u32,
}

impl SchedulerConfig {
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] naming the limit that is out of its range.
    pub(crate) fn check(&self) -> io::Result<()> {
        for (name, value) in [
            ("max_queue_tokens", self.max_queue_tokens),
            ("max_batch_tokens", self.max_batch_tokens),
            ("max_batch_sequences", self.max_batch_sequences),
            ("keep_versions", self.keep_versions),
            ("max_aside_jobs", self.max_aside_jobs),
        ] {
            if value == 0 {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name} must be above 0")));
            }
        }
        if !(0.0..1.0).contains(&self.aside_share) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "aside_share must be at least 0 and below 1"));
        }
        if self.interactive_stretch.is_nan() || self.interactive_stretch <= 1.0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "interactive_stretch must be above 1"));
        }
        Ok(())
    }
}
