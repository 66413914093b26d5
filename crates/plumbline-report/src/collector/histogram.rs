//! Distributions of fixed size: counts in logarithmic steps, and what can be read from them.

/// Smallest value with a step of its own, as a power of ten; smaller ones, 0 included, share one.
const LOWEST_DECADE: i32 = -8;
/// Values from this power of ten on share one step.
const HIGHEST_DECADE: i32 = 3;
/// The step of the smallest values.
const BELOW: usize = 0;

/// Counts of values >= 0 in `STEPS` logarithmic steps per decade from 1e-8 to 1e3. Merging adds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LogHistogram<const STEPS: usize> {
    counts: Vec<u64>,
}

impl<const STEPS: usize> LogHistogram<STEPS> {
    const INNER: usize = STEPS * (HIGHEST_DECADE - LOWEST_DECADE) as usize;

    pub(crate) fn new() -> Self {
        Self { counts: vec![0; Self::INNER + 2] }
    }

    pub(crate) fn observe(&mut self, value: f64) {
        self.counts[Self::step_of(value)] += 1;
    }

    fn step_of(value: f64) -> usize {
        let place = ((value.log10() - f64::from(LOWEST_DECADE)) * STEPS as f64).floor();
        if place < 0.0 || value <= 0.0 { BELOW } else { (place as usize).min(Self::INNER) + 1 }
    }

    /// Lower and upper end of a step; the first begins at 0, the last has no end.
    fn ends(step: usize) -> (f64, f64) {
        let end = |step: usize| 10f64.powf(f64::from(LOWEST_DECADE) + step as f64 / STEPS as f64);
        match step {
            BELOW => (0.0, end(0)),
            step if step > Self::INNER => (end(Self::INNER), f64::INFINITY),
            step => (end(step - 1), end(step)),
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (own, others) in self.counts.iter_mut().zip(&other.counts) {
            *own += others;
        }
    }

    pub(crate) fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub(crate) fn cells(&self) -> usize {
        self.counts.len()
    }

    /// A quantile, `q` in [0, 1], interpolated within its step (in the logarithm) and never above `largest`, the exact maximum;
    /// 0 within the first step. `None` without values. Off by at most one step: a factor of `10^(1 / STEPS)`.
    pub(crate) fn quantile(&self, q: f64, largest: f64) -> Option<f64> {
        let total = self.total();
        if total == 0 {
            return None;
        }
        let rank = q * (total - 1) as f64;
        let mut before = 0.0;
        for (step, &count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let after = before + count as f64;
            if rank < after {
                let (low, high) = Self::ends(step);
                let inside = (rank - before + 0.5) / count as f64;
                let value = match (step == BELOW, high.is_finite()) {
                    (true, _) => 0.0,
                    (false, true) => low * (high / low).powf(inside),
                    (false, false) => largest,
                };
                return Some(value.min(largest));
            }
            before = after;
        }
        Some(largest)
    }

    /// Adds the counts, times `sign` on the axis, to equal bins from `-limit` to `limit`; a step over several bins is spread
    /// evenly. Returns what lies beyond.
    fn spread(&self, sign: f64, limit: f64, bins: &mut [f64]) -> f64 {
        let width = 2.0 * limit / bins.len() as f64;
        let mut beyond = 0.0;
        for (step, &count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let (low, high) = Self::ends(step);
            if !high.is_finite() {
                beyond += count as f64;
                continue;
            }
            let density = count as f64 / (high - low);
            beyond += density * (high - low.max(limit)).max(0.0);
            let (from, to) = if sign > 0.0 { (low, high.min(limit)) } else { (-high.min(limit), -low) };
            if from >= to {
                continue;
            }
            let first = ((from + limit) / width).floor().max(0.0) as usize;
            for (index, bin) in bins.iter_mut().enumerate().skip(first) {
                let left = index as f64 * width - limit;
                if left >= to {
                    break;
                }
                *bin += density * (to.min(left + width) - from.max(left)).max(0.0);
            }
        }
        beyond
    }
}

/// Steps per decade of the histogram of `d`: quantiles to 2 %.
const DELTA_STEPS: usize = 64;

/// Counts of `d` by sign.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SignedHistogram {
    positive: LogHistogram<DELTA_STEPS>,
    negative: LogHistogram<DELTA_STEPS>,
}

/// `d` in equal bins.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Density {
    /// The bins go from minus this to this, in nats.
    pub(crate) limit: f64,
    /// Tokens per bin; fractions where a step of the histogram covers several bins.
    pub(crate) counts: Vec<f64>,
    /// Tokens with a larger `|d|`.
    pub(crate) beyond: f64,
}

impl SignedHistogram {
    pub(crate) fn new() -> Self {
        Self { positive: LogHistogram::new(), negative: LogHistogram::new() }
    }

    pub(crate) fn observe(&mut self, delta: f64) {
        let half = if delta < 0.0 { &mut self.negative } else { &mut self.positive };
        half.observe(delta.abs());
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.positive.merge(&other.positive);
        self.negative.merge(&other.negative);
    }

    pub(crate) fn cells(&self) -> usize {
        self.positive.cells() + self.negative.cells()
    }

    /// The distribution of `|d|`.
    pub(crate) fn absolute(&self) -> LogHistogram<DELTA_STEPS> {
        let mut both = self.positive.clone();
        both.merge(&self.negative);
        both
    }

    /// `bins` equal bins from `-limit` to `limit`.
    pub(crate) fn density(&self, limit: f64, bins: usize) -> Density {
        let mut counts = vec![0.0; bins];
        let above = self.positive.spread(1.0, limit, &mut counts);
        let below = self.negative.spread(-1.0, limit, &mut counts);
        Density { limit, counts, beyond: above + below }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn quantiles_are_right_to_one_step(values in prop::collection::vec(1e-7..50.0f64, 1..200), q in 0.0..=1.0f64) {
            let mut histogram = LogHistogram::<64>::new();
            values.iter().for_each(|value| histogram.observe(*value));
            let mut sorted = values;
            sorted.sort_by(f64::total_cmp);
            let nearest = |rank: f64| sorted[rank as usize];
            let rank = q * (sorted.len() - 1) as f64;
            let (low, high) = (nearest(rank.floor()), nearest(rank.ceil()));
            let found = histogram.quantile(q, *sorted.last().unwrap()).unwrap();
            let step = 10f64.powf(1.0 / 64.0) * (1.0 + 1e-9);
            prop_assert!(found >= low / step && found <= high * step, "{found} is not in {low}..{high}");
        }

        #[test]
        fn a_density_loses_nothing(values in prop::collection::vec(-3.0..3.0f64, 1..200), limit in 1e-3..5.0f64) {
            let mut histogram = SignedHistogram::new();
            values.iter().for_each(|value| histogram.observe(*value));
            let density = histogram.density(limit, 81);
            let inside: f64 = density.counts.iter().sum();
            prop_assert!((inside + density.beyond - values.len() as f64).abs() < 1e-6);
            let surely = values.iter().filter(|value| value.abs() < limit / 1.04).count() as f64;
            prop_assert!(inside >= surely - 1e-6);
        }
    }

    #[test]
    fn zero_tiny_and_huge_values_have_their_place() {
        let mut histogram = LogHistogram::<16>::new();
        [0.0, 1e-12, 5e3].into_iter().for_each(|value| histogram.observe(value));
        assert_eq!((histogram.quantile(0.0, 5e3), histogram.quantile(1.0, 5e3)), (Some(0.0), Some(5e3)));
        assert_eq!(LogHistogram::<16>::new().quantile(0.5, 1.0), None);
    }
}
