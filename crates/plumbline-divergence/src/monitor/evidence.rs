//! Where `|d|` comes from, token by token: by the engine's probability, by entropy and by position, and the worst tokens.

use plumbline_core::TokenId;
use serde::{Deserialize, Serialize};

use crate::{SequenceComparison, TokenComparison};

/// Bounds between ranges of the engine's probability of the sampled token.
const PROBABILITIES: [f64; 8] = [1e-4, 1e-3, 1e-2, 0.1, 0.3, 0.6, 0.9, 0.99];
/// Bounds between ranges of the entropy of the reference's distribution, in nats.
const ENTROPIES: [f64; 8] = [0.01, 0.05, 0.2, 0.5, 1.0, 2.0, 3.0, 4.0];
/// Bounds between ranges of the index in the completion.
const POSITIONS: [f64; 8] = [1.0, 8.0, 32.0, 128.0, 512.0, 2048.0, 8192.0, 32768.0];
/// `|d|` in nats from which a token belongs to the tail: its ratio is outside of 0.9 to 1.1.
const TAIL: f64 = 0.1;
/// Worst tokens that are kept, and of one sequence.
const WORST: usize = 32;
const WORST_OF_SEQUENCE: usize = 4;

/// What tokens are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvidenceKey {
    /// The engine's probability of the token.
    EngineProbability,
    /// Entropy in nats of the reference's next-token distribution.
    Entropy,
    /// Index in the completion.
    Position,
}

impl EvidenceKey {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::EngineProbability, Self::Entropy, Self::Position];

    /// The bounds between its ranges, ascending: a range holds its lower bound and not its upper one.
    #[must_use]
    pub fn bounds(self) -> &'static [f64; 8] {
        match self {
            Self::EngineProbability => &PROBABILITIES,
            Self::Entropy => &ENTROPIES,
            Self::Position => &POSITIONS,
        }
    }
}

/// Sums over the compared tokens of one range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EvidenceSums {
    /// Tokens.
    pub tokens: u64,
    /// Sum of `|d|` in nats.
    pub abs_log_ratio: f64,
    /// Sum of `d` in nats.
    pub log_ratio: f64,
    /// Tokens with `|d|` of 0.1 nats and more.
    pub tail_tokens: u64,
}

impl EvidenceSums {
    fn add(&mut self, log_ratio: f64) {
        self.tokens += 1;
        self.abs_log_ratio += log_ratio.abs();
        self.log_ratio += log_ratio;
        self.tail_tokens += u64::from(log_ratio.abs() >= TAIL);
    }

    fn merge(&mut self, other: &Self) {
        self.tokens += other.tokens;
        self.abs_log_ratio += other.abs_log_ratio;
        self.log_ratio += other.log_ratio;
        self.tail_tokens += other.tail_tokens;
    }
}

/// A token with a large difference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorstToken {
    /// The sender's id of its sequence.
    pub sequence: String,
    /// Index in the completion.
    pub index: usize,
    /// The token before it, if there is one: its text can depend on it.
    pub previous: Option<TokenId>,
    /// The token, with both numbers.
    pub token: TokenComparison,
    /// Who sampled it.
    pub worker: Option<String>,
    /// Version of the weights that scored it.
    pub policy_version: Option<String>,
}

impl WorstToken {
    fn size(&self) -> f64 {
        self.token.log_ratio().map_or(0.0, f64::abs)
    }
}

/// Where `|d|` comes from in some sequences. Of bounded size, mergeable.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenEvidence {
    /// By [`EvidenceKey`] and range.
    sums: [[EvidenceSums; 9]; 3],
    /// The largest `|d|` first.
    worst: Vec<WorstToken>,
}

impl TokenEvidence {
    /// The evidence of one sequence. `last_of_prompt` is the token before its completion.
    #[must_use]
    pub fn of(
        comparison: &SequenceComparison,
        last_of_prompt: Option<TokenId>,
        worker: Option<&str>,
        policy_version: Option<&str>,
    ) -> Self {
        let mut evidence = Self::default();
        let mut largest: Vec<(usize, f64)> = Vec::with_capacity(WORST_OF_SEQUENCE + 1);
        for (index, token) in comparison.tokens.iter().enumerate() {
            let Some((engine, reference)) = token.compared() else { continue };
            let log_ratio = reference - engine;
            let values = [Some(engine.exp()), token.entropy, Some(index as f64)];
            for ((key, value), sums) in EvidenceKey::ALL.iter().zip(values).zip(&mut evidence.sums) {
                if let Some(value) = value {
                    sums[key.bounds().partition_point(|bound| *bound <= value)].add(log_ratio);
                }
            }
            let place = largest.partition_point(|(_, size)| *size >= log_ratio.abs());
            if place < WORST_OF_SEQUENCE {
                largest.insert(place, (index, log_ratio.abs()));
                largest.truncate(WORST_OF_SEQUENCE);
            }
        }
        let worst = largest.into_iter().map(|(index, _)| WorstToken {
            sequence: comparison.id.clone(),
            index,
            previous: match index.checked_sub(1) {
                Some(before) => comparison.tokens.get(before).map(|token| token.token_id),
                None => last_of_prompt,
            },
            token: comparison.tokens[index].clone(),
            worker: worker.map(str::to_owned),
            policy_version: policy_version.map(str::to_owned),
        });
        evidence.worst = worst.collect();
        evidence
    }

