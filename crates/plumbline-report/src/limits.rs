//! What a collector may keep.

use serde::Serialize;

/// What a [`Collector`](crate::Collector) keeps at most. Sums are over everything that was observed and never depend on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CollectorLimits {
    /// Engines; sequences of further ones are pooled under `other`, and the report says so.
    pub engines: usize,
    /// Summary rows of sequences per engine; beyond them a seeded uniform sample.
    pub sequence_rows: usize,
    /// Workers, and policy versions, per engine; further ones are pooled.
    pub labels: usize,
    /// Compared tokens per engine up to which quantiles and Spearman's correlation are exact.
    pub exact_tokens: usize,
    /// Tokens that are kept of the longest and of the worst sequence each, from its beginning.
    pub kept_tokens: usize,
    /// Tokens of all sequences together among which the typical one is looked for, per engine.
    pub candidate_tokens: usize,
    /// Seed of every sample.
    pub seed: u64,
}

impl Default for CollectorLimits {
    fn default() -> Self {
        Self {
            engines: 16,
            sequence_rows: 5_000,
            labels: 64,
            exact_tokens: 1 << 17,
            kept_tokens: 1 << 14,
            candidate_tokens: 1 << 16,
            seed: 17,
        }
    }
}

/// Counts of what a [`Collector`](crate::Collector) holds. Everything else that it holds has a fixed size per engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Engines with sums of their own, `other` included.
    pub engines: usize,
    /// Summary rows of sequences.
    pub sequence_rows: usize,
    /// Workers and policy versions with sums of their own.
    pub labels: usize,
    /// Pairs of logprobs that are kept for exact quantiles.
    pub pairs: usize,
    /// Sequences that are kept with their tokens.
    pub kept_sequences: usize,
    /// Tokens of those, prompts included.
    pub kept_tokens: usize,
    /// Cells of all grids and histograms.
    pub cells: usize,
}
