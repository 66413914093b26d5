//! Pure maths: how far an engine's logprobs are from the reference's.
//!
//! [`compare`] lines up one rollout with the reference's scores. [`SufficientStatistics`] pools comparisons into sums that
//! merge exactly, so any window, any group and any number of replicas is a sum of sums; [`Metrics`] adds what needs the
//! single values (quantiles, Spearman). [`SlidingWindow`] and [`Monitor`] keep the recent past per run and engine.
//! [`NoiseFloor`] knows how far a faithful bf16 engine is from the reference, and [`VerdictLevels`] turns statistics into a
//! [`Verdict`] by it. [`ClusteredSums`] gives means their confidence intervals, and [`DriftDetector`] says since when a level is
//! not what it was. No I/O, no clock: time is passed in.
//!
//! Conventions: `e_t` is the engine's logprob of token `t`, `r_t` the reference's, `d_t = r_t - e_t` the log ratio
//! (reference over engine) and `rho_t = exp(d_t)` the importance ratio, in nats and f64. Samples come from the engine, so
//! every mean below is an expectation under the engine.

mod clustered;
mod comparison;
mod diagnosis;
mod drift;
mod gauges;
mod histogram;
mod metrics;
mod moments;
mod monitor;
mod noise_floor;
mod order;
mod statistics;
mod student;
mod terms;
mod verdict;
mod weights;
mod window;

pub use clustered::{ClusteredSums, Interval, RatioSums};
pub use comparison::{CompareError, SequenceComparison, TokenComparison, compare};
pub use diagnosis::{
    Cause, Diagnosis, DiagnosisConfig, DiagnosisInput, Finding, Floor, ModelFacts, ProbeError, Prober, RunDiagnosis,
    RunSequence, SequenceDiagnosis, SuspectSequence, diagnose,
};
pub use drift::{
    DriftConfig, DriftConfigError, DriftDetector, DriftDirection, DriftEvent, DriftKind, DriftMemory, DriftSample,
    DriftSampleError, DriftState, DriftUnit, DriftUpdate,
};
pub use histogram::DeltaHistogram;
pub use metrics::Metrics;
pub use moments::PairMoments;
pub use monitor::{
    DriftRecord, EvidenceKey, EvidenceSums, GroupKey, GroupSummary, GroupTotals, GroupView, LikeliestCause, Monitor,
    MonitorConfig, NamedPoint, PointSums, PooledSums, SequenceSummary, TimePoint, TokenEvidence, WorstToken,
};
pub use noise_floor::{ExpectedFloor, FloorBucket, FloorCurve, FloorHead, FloorSample, NoiseFloor, TokenFloor};
pub use statistics::SufficientStatistics;
pub use terms::{EXPONENT_LIMIT, PROBABILITY_EPSILON, TRUNCATION_CAP};
pub use verdict::{Judgement, Verdict, VerdictLevels};
pub use weights::{ImportanceWeights, importance_weights};
pub use window::{Merge, SlidingWindow};
