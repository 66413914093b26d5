//! Recent sequences, token by token, in bounded memory.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use plumbline_core::TokenId;
use plumbline_divergence::{Metrics, SequenceComparison, SufficientStatistics, Verdict};

/// When a run has more sequences than this, only its worst by each measure, its longest and its latest stay, [`EACH`] of each.
const PER_RUN: usize = 256;
const EACH: usize = 48;
/// Tokens and sequences of all runs together; beyond them the oldest sequences go. A token takes 80 bytes and a sequence
/// about 2000, so this is about 40 MB.
const MAX_TOKENS: usize = 240_000;
const MAX_SEQUENCES: usize = 8192;

/// One answered sequence.
#[derive(Debug)]
pub(crate) struct StoredSequence {
    /// The server's id of it.
    pub(crate) id: String,
    /// The name under which the run is kept.
    pub(crate) run: String,
    pub(crate) engine: String,
    pub(crate) worker: Option<String>,
    pub(crate) policy_version: Option<String>,
    pub(crate) at: SystemTime,
    pub(crate) verdict: Verdict,
    pub(crate) verdict_reason: String,
    pub(crate) metrics: Metrics,
    /// The token before its completion, if there is one.
    pub(crate) last_of_prompt: Option<TokenId>,
    /// Completion tokens.
    pub(crate) length: usize,
    /// The sums behind the metrics, with its noise floor.
    pub(crate) statistics: SufficientStatistics,
    /// Its tokens, and its id as sent. No tokens where retention took them from the store.
    pub(crate) comparison: SequenceComparison,
}

/// What sequences are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SortKey {
    KlK3,
    Mae,
    Length,
    Time,
}

impl StoredSequence {
    fn tokens(&self) -> usize {
        self.comparison.tokens.len()
    }
}

/// The kept sequences.
#[derive(Debug, Default)]
pub(crate) struct SequenceStore {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// In the order of arrival.
    sequences: BTreeMap<u64, Arc<StoredSequence>>,
    by_id: HashMap<String, u64>,
    by_run: HashMap<String, Vec<Place>>,
    next: u64,
    tokens: usize,
}

/// Where a sequence stands among those of its run.
#[derive(Clone, Copy, Debug)]
struct Place {
    number: u64,
    kl_k3: f64,
    mae: f64,
    length: f64,
}

impl Place {
    /// Undefined measures sort below all others.
    fn of(number: u64, sequence: &StoredSequence) -> Self {
        let defined = |value: Option<f64>| value.unwrap_or(f64::NEG_INFINITY);
        let (kl_k3, mae) = (defined(sequence.metrics.kl_k3), defined(sequence.metrics.mae_logprob));
        Self { number, kl_k3, mae, length: sequence.tokens() as f64 }
    }

    fn measure(&self, key: SortKey) -> f64 {
        match key {
            SortKey::KlK3 => self.kl_k3,
            SortKey::Mae => self.mae,
            SortKey::Length => self.length,
            SortKey::Time => 0.0,
        }
    }
}

/// By a measure, ties by arrival.
fn sort(places: &mut [Place], key: SortKey, descending: bool) {
    places.sort_unstable_by(|a, b| {
        let order = a.measure(key).total_cmp(&b.measure(key)).then(a.number.cmp(&b.number));
        if descending { order.reverse() } else { order }
    });
}

impl SequenceStore {
    /// Takes in sequences of a run, under the name it is kept by. One with more tokens than are kept in all is not kept.
    pub(crate) fn add(&self, sequences: Vec<StoredSequence>, run: &str) {
        let mut inner = self.lock();
        for sequence in sequences {
            inner.add(StoredSequence { run: run.to_owned(), ..sequence });
        }
    }

    /// A sequence by the server's id; `None` if it never was or is no longer kept.
    pub(crate) fn get(&self, id: &str) -> Option<Arc<StoredSequence>> {
        let inner = self.lock();
        inner.sequences.get(inner.by_id.get(id)?).cloned()
    }

