//! Everything that is kept of one engine.

use std::collections::BTreeMap;

use plumbline_core::SkipCounts;
use plumbline_divergence::{ClusteredSums, PointSums, SufficientStatistics, Verdict};

use super::grid::Grid;
use super::histogram::SignedHistogram;
use super::kept::KeptSequences;
use super::observed::Observed;
use super::profile::Profile;
use super::row::{SequenceRow, clipped};
use super::sample::Sample;
use crate::limits::{CollectorLimits, Footprint};

/// Sums that were made elsewhere over more than was observed.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Of all sequences.
    pub statistics: SufficientStatistics,
    /// Of all sequences.
    pub clusters: ClusteredSums,
    /// Tokens in no sum.
    pub skipped: SkipCounts,
    /// Sequences by verdict, in the order of [`Verdict::ALL`].
    pub verdicts: [u64; Verdict::ALL.len()],
    /// Diagnosed sequences by their likeliest cause.
    pub causes: BTreeMap<&'static str, u64>,
    /// By worker; `None` = further ones.
    pub workers: Vec<(Option<String>, PointSums)>,
    /// By version of the weights that scored; `None` = further ones.
    pub policy_versions: Vec<(Option<String>, PointSums)>,
}

/// Sums by a label.
#[derive(Clone, Debug, Default)]
pub(crate) struct Labels {
    pub(crate) named: BTreeMap<String, PointSums>,
    /// Under labels beyond the limit.
    pub(crate) others: PointSums,
}

impl Labels {
    fn sums(&mut self, label: &str, limit: usize) -> &mut PointSums {
        let label = clipped(label);
        if self.named.len() >= limit && !self.named.contains_key(&label) {
            return &mut self.others;
        }
        self.named.entry(label).or_default()
    }

    fn merge(&mut self, other: Self, limit: usize) {
        for (label, sums) in other.named {
            self.sums(&label, limit).merge(&sums);
        }
        self.others.merge(&other.others);
    }
}

/// One engine.
#[derive(Clone, Debug)]
pub(crate) struct EngineSums {
    limits: CollectorLimits,
    pub(crate) sums: Totals,
    /// Sums over more than was observed, where there are some.
    pub(crate) totals: Option<Totals>,
    /// `(e, r)` of every compared token while they are few; `None` once there are too many.
    pub(crate) pairs: Option<Vec<(f64, f64)>>,
    pub(crate) probabilities: Grid,
    pub(crate) logprobs: Grid,
    pub(crate) deltas: SignedHistogram,
    pub(crate) by_position: Profile,
    pub(crate) by_probability: Profile,
    pub(crate) by_entropy: Profile,
    pub(crate) workers: Labels,
    pub(crate) versions: Labels,
    /// Observed sequences, also those without a compared token.
    pub(crate) observed: u64,
    pub(crate) rows: Sample<SequenceRow>,
    pub(crate) kept: KeptSequences,
}

impl EngineSums {
    pub(crate) fn new(limits: &CollectorLimits) -> Self {
        Self {
            limits: limits.clone(),
            sums: Totals::default(),
            totals: None,
            pairs: Some(Vec::new()),
            probabilities: Grid::of_probabilities(),
            logprobs: Grid::of_logprobs(),
            deltas: SignedHistogram::new(),
            by_position: Profile::by_position(),
            by_probability: Profile::by_probability(),
            by_entropy: Profile::by_entropy(),
            workers: Labels::default(),
            versions: Labels::default(),
            observed: 0,
            rows: Sample::new(limits.sequence_rows, limits.seed),
            kept: KeptSequences::new(limits.kept_tokens, limits.candidate_tokens, limits.seed),
        }
    }

    pub(crate) fn observe(&mut self, observed: &Observed<'_>) {
        let statistics = observed.statistics;
        self.observed += 1;
        self.sums.statistics.merge(statistics);
        self.sums.clusters.observe_cluster(statistics);
        self.sums.skipped.merge(&observed.comparison.skipped);
        self.sums.verdicts[observed.judgement.verdict as usize] += 1;
        self.observe_tokens(observed);
        let labels = self.limits.labels;
        for (all, label) in [(&mut self.workers, observed.worker), (&mut self.versions, observed.policy_version)] {
            if let Some(label) = label {
                all.sums(label, labels).observe(statistics);
            }
        }
        if let Some(first) = observed.findings.first() {
            *self.sums.causes.entry(first.cause.as_str()).or_default() += 1;
        }
        self.rows.offer(&observed.comparison.id, || SequenceRow::of(observed));
        if statistics.tokens > 0 {
            self.kept.observe(observed);
        }
    }

    fn observe_tokens(&mut self, observed: &Observed<'_>) {
        for (position, token) in observed.comparison.tokens.iter().enumerate() {
            let Some((engine, reference)) = token.compared() else { continue };
            let delta = reference - engine;
            self.probabilities.observe(engine.exp(), reference.exp());
            self.logprobs.observe(engine, reference);
            self.deltas.observe(delta);
            self.by_position.observe(position as f64, delta.abs());
            self.by_probability.observe(engine.exp(), delta.abs());
            if let Some(entropy) = token.entropy {
                self.by_entropy.observe(entropy, delta.abs());
            }
            if let Some(pairs) = &mut self.pairs {
                pairs.push((engine, reference));
            }
        }
        self.drop_pairs();
    }

    fn drop_pairs(&mut self) {
        if self.pairs.as_ref().is_some_and(|pairs| pairs.len() > self.limits.exact_tokens) {
            self.pairs = None;
        }
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.observed += other.observed;
        self.sums.merge(&other.sums);
        if let Some(totals) = &other.totals {
            self.totals.get_or_insert_default().merge(totals);
        }
        self.pairs = self.pairs.take().zip(other.pairs).map(|(mut own, mut others)| {
            own.append(&mut others);
            own
        });
        self.drop_pairs();
        self.probabilities.merge(&other.probabilities);
        self.logprobs.merge(&other.logprobs);
        self.deltas.merge(&other.deltas);
        self.by_position.merge(&other.by_position);
        self.by_probability.merge(&other.by_probability);
        self.by_entropy.merge(&other.by_entropy);
        self.workers.merge(other.workers, self.limits.labels);
        self.versions.merge(other.versions, self.limits.labels);
        self.rows.merge(other.rows);
        self.kept.merge(other.kept);
    }

    pub(crate) fn add_to(&self, footprint: &mut Footprint) {
        let (sequences, tokens) = self.kept.held();
        let profiles = [&self.by_position, &self.by_probability, &self.by_entropy];
        footprint.engines += 1;
        footprint.sequence_rows += self.rows.len();
        footprint.labels += self.workers.named.len() + self.versions.named.len();
        footprint.pairs += self.pairs.as_ref().map_or(0, Vec::len);
        footprint.kept_sequences += sequences;
        footprint.kept_tokens += tokens;
        footprint.cells += self.probabilities.cells() + self.logprobs.cells() + self.deltas.cells();
        footprint.cells += profiles.into_iter().map(Profile::cells).sum::<usize>();
    }
}

impl Totals {
    pub(crate) fn merge(&mut self, other: &Self) {
        self.statistics.merge(&other.statistics);
        self.clusters.merge(&other.clusters);
        self.skipped.merge(&other.skipped);
        for (own, others) in self.verdicts.iter_mut().zip(other.verdicts) {
            *own += others;
        }
        for (cause, count) in &other.causes {
            *self.causes.entry(cause).or_default() += count;
        }
        self.workers.extend(other.workers.iter().cloned());
        self.policy_versions.extend(other.policy_versions.iter().cloned());
    }
}
