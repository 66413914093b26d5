//! From scored sequences to what a report needs, in bounded memory.
//!
//! Sums, grids and histograms take every compared token; single values are kept only as far as
//! [`CollectorLimits`](crate::CollectorLimits) says, and what was sampled is said in the report.

mod engine;
mod grid;
mod histogram;
mod kept;
mod observed;
mod profile;
mod row;
mod sample;

use std::collections::BTreeMap;

use plumbline_core::TokenText;

pub use self::engine::Totals;
pub(crate) use self::engine::{EngineSums, Labels};
pub(crate) use self::grid::Cells;
pub(crate) use self::histogram::{Density, SignedHistogram};
pub(crate) use self::kept::KeptSequence;
pub use self::observed::Observed;
pub(crate) use self::profile::{Profile, ProfilePoint};
pub(crate) use self::row::{SequenceRow, clipped};
use crate::document;
use crate::facts::Facts;
use crate::limits::{CollectorLimits, Footprint};
use crate::report::Report;

/// The label under which engines beyond [`CollectorLimits::engines`] are pooled.
pub(crate) const OTHER: &str = "other";

/// Takes in scored sequences one by one. Memory is bounded by [`CollectorLimits`] whatever the number of sequences, engines,
/// labels and tokens; sums are exact.
#[derive(Clone, Debug)]
pub struct Collector {
    limits: CollectorLimits,
    engines: BTreeMap<String, EngineSums>,
    /// Sequences of engines beyond the limit.
    pooled: u64,
}

impl Collector {
    /// An empty collector.
    #[must_use]
    pub fn new(limits: CollectorLimits) -> Self {
        Self { limits, engines: BTreeMap::new(), pooled: 0 }
    }

    /// Takes in one sequence.
    pub fn observe(&mut self, observed: &Observed<'_>) {
        let engine = self.label(observed.engine);
        self.pooled += u64::from(engine == OTHER && observed.engine != OTHER);
        self.engine(engine).observe(observed);
    }

    /// Adds everything that another has observed.
    pub fn merge(&mut self, other: Self) {
        self.pooled += other.pooled;
        for (engine, sums) in other.engines {
            let label = self.label(&engine);
            self.pooled += if label == OTHER && engine != OTHER { sums.observed } else { 0 };
            self.engine(label).merge(sums);
        }
    }

    /// Says that an engine's metrics are these sums, made elsewhere over more sequences than the ones observed here; several for
    /// one engine add up. Views and sequences still are of the observed ones, and the report says so.
    pub fn add_totals(&mut self, engine: &str, totals: &Totals) {
        let label = self.label(engine);
        self.engine(label).totals.get_or_insert_default().merge(totals);
    }

    /// Compared tokens of the observed sequences.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.engines.values().map(|engine| engine.sums.statistics.tokens).sum()
    }

    /// Observed sequences.
    #[must_use]
    pub fn sequences(&self) -> u64 {
        self.engines.values().map(|engine| engine.observed).sum()
    }

    /// Counts of what is held.
    #[must_use]
    pub fn footprint(&self) -> Footprint {
        let mut footprint = Footprint::default();
        self.engines.values().for_each(|engine| engine.add_to(&mut footprint));
        footprint
    }

    /// The report. `text` gives the words of the shown tokens; without it they have none. CPU-bound, some 100 ms.
    #[must_use]
    pub fn finish(self, facts: Facts, text: Option<&dyn TokenText>) -> Report {
        let statistics = self.engines.iter().map(|(label, sums)| {
            let totals = sums.totals.as_ref().unwrap_or(&sums.sums);
            (label.clone(), totals.statistics.clone())
        });
        let statistics = statistics.collect();
        Report::new(document::build(&self.engines, self.pooled, &self.limits, facts, text), statistics)
    }

    /// The label under which an engine is kept.
    fn label(&self, engine: &str) -> String {
        let label = clipped(engine);
        let known = self.engines.contains_key(&label) || self.engines.len() < self.limits.engines;
        if known { label } else { OTHER.to_owned() }
    }

    fn engine(&mut self, label: String) -> &mut EngineSums {
        self.engines.entry(label).or_insert_with(|| EngineSums::new(&self.limits))
    }
}
