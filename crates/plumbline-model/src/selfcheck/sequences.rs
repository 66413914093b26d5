//! The sequences that are compared: the same ones in every run, and no tokenizer needed.

use plumbline_core::TokenId;

use super::Extent;

/// How far beyond a sliding window a sequence goes.
const BEYOND_WINDOW: usize = 9;

impl Extent {
    fn lengths(self) -> &'static [usize] {
        match self {
            Self::Quick => &[1, 7, 33, 128],
            Self::Full => &[1, 2, 7, 33, 128, 512],
        }
    }

    /// Length of the longest sequence.
    pub(super) fn longest(self) -> usize {
        self.lengths().iter().copied().max().unwrap_or(1)
    }
}

/// Sequences of pseudo-random ids below `vocab_size`, none longer than `limit`, one as long as that allows, and one a little
/// longer than each of `windows` where that fits.
pub(super) fn sequences(extent: Extent, vocab_size: usize, limit: usize, windows: &[usize]) -> Vec<Vec<TokenId>> {
    let limit = limit.min(extent.longest());
    let beyond = windows.iter().map(|window| window.saturating_add(BEYOND_WINDOW));
    let mut lengths: Vec<usize> =
        extent.lengths().iter().copied().chain(beyond).filter(|length| *length <= limit).collect();
    lengths.push(limit);
    lengths.sort_unstable();
    lengths.dedup();
    let mut random = Random::new(0);
    lengths.into_iter().map(|length| (0..length).map(|_| random.below(vocab_size)).collect()).collect()
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// An id below `count`.
    pub(super) fn below(&mut self, count: usize) -> TokenId {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % count as u64) as TokenId
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(extent: Extent, limit: usize, windows: &[usize]) -> Vec<usize> {
        sequences(extent, 163, limit, windows).iter().map(Vec::len).collect()
    }

    #[test]
    fn lengths_reach_beyond_small_windows_and_stay_within_the_limit() {
        assert_eq!(lengths(Extent::Quick, 4096, &[]), [1, 7, 33, 128]);
        assert_eq!(lengths(Extent::Quick, 4096, &[32]), [1, 7, 33, 41, 128]);
        assert_eq!(lengths(Extent::Quick, 4096, &[4096]), [1, 7, 33, 128]);
        assert_eq!(lengths(Extent::Full, 4096, &[300]), [1, 2, 7, 33, 128, 309, 512]);
        assert_eq!(lengths(Extent::Full, 100, &[]), [1, 2, 7, 33, 100]);
        assert_eq!(lengths(Extent::Full, 1, &[]), [1]);
    }

    #[test]
    fn ids_are_spread_over_the_vocabulary_and_the_same_in_every_run() {
        let drawn = sequences(Extent::Full, 163, 4096, &[]);
        assert_eq!(drawn, sequences(Extent::Full, 163, 4096, &[]));
        let distinct: std::collections::BTreeSet<_> = drawn.iter().flatten().collect();
        assert!(distinct.len() > 150 && distinct.iter().all(|id| **id < 163), "{}", distinct.len());
    }
}
