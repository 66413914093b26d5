//! Centred second moments of two variables, mergeable without cancellation.

use serde::{Deserialize, Serialize};

/// Means and centred second moments of pairs `(x, y)` (Welford's update, Chan's merge).
///
/// Raw sums of squares lose the correlation's digits when values are large and spread little; these do not. They are not
/// counters: the cross moment can fall.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PairMoments {
    count: u64,
    mean_x: f64,
    mean_y: f64,
    squares_x: f64,
    squares_y: f64,
    products: f64,
}

impl PairMoments {
    /// Adds one pair.
    pub fn observe(&mut self, x: f64, y: f64) {
        self.count += 1;
        let count = self.count as f64;
        let (before_x, before_y) = (x - self.mean_x, y - self.mean_y);
        self.mean_x += before_x / count;
        self.mean_y += before_y / count;
        let after_y = y - self.mean_y;
        self.squares_x += before_x * (x - self.mean_x);
        self.squares_y += before_y * after_y;
        self.products += before_x * after_y;
    }

    /// Adds all pairs of another.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        let (own, others) = (self.count as f64, other.count as f64);
        let total = own + others;
        let (apart_x, apart_y) = (other.mean_x - self.mean_x, other.mean_y - self.mean_y);
        let weight = own * others / total;
        self.mean_x += apart_x * others / total;
        self.mean_y += apart_y * others / total;
        self.squares_x += other.squares_x + apart_x * apart_x * weight;
        self.squares_y += other.squares_y + apart_y * apart_y * weight;
        self.products += other.products + apart_x * apart_y * weight;
        self.count += other.count;
    }

    /// Pearson correlation in [-1, 1]; `None` for fewer than two pairs or where one variable does not vary.
    #[must_use]
    pub fn correlation(&self) -> Option<f64> {
        if self.count < 2 || self.squares_x <= 0.0 || self.squares_y <= 0.0 {
            return None;
        }
        // Slope times ratio of spreads, not the root of a product: that can underflow. Rounding may step over 1.
        let slope = self.products / self.squares_x;
        Some((slope * (self.squares_x / self.squares_y).sqrt()).clamp(-1.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(f64, f64)]) -> PairMoments {
        let mut moments = PairMoments::default();
        pairs.iter().for_each(|(x, y)| moments.observe(*x, *y));
        moments
    }

    #[test]
    fn correlation_is_undefined_without_spread() {
        assert_eq!(of(&[]).correlation(), None);
        assert_eq!(of(&[(1.0, 2.0)]).correlation(), None);
        assert_eq!(of(&[(0.1, 1.0), (0.1, 2.0), (0.1, 3.0)]).correlation(), None);
        assert_eq!(of(&[(1.0, 0.1), (2.0, 0.1)]).correlation(), None);
    }

    #[test]
    fn correlation_of_known_pairs() {
        assert_eq!(of(&[(1.0, 2.0), (2.0, 4.0), (3.0, 6.0)]).correlation(), Some(1.0));
        assert_eq!(of(&[(1.0, -2.0), (2.0, -4.0)]).correlation(), Some(-1.0));
        let weak = of(&[(1.0, 1.0), (2.0, 3.0), (3.0, 2.0)]).correlation().unwrap();
        assert!((weak - 0.5).abs() < 1e-15, "{weak}");
    }

    #[test]
    fn digits_survive_a_large_offset() {
        let offset = 1e8;
        let shifted = of(&[(offset + 1.0, offset + 1.0), (offset + 2.0, offset + 3.0), (offset + 3.0, offset + 2.0)]);
        assert!((shifted.correlation().unwrap() - 0.5).abs() < 1e-12);
    }

    #[test]
    fn constant_values_stay_without_spread_when_merged() {
        let mut merged = of(&[(0.1, 0.1); 3]);
        merged.merge(&of(&[(0.1, 0.1); 7]));
        merged.merge(&PairMoments::default());
        assert_eq!(merged.correlation(), None);
    }
}
