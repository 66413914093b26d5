//! Which rows the head must look at, and what for.

use plumbline_core::Target;

/// A row of hidden states and the targets that it predicts, as ranges of [`HeadRows::targets`].
#[derive(Clone, Debug, PartialEq)]
pub(super) struct HeadRow {
    /// Row of the hidden states.
    pub(super) row: usize,
    /// Its distinct targets, in [`HeadRows::distinct`].
    pub(super) targets: std::ops::Range<usize>,
}

/// The targets of a batch by row. Sequences that share rows may ask one row for several tokens, or for the same one.
#[derive(Debug, Default, PartialEq)]
pub(super) struct HeadRows {
    /// Rows in ascending order.
    pub(super) rows: Vec<HeadRow>,
    /// Distinct targets, by row.
    pub(super) distinct: Vec<Target>,
    /// For each target of the batch, its index in `distinct`.
    pub(super) of_target: Vec<usize>,
}

impl HeadRows {
    pub(super) fn new(targets: &[Target]) -> Self {
        let key = |target: &Target| (target.row, target.token, target.temperature.to_bits());
        let mut order: Vec<usize> = (0..targets.len()).collect();
        order.sort_by_key(|index| key(&targets[*index]));
        let mut grouped = Self { of_target: vec![0; targets.len()], ..Self::default() };
        for index in order {
            let target = targets[index];
            if grouped.distinct.last().is_none_or(|last| key(last) != key(&target)) {
                grouped.distinct.push(target);
                let end = grouped.distinct.len();
                match grouped.rows.last_mut() {
                    Some(last) if last.row == target.row => last.targets.end = end,
                    _ => grouped.rows.push(HeadRow { row: target.row, targets: end - 1..end }),
                }
            }
            grouped.of_target[index] = grouped.distinct.len() - 1;
        }
        grouped
    }

    /// From one value a distinct target to one a target of the batch.
    pub(super) fn spread<T: Copy>(&self, of_distinct: &[T]) -> Vec<T> {
        self.of_target.iter().map(|index| of_distinct[*index]).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_target_finds_itself(
            picks in prop::collection::vec((0usize..5, 0u32..3, prop::sample::select(vec![0.5, 1.0])), 0..40)
        ) {
            let targets: Vec<Target> =
                picks.into_iter().map(|(row, token, temperature)| Target { row, token, temperature }).collect();
            let grouped = HeadRows::new(&targets);
            prop_assert_eq!(grouped.spread(&grouped.distinct), targets);
            prop_assert!(grouped.rows.windows(2).all(|pair| pair[0].row < pair[1].row));
            prop_assert_eq!(grouped.rows.iter().map(|row| row.targets.len()).sum::<usize>(), grouped.distinct.len());
            for row in &grouped.rows {
                prop_assert!(!row.targets.is_empty());
                let mut own = grouped.distinct[row.targets.clone()].iter();
                prop_assert!(own.all(|target| target.row == row.row));
            }
        }
    }
}