    /// Adds the evidence of other sequences.
    pub fn merge(&mut self, other: &Self) {
        for (own, others) in self.sums.iter_mut().flatten().zip(other.sums.iter().flatten()) {
            own.merge(others);
        }
        let full = self.worst.len() >= WORST;
        let smallest = self.worst.last().map_or(0.0, WorstToken::size);
        let before = self.worst.len();
        self.worst.extend(other.worst.iter().filter(|token| !full || token.size() > smallest).cloned());
        if self.worst.len() > before {
            self.worst.sort_by(|a, b| b.size().total_cmp(&a.size()));
            self.worst.truncate(WORST);
        }
    }

    /// The sums of each range, one more than there are bounds.
    #[must_use]
    pub fn by(&self, key: EvidenceKey) -> &[EvidenceSums; 9] {
        match key {
            EvidenceKey::EngineProbability => &self.sums[0],
            EvidenceKey::Entropy => &self.sums[1],
            EvidenceKey::Position => &self.sums[2],
        }
    }

    /// The tokens with the largest `|d|`, at most 32 and four of one sequence, the largest first.
    #[must_use]
    pub fn worst(&self) -> &[WorstToken] {
        &self.worst
    }
}

#[cfg(test)]
mod tests {
    use plumbline_core::SkipCounts;
    use proptest::prelude::*;

    use super::*;

    fn comparison(id: &str, tokens: &[(f64, f64, f64)]) -> SequenceComparison {
        let token = |(index, (engine, reference, entropy)): (usize, &(f64, f64, f64))| TokenComparison {
            token_id: 10 + index as TokenId,
            engine: Some(*engine),
            reference: Some(*reference),
            entropy: Some(*entropy),
            rank: Some(0),
            eos_probability: None,
            skipped: None,
        };
        SequenceComparison {
            id: id.into(),
            tokens: tokens.iter().enumerate().map(token).collect(),
            skipped: SkipCounts::default(),
            eos_probability: None,
        }
    }

    #[test]
    fn tokens_are_sorted_into_ranges_and_the_worst_are_kept() {
        let found = TokenEvidence::of(
            &comparison("s", &[(-0.001, -0.002, 0.0), (-1.0, -1.5, 1.0), (-20.0, -19.0, 4.5)]),
            Some(7),
            Some("w"),
            Some("42"),
        );
        let tokens = |key| found.by(key).map(|sums| sums.tokens);
        assert_eq!(tokens(EvidenceKey::EngineProbability), [1, 0, 0, 0, 0, 1, 0, 0, 1]);
        assert_eq!(tokens(EvidenceKey::Entropy), [1, 0, 0, 0, 0, 1, 0, 0, 1]);
        assert_eq!(tokens(EvidenceKey::Position), [1, 2, 0, 0, 0, 0, 0, 0, 0]);
        let sums = found.by(EvidenceKey::Position)[1];
        assert_eq!((sums.abs_log_ratio, sums.log_ratio, sums.tail_tokens), (1.5, 0.5, 2));
        let worst: Vec<_> = found.worst().iter().map(|token| (token.index, token.previous)).collect();
        assert_eq!(worst, [(2, Some(11)), (1, Some(10)), (0, Some(7))]);
        assert_eq!(
            (found.worst()[0].worker.as_deref(), found.worst()[0].policy_version.as_deref()),
            (Some("w"), Some("42"))
        );
    }

    #[test]
    fn masked_tokens_are_no_evidence() {
        let mut one = comparison("s", &[(-1.0, -9.0, 1.0)]);
        one.tokens[0].skipped = Some(plumbline_core::SkipReason::Masked);
        assert_eq!(TokenEvidence::of(&one, None, None, None), TokenEvidence::default());
    }

    proptest! {
        /// In whatever parts evidence comes, it is the same, and of bounded size.
        #[test]
        fn parts_merge_to_the_whole(sizes in prop::collection::vec(0.0f64..3.0, 1..120), cut in 0usize..120) {
            let each: Vec<TokenEvidence> = sizes
                .iter()
                .enumerate()
                .map(|(index, size)| TokenEvidence::of(&comparison(&index.to_string(), &[(-1.0, -1.0 - size, 1.0)]), None, None, None))
                .collect();
            let merged = |parts: &[TokenEvidence]| {
                let mut all = TokenEvidence::default();
                parts.iter().for_each(|part| all.merge(part));
                all
            };
            let cut = cut.min(each.len());
            let mut halves = merged(&each[..cut]);
            halves.merge(&merged(&each[cut..]));
            let whole = merged(&each);
            let order = |found: &TokenEvidence| found.worst().iter().map(WorstToken::size).collect::<Vec<_>>();
            prop_assert_eq!(order(&halves), order(&whole));
            let mut largest = sizes.clone();
            largest.sort_by(|a, b| b.total_cmp(a));
            largest.truncate(WORST);
            prop_assert!(order(&whole).iter().zip(&largest).all(|(a, b)| (a - b).abs() < 1e-12));
            prop_assert_eq!(whole.worst().len(), sizes.len().min(WORST));
            let sum = whole.by(EvidenceKey::Entropy).iter().map(|sums| sums.abs_log_ratio).sum::<f64>();
            prop_assert!((sum - sizes.iter().sum::<f64>()).abs() < 1e-9);
        }
    }
}
