//! Engine against reference on a fixed grid.

/// A square grid of counts over `[from, to]` on both axes. Merging adds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Grid {
    from: f64,
    to: f64,
    side: usize,
    /// Row by row: `counts[reference * side + engine]`.
    counts: Vec<u64>,
    /// Tokens with a coordinate below the grid.
    below: u64,
    /// Whether its empty lower part is left out when it is drawn.
    trimmed: bool,
}

/// A part of a grid in coarser cells, as it is drawn.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cells {
    /// Both axes begin here,
    pub(crate) from: f64,
    /// end here,
    pub(crate) to: f64,
    /// and have so many cells.
    pub(crate) side: usize,
    /// Row by row: `counts[reference * side + engine]`.
    pub(crate) counts: Vec<u64>,
    /// Tokens that lie outside.
    pub(crate) outside: u64,
}

/// Cells per axis that are drawn at most.
const DRAWN: usize = 100;

impl Grid {
    /// Probabilities from 0 to 1 in steps of 0.01.
    pub(crate) fn of_probabilities() -> Self {
        Self::new(0.0, 1.0, 100, false)
    }

    /// Logprobs from -24 to 0 nats in steps of 0.1.
    pub(crate) fn of_logprobs() -> Self {
        Self::new(-24.0, 0.0, 240, true)
    }

    fn new(from: f64, to: f64, side: usize, trimmed: bool) -> Self {
        Self { from, to, side, counts: vec![0; side * side], below: 0, trimmed }
    }

    pub(crate) fn cells(&self) -> usize {
        self.counts.len()
    }

    pub(crate) fn observe(&mut self, engine: f64, reference: f64) {
        match (self.place(engine), self.place(reference)) {
            (Some(engine), Some(reference)) => self.counts[reference * self.side + engine] += 1,
            _ => self.below += 1,
        }
    }

    /// The upper end belongs to the last cell, and so does what rounding puts above it.
    fn place(&self, value: f64) -> Option<usize> {
        let place = (value - self.from) / (self.to - self.from) * self.side as f64;
        (place >= 0.0).then(|| (place as usize).min(self.side - 1))
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (own, others) in self.counts.iter_mut().zip(&other.counts) {
            *own += others;
        }
        self.below += other.below;
    }

    /// The grid in at most 100 cells a side; of logprobs, the upper part that is not empty.
    pub(crate) fn drawn(&self) -> Cells {
        let occupied = (0..self.side).find(|line| !self.trimmed || self.line_is_occupied(*line)).unwrap_or(0);
        let least = self.side - occupied;
        let factor = least.div_ceil(DRAWN).max(1);
        let side = least.div_ceil(factor).max(10.min(self.side)).min(self.side / factor);
        let first = self.side - side * factor;
        let mut counts = vec![0; side * side];
        let mut outside = self.below;
        for (index, &count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            match ((index / self.side).checked_sub(first), (index % self.side).checked_sub(first)) {
                (Some(row), Some(column)) => counts[row / factor * side + column / factor] += count,
                _ => outside += count,
            }
        }
        let step = (self.to - self.from) / self.side as f64;
        Cells { from: self.from + first as f64 * step, to: self.to, side, counts, outside }
    }

    /// Whether a row or a column with this number has a count.
    fn line_is_occupied(&self, line: usize) -> bool {
        let row = &self.counts[line * self.side..(line + 1) * self.side];
        row.iter().any(|count| *count > 0) || self.counts.iter().skip(line).step_by(self.side).any(|count| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_drawn_is_what_was_observed(pairs in prop::collection::vec((-30.0..0.0f64, -30.0..0.0f64), 1..100)) {
            let mut grid = Grid::of_logprobs();
            pairs.iter().for_each(|(engine, reference)| grid.observe(*engine, *reference));
            let drawn = grid.drawn();
            prop_assert!(drawn.side <= DRAWN && drawn.from >= -24.0 - 1e-9);
            prop_assert_eq!(drawn.counts.iter().sum::<u64>() + drawn.outside, pairs.len() as u64);
            let below = pairs.iter().filter(|(e, r)| *e < -24.0 || *r < -24.0).count() as u64;
            prop_assert_eq!(drawn.outside, below);
        }
    }

    #[test]
    fn ends_belong_to_the_grid_and_rows_are_the_reference() {
        let mut grid = Grid::of_probabilities();
        grid.observe(1.0, 0.0);
        grid.observe(0.005, 1.0 + 1e-12);
        let drawn = grid.drawn();
        assert_eq!((drawn.side, drawn.outside), (100, 0));
        assert_eq!((drawn.counts[99], drawn.counts[99 * 100]), (1, 1));
    }

    #[test]
    fn only_the_occupied_part_is_drawn() {
        let mut grid = Grid::of_logprobs();
        grid.observe(-3.05, -1.0);
        let drawn = grid.drawn();
        assert_eq!((drawn.side, drawn.to), (31, 0.0));
        assert!((drawn.from + 3.1).abs() < 1e-9);
    }
}
