//! What is counted beside the report: verdicts of sequences and why others were not scored.

use std::collections::BTreeMap;

use plumbline_divergence::Verdict;

/// Engines that are counted by name; further ones share [`OTHER`].
const MOST_ENGINES: usize = 1024;
const OTHER: &str = "other";

/// Counts of one engine.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    verdicts: [u64; Verdict::ALL.len()],
    /// Sequences that were not scored, by reason.
    pub(super) not_scored: BTreeMap<String, u64>,
}

/// Counts by engine.
#[derive(Clone, Debug, Default)]
pub(super) struct Tallies {
    engines: BTreeMap<String, Tally>,
}

impl Tallies {
    pub(super) fn judged(&mut self, engine: &str, verdict: Verdict) {
        let place = Verdict::ALL.iter().position(|other| *other == verdict).unwrap_or_default();
        self.of(engine).verdicts[place] += 1;
    }

    pub(super) fn not_scored(&mut self, engine: &str, reason: &str) {
        *self.of(engine).not_scored.entry(reason.to_owned()).or_default() += 1;
    }

    fn of(&mut self, engine: &str) -> &mut Tally {
        let known = self.engines.contains_key(engine) || self.engines.len() < MOST_ENGINES;
        self.engines.entry(if known { engine } else { OTHER }.to_owned()).or_default()
    }

    pub(super) fn get(&self, engine: &str) -> Tally {
        self.engines.get(engine).cloned().unwrap_or_default()
    }

    /// Adds everything that another has counted.
    pub(super) fn merge(&mut self, other: Self) {
        for (engine, tally) in other.engines {
            let own = self.of(&engine);
            own.verdicts.iter_mut().zip(tally.verdicts).for_each(|(own, more)| *own += more);
            for (reason, more) in tally.not_scored {
                *own.not_scored.entry(reason).or_default() += more;
            }
        }
    }

    pub(super) fn into_engines(self) -> BTreeMap<String, Tally> {
        self.engines
    }
}

impl Tally {
    /// Scored sequences.
    pub(super) fn sequences(&self) -> u64 {
        self.verdicts.iter().sum()
    }

    pub(super) fn count(&self, verdict: Verdict) -> u64 {
        Verdict::ALL.iter().zip(self.verdicts).find(|(other, _)| **other == verdict).map_or(0, |(_, count)| count)
    }

    /// The share of divergent sequences among those that had enough tokens for a verdict; `None` without any.
    pub(super) fn divergent_share(&self) -> Option<f64> {
        let judged = self.sequences() - self.count(Verdict::Insufficient);
        (judged > 0).then(|| self.count(Verdict::Divergent) as f64 / judged as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_merge() {
        let mut all = Tallies::default();
        all.judged("a", Verdict::Divergent);
        all.judged("a", Verdict::Consistent);
        all.judged("a", Verdict::Insufficient);
        let mut other = Tallies::default();
        other.not_scored("a", "too long");
        all.merge(other);
        let tally = all.get("a");
        assert_eq!((tally.sequences(), tally.divergent_share()), (3, Some(0.5)));
        assert_eq!(tally.not_scored["too long"], 1);
        assert_eq!(all.get("b").divergent_share(), None);
    }

    #[test]
    fn engines_are_bounded() {
        let mut all = Tallies::default();
        (0..5000).for_each(|number| all.judged(&number.to_string(), Verdict::Consistent));
        assert_eq!(all.engines.len(), MOST_ENGINES + 1);
        assert_eq!(all.get(OTHER).sequences(), 5000 - MOST_ENGINES as u64);
    }
}