    /// Kept sequences of a run, sorted; ties and `Time` by arrival.
    pub(crate) fn list(&self, run: &str, key: SortKey, descending: bool, limit: usize) -> Vec<Arc<StoredSequence>> {
        let inner = self.lock();
        let mut places = inner.by_run.get(run).cloned().unwrap_or_default();
        sort(&mut places, key, descending);
        places.iter().take(limit).filter_map(|place| inner.sequences.get(&place.number).cloned()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn add(&mut self, sequence: StoredSequence) {
        let tokens = sequence.tokens();
        if tokens > MAX_TOKENS {
            return;
        }
        let number = self.next;
        self.next += 1;
        self.tokens += tokens;
        self.by_id.insert(sequence.id.clone(), number);
        let own = self.by_run.entry(sequence.run.clone()).or_default();
        own.push(Place::of(number, &sequence));
        let dispensable = if own.len() > PER_RUN { dispensable(own) } else { Vec::new() };
        self.sequences.insert(number, Arc::new(sequence));
        dispensable.into_iter().for_each(|number| self.remove(number));
        while (self.tokens > MAX_TOKENS || self.sequences.len() > MAX_SEQUENCES)
            && let Some((&oldest, _)) = self.sequences.first_key_value()
        {
            self.remove(oldest);
        }
    }

    fn remove(&mut self, number: u64) {
        let Some(sequence) = self.sequences.remove(&number) else { return };
        self.tokens -= sequence.tokens();
        self.by_id.remove(&sequence.id);
        if let Some(own) = self.by_run.get_mut(&sequence.run) {
            own.retain(|place| place.number != number);
            if own.is_empty() {
                self.by_run.remove(&sequence.run);
            }
        }
    }
}

/// The sequences of a run that are in no list that is promised.
fn dispensable(places: &[Place]) -> Vec<u64> {
    let mut promised = HashSet::with_capacity(4 * EACH);
    let mut sorted = places.to_vec();
    for key in [SortKey::KlK3, SortKey::Mae, SortKey::Length, SortKey::Time] {
        sort(&mut sorted, key, true);
        promised.extend(sorted.iter().take(EACH).map(|place| place.number));
    }
    places.iter().map(|place| place.number).filter(|number| !promised.contains(number)).collect()
}

#[cfg(test)]
mod tests {
    use plumbline_core::SkipCounts;
    use plumbline_divergence::TokenComparison;

    use super::*;

    fn sequence(number: usize, tokens: usize, mae: f64) -> StoredSequence {
        let token = TokenComparison {
            token_id: 1,
            engine: Some(-1.0),
            reference: Some(-1.0 - mae),
            entropy: Some(1.0),
            rank: Some(0),
            eos_probability: None,
            skipped: None,
        };
        let comparison = SequenceComparison {
            id: number.to_string(),
            tokens: vec![token; tokens],
            skipped: SkipCounts::default(),
            eos_probability: None,
        };
        StoredSequence {
            id: format!("seq_{number}"),
            run: String::new(),
            engine: "vllm".into(),
            worker: None,
            policy_version: None,
            at: SystemTime::UNIX_EPOCH,
            verdict: Verdict::Consistent,
            verdict_reason: String::new(),
            last_of_prompt: None,
            length: tokens,
            metrics: Metrics::of(std::slice::from_ref(&comparison)),
            statistics: SufficientStatistics::default(),
            comparison,
        }
    }

    fn ids(store: &SequenceStore, run: &str, key: SortKey, descending: bool, limit: usize) -> Vec<String> {
        store.list(run, key, descending, limit).iter().map(|sequence| sequence.comparison.id.clone()).collect()
    }

    #[test]
    fn sequences_are_sorted_by_each_key() {
        let store = SequenceStore::default();
        store.add(vec![sequence(0, 3, 0.2), sequence(1, 9, 0.1)], "a");
        store.add(vec![sequence(2, 1, 9.0)], "b");
        store.add(vec![sequence(3, 5, 0.3)], "a");
        assert_eq!(ids(&store, "a", SortKey::KlK3, true, 9), ["3", "0", "1"]);
        assert_eq!(ids(&store, "a", SortKey::Mae, false, 2), ["1", "0"]);
        assert_eq!(ids(&store, "a", SortKey::Length, true, 1), ["1"]);
        assert_eq!(ids(&store, "a", SortKey::Time, true, 9), ["3", "1", "0"]);
        assert_eq!(ids(&store, "c", SortKey::Time, true, 9), Vec::<String>::new());
        assert_eq!(store.get("seq_2").unwrap().run, "b");
        assert!(store.get("2").is_none());
    }

    #[test]
    fn a_run_keeps_its_worst_longest_and_latest() {
        let store = SequenceStore::default();
        for number in 0..2000 {
            let (tokens, mae) = match number {
                5 => (2, 8.0),
                7 => (90, 0.01),
                _ => (2, 0.01 + number as f64 * 1e-9),
            };
            store.add(vec![sequence(number, tokens, mae)], "a");
        }
        assert_eq!(ids(&store, "a", SortKey::Mae, true, 1), ["5"]);
        assert_eq!(ids(&store, "a", SortKey::Length, true, 1), ["7"]);
        assert_eq!(ids(&store, "a", SortKey::Time, true, 2), ["1999", "1998"]);
        let inner = store.lock();
        let kept = inner.sequences.len();
        assert!((EACH..=PER_RUN).contains(&kept), "{kept}");
        assert_eq!((inner.by_id.len(), inner.by_run["a"].len()), (kept, kept));
    }

    #[test]
    fn all_runs_together_are_bounded_by_their_number() {
        let store = SequenceStore::default();
        for number in 0..MAX_SEQUENCES + 5 {
            store.add(vec![sequence(number, 1, 0.1)], &(number / 100).to_string());
        }
        let inner = store.lock();
        assert_eq!(
            (inner.sequences.len(), inner.by_id.len(), inner.tokens),
            (MAX_SEQUENCES, MAX_SEQUENCES, MAX_SEQUENCES)
        );
        assert_eq!(inner.by_run["0"].len(), 95);
    }

    #[test]
    fn all_runs_together_are_bounded_by_their_tokens() {
        let store = SequenceStore::default();
        for number in 0..60 {
            store.add(vec![sequence(number, 20_000, 0.1)], &format!("run-{number}"));
        }
        store.add(vec![sequence(60, MAX_TOKENS + 1, 0.1)], "huge");
        let inner = store.lock();
        assert_eq!((inner.tokens, inner.sequences.len(), inner.by_run.len()), (MAX_TOKENS, 12, 12));
        assert!(
            inner.by_id.contains_key("seq_59")
                && !inner.by_id.contains_key("seq_0")
                && !inner.by_id.contains_key("seq_60")
        );
    }
}
