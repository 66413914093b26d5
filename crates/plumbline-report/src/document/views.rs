//! Views of all tokens of an engine: grids, densities, profiles.

use plumbline_divergence::FloorCurve;
use serde::Serialize;

use crate::collector::{Cells, Density, EngineSums, Profile, ProfilePoint, SignedHistogram};

/// Bins of the density of `d`.
const DENSITY_BINS: usize = 121;
/// Part of the tokens that the density shows.
const DENSITY_PART: f64 = 0.998;

/// All views of one engine.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Views {
    pub(crate) probabilities: GridView,
    pub(crate) logprobs: GridView,
    pub(crate) log_ratios: DensityView,
    pub(crate) by_position: ProfileView,
    pub(crate) by_engine_probability: ProfileView,
    pub(crate) by_entropy: ProfileView,
}

/// Tokens by engine and reference on a grid.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct GridView {
    /// Both axes begin here,
    pub(crate) from: f64,
    /// end here,
    pub(crate) to: f64,
    /// and have so many cells.
    pub(crate) side: usize,
    /// `[engine cell, reference cell, tokens]` of the cells with tokens.
    pub(crate) cells: Vec<[u64; 3]>,
    /// Tokens that lie outside.
    pub(crate) outside: u64,
}

impl GridView {
    fn of(cells: &Cells) -> Self {
        let side = cells.side as u64;
        let occupied = cells.counts.iter().zip(0u64..).filter(|(count, _)| **count > 0);
        Self {
            from: cells.from,
            to: cells.to,
            side: cells.side,
            cells: occupied.map(|(count, index)| [index % side, index / side, *count]).collect(),
            outside: cells.outside,
        }
    }

    /// Tokens per cell along one axis: 0 = engine, 1 = reference.
    pub(crate) fn marginal(&self, axis: usize) -> Vec<u64> {
        let mut sums = vec![0; self.side];
        for cell in &self.cells {
            sums[cell[axis] as usize] += cell[2];
        }
        sums
    }
}

/// How `d` is distributed.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct DensityView {
    /// The bins, of equal width, go from minus this to this, in nats.
    pub(crate) limit: f64,
    /// Part of the tokens per nat, by bin.
    pub(crate) density: Vec<f64>,
    /// Tokens with a larger `|d|`.
    pub(crate) beyond: u64,
}

impl DensityView {
    fn of(deltas: &SignedHistogram, limit: f64, tokens: u64) -> Self {
        let Density { limit, counts, beyond } = deltas.density(limit, DENSITY_BINS);
        let weight = if tokens == 0 { 0.0 } else { 1.0 / tokens as f64 / (2.0 * limit / DENSITY_BINS as f64) };
        let density = counts.into_iter().map(|count| count * weight).collect();
        Self { limit, density, beyond: beyond.round() as u64 }
    }

    /// The middle of each bin.
    pub(crate) fn middles(&self) -> impl Iterator<Item = f64> {
        let (limit, bins) = (self.limit, self.density.len() as f64);
        (0..self.density.len()).map(move |bin| ((bin as f64 + 0.5) / bins * 2.0 - 1.0) * limit)
    }
}

/// `|d|` by bins of something else; only bins with tokens.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct ProfileView {
    pub(crate) from: Vec<f64>,
    /// `null` = no end.
    pub(crate) to: Vec<Option<f64>>,
    pub(crate) tokens: Vec<u64>,
    /// Mean `|d|` in nats.
    pub(crate) mean: Vec<f64>,
    /// Median `|d|` in nats.
    pub(crate) p50: Vec<f64>,
    /// 99 % quantile of `|d|` in nats.
    pub(crate) p99: Vec<f64>,
    /// Mean `|d|` of a faithful bf16 engine in the middle of the bin; only by entropy, where a floor is known.
    pub(crate) floor: Option<Vec<f64>>,
}

impl ProfileView {
    fn of(profile: &Profile) -> Self {
        let mut view = Self::default();
        for ProfilePoint { from, to, tokens, mean, p50, p99 } in profile.points() {
            view.from.push(from);
            view.to.push(to.is_finite().then_some(to));
            view.tokens.push(tokens);
            view.mean.push(mean);
            view.p50.push(p50);
            view.p99.push(p99);
        }
        view
    }

    fn with_floor(mut self, floor: Option<&FloorCurve>) -> Self {
        let middle = |(from, to): (&f64, &Option<f64>)| to.map_or(*from, |to| (from + to) / 2.0);
        let middles = self.from.iter().zip(&self.to).map(middle);
        self.floor = floor.map(|floor| middles.map(|entropy| floor.token(entropy).mean_abs).collect());
        self
    }
}

/// The half width in nats of the densities of all engines, so that they can be drawn on one axis: as wide as the widest
/// needs for 99.8 % of its tokens.
pub(super) fn density_limit<'a>(engines: impl Iterator<Item = &'a EngineSums>) -> f64 {
    let needed = engines.filter_map(|engine| {
        let largest = engine.sums.statistics.max_abs().unwrap_or(0.0);
        engine.deltas.absolute().quantile(DENSITY_PART, largest)
    });
    needed.fold(0.0, f64::max).max(1e-6)
}

impl Views {
    pub(super) fn of(engine: &EngineSums, density_limit: f64, floor: Option<&FloorCurve>) -> Self {
        Self {
            probabilities: GridView::of(&engine.probabilities.drawn()),
            logprobs: GridView::of(&engine.logprobs.drawn()),
            log_ratios: DensityView::of(&engine.deltas, density_limit, engine.sums.statistics.tokens),
            by_position: ProfileView::of(&engine.by_position),
            by_engine_probability: ProfileView::of(&engine.by_probability),
            by_entropy: ProfileView::of(&engine.by_entropy).with_floor(floor),
        }
    }
}
