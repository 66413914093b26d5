//! Where the time of the CPU kernels goes.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// A part of scoring a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Products to queries, keys and values and back, and of routers.
    ProjectionGemm,
    /// Products of MLPs and experts.
    MlpGemm,
    /// Products of the lm_head.
    HeadGemm,
    /// The products in attention: their share of its threads' time, as part of its wall time.
    AttentionGemm,
    /// All else in attention: gathering keys, masks, softmax.
    AttentionOther,
    /// Norms and residual additions.
    Norm,
    /// Query and key norms and rotary embeddings.
    Rotary,
    /// Activation functions.
    Activation,
    /// Statistics of logits.
    HeadStatistics,
    /// Embedding, gathering and scattering of rows.
    Rows,
}

impl Stage {
    /// All stages.
    pub const ALL: [Self; 10] = [
        Self::ProjectionGemm,
        Self::MlpGemm,
        Self::HeadGemm,
        Self::AttentionGemm,
        Self::AttentionOther,
        Self::Norm,
        Self::Rotary,
        Self::Activation,
        Self::HeadStatistics,
        Self::Rows,
    ];

    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ProjectionGemm => "projection_gemm",
            Self::MlpGemm => "mlp_gemm",
            Self::HeadGemm => "head_gemm",
            Self::AttentionGemm => "attention_gemm",
            Self::AttentionOther => "attention_other",
            Self::Norm => "norm",
            Self::Rotary => "rotary",
            Self::Activation => "activation",
            Self::HeadStatistics => "head_statistics",
            Self::Rows => "rows",
        }
    }

    /// Whether the stage is matrix products and nothing else.
    #[must_use]
    pub fn is_gemm(self) -> bool {
        matches!(self, Self::ProjectionGemm | Self::MlpGemm | Self::HeadGemm | Self::AttentionGemm)
    }
}

/// Wall time by stage, summed over batches. Only the CPU kernels fill it.
#[derive(Debug, Default)]
pub struct Profile {
    nanos: [AtomicU64; Stage::ALL.len()],
}

impl Profile {
    /// Time spent in a stage so far.
    #[must_use]
    pub fn time(&self, stage: Stage) -> Duration {
        Duration::from_nanos(self.nanos[stage as usize].load(Relaxed))
    }

    pub(crate) fn add(&self, stage: Stage, time: Duration) {
        self.nanos[stage as usize].fetch_add(time.as_nanos() as u64, Relaxed);
    }

    /// Runs `work` and counts its time, if there is a profile.
    pub(crate) fn timed<T>(profile: Option<&Self>, stage: Stage, work: impl FnOnce() -> T) -> T {
        let Some(profile) = profile else { return work() };
        let started = Instant::now();
        let result = work();
        profile.add(stage, started.elapsed());
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_have_places_of_their_own() {
        let profile = Profile::default();
        for (index, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, index);
            profile.add(stage, Duration::from_nanos(index as u64));
        }
        for (index, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(profile.time(stage), Duration::from_nanos(index as u64), "{}", stage.name());
        }
    }
}
