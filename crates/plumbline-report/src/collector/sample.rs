//! A uniform sample of a stream of unknown length, the same whatever the order of merging.

use std::collections::BTreeMap;

/// Keeps the entries with the smallest of random priorities: a uniform sample without replacement. The priority is a hash of the
/// seed, the entry's name and its number, so that a sample can be repeated.
#[derive(Clone, Debug)]
pub(crate) struct Sample<T> {
    capacity: usize,
    seed: u64,
    seen: u64,
    /// By priority, then by number.
    entries: BTreeMap<(u64, u64), T>,
}

impl<T> Sample<T> {
    pub(crate) fn new(capacity: usize, seed: u64) -> Self {
        Self { capacity, seed, seen: 0, entries: BTreeMap::new() }
    }

    /// Entries that were offered.
    pub(crate) fn seen(&self) -> u64 {
        self.seen
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Offers an entry; `make` is called only if it is kept.
    pub(crate) fn offer(&mut self, name: &str, make: impl FnOnce() -> T) {
        let key = (mix(self.seed ^ hash(name) ^ mix(self.seen)), self.seen);
        self.seen += 1;
        let full = self.entries.len() >= self.capacity;
        if full && self.entries.last_key_value().is_none_or(|(last, _)| *last < key) {
            return;
        }
        self.entries.insert(key, make());
        if full {
            self.entries.pop_last();
        }
    }

    /// Drops the entry that a smaller sample would not have, unless it is the only one.
    pub(crate) fn shrink(&mut self) -> Option<T> {
        if self.entries.len() < 2 {
            return None;
        }
        self.entries.pop_last().map(|(_, entry)| entry)
    }

    pub(crate) fn merge(&mut self, other: Self) {
        for ((priority, number), entry) in other.entries {
            self.entries.insert((priority, number + self.seen), entry);
        }
        self.seen += other.seen;
        while self.entries.len() > self.capacity {
            self.entries.pop_last();
        }
    }

    /// The kept entries in the order in which they were offered.
    pub(crate) fn in_order(&self) -> Vec<&T> {
        let mut entries: Vec<_> = self.entries.iter().map(|((_, number), entry)| (*number, entry)).collect();
        entries.sort_unstable_by_key(|(number, _)| *number);
        entries.into_iter().map(|(_, entry)| entry).collect()
    }
}

/// FNV-1a.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// SplitMix64's finaliser.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_kept_up_to_the_capacity_in_order() {
        let mut sample = Sample::new(5, 1);
        (0..5).for_each(|number| sample.offer("s", || number));
        assert_eq!(sample.in_order(), [&0, &1, &2, &3, &4]);
        sample.offer("s", || 5);
        assert_eq!((sample.len(), sample.seen()), (5, 6));
    }

    #[test]
    fn every_entry_has_the_same_chance() {
        let mut kept = [0u32; 10];
        for seed in 0..4000 {
            let mut sample = Sample::new(3, seed);
            (0..10usize).for_each(|number| sample.offer("same id", || number));
            sample.in_order().into_iter().for_each(|number| kept[*number] += 1);
        }
        // 1200 expected of each, standard deviation 29.
        assert!(kept.iter().all(|count| (1050..1350).contains(count)), "{kept:?}");
    }

    #[test]
    fn samples_merge_and_shrink_to_samples() {
        let (mut one, mut two) = (Sample::new(4, 9), Sample::new(4, 9));
        (0..50).for_each(|number| one.offer(&format!("a{number}"), || number));
        (50..100).for_each(|number| two.offer(&format!("b{number}"), || number));
        let expected: Vec<_> = {
            let mut keys: Vec<_> = one.entries.iter().chain(&two.entries).map(|(key, value)| (key.0, *value)).collect();
            keys.sort_unstable();
            keys.into_iter().take(4).map(|(_, value)| value).collect()
        };
        one.merge(two);
        assert_eq!(one.entries.values().copied().collect::<Vec<_>>(), expected);
        assert_eq!((one.seen(), one.shrink()), (100, Some(expected[3])));
        one.shrink();
        one.shrink();
        assert_eq!((one.len(), one.shrink()), (1, None));
    }
}
