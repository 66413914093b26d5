//! `|d|` by something else: position, engine probability, entropy.

use super::histogram::LogHistogram;

/// Steps per decade of a bin's histogram: its 99 % quantile is right to 15 %, mostly far better by interpolation.
const STEPS: usize = 16;

/// `|d|` in bins of another quantity. Merging adds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Profile {
    edges: Vec<f64>,
    bins: Vec<Bin>,
}

#[derive(Clone, Debug, PartialEq)]
struct Bin {
    abs_delta: f64,
    largest: f64,
    histogram: LogHistogram<STEPS>,
}

/// One bin with tokens.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ProfilePoint {
    /// From here,
    pub(crate) from: f64,
    /// to below here; infinite for the last.
    pub(crate) to: f64,
    pub(crate) tokens: u64,
    /// Mean `|d|` in nats.
    pub(crate) mean: f64,
    /// Median `|d|` in nats.
    pub(crate) p50: f64,
    /// 99 % quantile of `|d|` in nats.
    pub(crate) p99: f64,
}

/// Edges of engine probabilities: fine at both ends.
const PROBABILITIES: [f64; 20] =
    [0.0, 1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 0.9999];
/// Edges of entropies in nats.
const ENTROPIES: [f64; 18] =
    [0.0, 1e-3, 0.01, 0.03, 0.1, 0.2, 0.4, 0.7, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0];

impl Profile {
    /// By index in the completion: two bins per doubling, up to 16 million tokens.
    pub(crate) fn by_position() -> Self {
        let mut edges = vec![0.0, 1.0];
        edges.extend((1..24).flat_map(|power| [f64::from(1u32 << power), 1.5 * f64::from(1u32 << power)]));
        Self::new(edges)
    }

    /// By the probability that the engine gave to the token.
    pub(crate) fn by_probability() -> Self {
        Self::new(PROBABILITIES.to_vec())
    }

    /// By entropy of the reference's next-token distribution in nats.
    pub(crate) fn by_entropy() -> Self {
        Self::new(ENTROPIES.to_vec())
    }

    fn new(edges: Vec<f64>) -> Self {
        let empty = Bin { abs_delta: 0.0, largest: 0.0, histogram: LogHistogram::new() };
        Self { bins: vec![empty; edges.len()], edges }
    }

    /// Counts a token; `at` below the first edge, by rounding, belongs to the first bin.
    pub(crate) fn observe(&mut self, at: f64, abs_delta: f64) {
        let bin = self.edges.partition_point(|edge| *edge <= at).saturating_sub(1);
        let bin = &mut self.bins[bin];
        bin.abs_delta += abs_delta;
        bin.largest = bin.largest.max(abs_delta);
        bin.histogram.observe(abs_delta);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (own, other) in self.bins.iter_mut().zip(&other.bins) {
            own.abs_delta += other.abs_delta;
            own.largest = own.largest.max(other.largest);
            own.histogram.merge(&other.histogram);
        }
    }

    pub(crate) fn cells(&self) -> usize {
        self.bins.iter().map(|bin| bin.histogram.cells()).sum()
    }

    /// The bins with tokens, in order.
    pub(crate) fn points(&self) -> Vec<ProfilePoint> {
        let ends = self.edges.iter().skip(1).copied().chain([f64::INFINITY]);
        let bins = self.edges.iter().zip(ends).zip(&self.bins);
        bins.filter_map(|((&from, to), bin)| {
            let tokens = bin.histogram.total();
            let quantile = |q| bin.histogram.quantile(q, bin.largest);
            let mean = bin.abs_delta / tokens as f64;
            Some(ProfilePoint { from, to, tokens, mean, p50: quantile(0.5)?, p99: quantile(0.99)? })
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_one_bin() {
        let mut positions = Profile::by_position();
        for (position, bin) in
            [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0), (5, 4.0), (6, 6.0), (1 << 30, 1.5 * 8_388_608.0)]
        {
            positions = Profile::by_position();
            positions.observe(f64::from(position), 0.5);
            assert_eq!(positions.points()[0].from, bin, "{position}");
        }
        assert!(positions.edges.is_sorted());
        let mut probabilities = Profile::by_probability();
        [0.0, 1.0, 1.0].into_iter().for_each(|at| probabilities.observe(at, 0.25));
        let points = probabilities.points();
        assert_eq!((points.len(), points[0].tokens, points[1].from), (2, 1, 0.9999));
        assert_eq!((points[1].tokens, points[1].mean, points[1].p99), (2, 0.25, 0.25));
        let mut entropies = Profile::by_entropy();
        entropies.observe(-1e-9, 0.1);
        assert_eq!(entropies.points()[0].from, 0.0);
    }

    #[test]
    fn merging_is_observing_both() {
        let (mut one, mut two, mut both) = (Profile::by_entropy(), Profile::by_entropy(), Profile::by_entropy());
        one.observe(0.5, 0.25);
        two.observe(0.5, 0.75);
        [0.25, 0.75].into_iter().for_each(|delta| both.observe(0.5, delta));
        one.merge(&two);
        assert_eq!(one, both);
    }
}
