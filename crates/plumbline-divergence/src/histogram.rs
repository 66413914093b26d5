//! Histogram of `|d|`: the one form of the distribution that adds up over windows and replicas.

use serde::{Deserialize, Serialize};

/// Number of tokens by `|d|` in nats. Not cumulative; the last bucket holds everything above the last bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeltaHistogram {
    counts: [u64; DeltaHistogram::BOUNDS.len() + 1],
}

impl DeltaHistogram {
    /// Inclusive upper bounds in nats, in 1-3-10 steps from the f32 floor to "another distribution altogether".
    pub const BOUNDS: [f64; 13] = [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0];

    /// Counts one token.
    pub fn observe(&mut self, abs_delta: f64) {
        self.counts[Self::BOUNDS.partition_point(|bound| *bound < abs_delta)] += 1;
    }

    /// Adds all tokens of another.
    pub fn merge(&mut self, other: &Self) {
        for (own, others) in self.counts.iter_mut().zip(other.counts) {
            *own += others;
        }
    }

    /// One count per bound and one for what lies above the last.
    #[must_use]
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_inclusive_and_nothing_is_lost() {
        let mut histogram = DeltaHistogram::default();
        for value in [0.0, 1e-5, 1.1e-5, 10.0, 10.1, 9000.0] {
            histogram.observe(value);
        }
        let mut expected = [0; 14];
        (expected[0], expected[1], expected[12], expected[13]) = (2, 1, 1, 2);
        assert_eq!(histogram.counts(), expected);
        histogram.merge(&histogram.clone());
        assert_eq!(histogram.counts().iter().sum::<u64>(), 12);
    }
}
