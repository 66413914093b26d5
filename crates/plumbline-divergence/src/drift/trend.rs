//! The whole past in segments that are the longer the older they are, in bounded memory.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::history::Segment;

/// Sequences in a new segment.
const FIRST_SIZE: u64 = 8;
/// Segments of one size; one more, and the two oldest become one of twice the size.
const PER_SIZE: usize = 24;

/// Segments, oldest first, without regard to policy versions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Trend {
    segments: VecDeque<Segment>,
}

impl Trend {
    pub(super) fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter()
    }

    /// Adds a sequence; true if it opened a segment.
    pub(super) fn observe(&mut self, sequence: u64, weight: f64, log_level: f64) -> bool {
        if let Some(last) = self.segments.back_mut().filter(|last| last.count < FIRST_SIZE) {
            last.add(weight, log_level);
            return false;
        }
        self.merge_oldest();
        self.segments.push_back(Segment::new(0, sequence, weight, log_level));
        true
    }

    /// Starting with the shortest ones, which stand last: where there are too many of a size, the two oldest become one.
    fn merge_oldest(&mut self) {
        let mut end = self.segments.len();
        while end > PER_SIZE {
            let size = self.segments[end - 1].count;
            let begin = self.segments.iter().take(end).take_while(|segment| segment.count > size).count();
            if end - begin <= PER_SIZE {
                return;
            }
            if let Some(second) = self.segments.remove(begin + 1) {
                self.segments[begin].merge(&second);
            }
            // The merged one now is the last of the next size.
            end = begin + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_remembered_in_few_segments_that_grow_with_age() {
        let mut trend = Trend::default();
        let mut most = 0;
        for sequence in 0..1_000_000 {
            trend.observe(sequence, 1.0, 0.5);
            most = most.max(trend.segments.len());
        }
        assert!(most <= (PER_SIZE + 1) * 14, "{most}");
        let mut next = 0;
        for segment in &trend.segments {
            assert_eq!(segment.first, next);
            next += segment.count;
            assert!((segment.weighted_log - 0.5 * segment.weight).abs() < 1e-6);
        }
        assert_eq!(next, 1_000_000);
        let full = trend.segments.len() - 1;
        assert!(
            trend.segments.iter().take(full).collect::<Vec<_>>().windows(2).all(|two| two[0].count >= two[1].count)
        );
        // Age divided by length: what happened `n` sequences ago is known to about `n / PER_SIZE`.
        assert!(trend.segments.iter().all(|segment| segment.count <= 8.max((1_000_000 - segment.first) / 12)));
    }
}
