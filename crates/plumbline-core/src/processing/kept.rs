//! Which tokens a truncation keeps, without sorting the row.
//!
//! Top-k, top-p and min-p all keep the most likely tokens. So whatever they keep together is everything at or above some
//! place in the order of the logits, a [`Bound`], and the strictest bound is the answer.

use std::cmp::Ordering;

use crate::TokenId;

/// The lowest kept token, in the order by logit and, among equal logits, by id: as a stable ascending sort would have it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bound {
    logit: f32,
    token: TokenId,
}

impl Bound {
    /// Keeps all.
    pub(super) const NONE: Self = Self { logit: f32::NEG_INFINITY, token: 0 };

    /// Keeps everything from this logit on, ties included.
    fn at(logit: f32) -> Self {
        Self { logit, token: 0 }
    }

    /// The stricter of two.
    pub(super) fn max(self, other: Self) -> Self {
        if ascending((self.logit, self.token), (other.logit, other.token)).is_lt() { other } else { self }
    }

    fn keeps(self, logit: f32, token: TokenId) -> bool {
        logit > self.logit || (logit == self.logit && token >= self.token)
    }
}

fn ascending(a: (f32, TokenId), b: (f32, TokenId)) -> Ordering {
    a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))
}

/// A nucleus.
pub(super) struct TopP {
    /// Share of the mass, below 1.
    pub(super) mass: f64,
    /// Of which tokens.
    pub(super) of: Bound,
    /// Whether the tokens with the same logit as the last one are kept too.
    pub(super) keeps_ties: bool,
}

/// A row's mass is summed in slices of this many to the nat, counted from the top, so that only the one slice in which a
/// nucleus ends has to be sorted.
const SLICES_PER_NAT: f64 = 8.0;
/// The last slice has all that is further down: less than 1e-27 of the top's probability each.
const SLICES: usize = 512;

/// A row of logits at a temperature.
pub(super) struct Row<'a> {
    logits: &'a [f32],
    max: f64,
    inverse_temperature: f64,
}

impl<'a> Row<'a> {
    pub(super) fn new(logits: &'a [f32], temperature: f64) -> Self {
        let max = logits.iter().fold(f32::NEG_INFINITY, |max, logit| if *logit > max { *logit } else { max });
        Self { logits, max: f64::from(max), inverse_temperature: 1.0 / temperature }
    }

    /// Logarithm of a token's share of the top token's probability.
    fn below(&self, logit: f32) -> f64 {
        (f64::from(logit) - self.max) * self.inverse_temperature
    }

    fn tokens(&self) -> impl Iterator<Item = (f32, TokenId)> {
        self.logits.iter().copied().zip(0..)
    }

    /// Tokens with at least the share `min_p` of the top token's probability.
    pub(super) fn min_p(&self, min_p: f64) -> Bound {
        let lowest = min_p.ln();
        let kept = self.logits.iter().copied().filter(|logit| self.below(*logit) >= lowest);
        Bound::at(kept.fold(f32::INFINITY, f32::min))
    }

    /// The `k` most likely of the tokens within `of`, and those that tie with the last.
    pub(super) fn top_k(&self, k: usize, of: Bound, largest: &mut Vec<f32>) -> Bound {
        largest.clear();
        let mut lowest = of.logit;
        let room = k.saturating_mul(2).min(self.logits.len());
        for logit in self.logits.iter().copied().filter(|logit| *logit >= of.logit) {
            if largest.len() >= k && logit <= lowest {
                continue;
            }
            largest.push(logit);
            // Now and then all but the k largest go; the smallest of these is what the next ones have to beat.
            if largest.len() > room {
                lowest = keep_largest(largest, k);
            }
        }
        if largest.len() > k {
            keep_largest(largest, k);
        }
        if largest.len() < k { of } else { Bound::at(largest.iter().copied().fold(f32::INFINITY, f32::min)) }
    }

    /// The most likely tokens of a nucleus: those before which, from the top, less than its mass stands.
    pub(super) fn top_p(&self, nucleus: &TopP, candidates: &mut Vec<(f32, TokenId)>) -> Bound {
        let kept = || self.tokens().filter(|(logit, token)| nucleus.of.keeps(*logit, *token));
        let mut masses = [0f64; SLICES];
        for (logit, _) in kept() {
            let below = self.below(logit);
            masses[slice_of(below)] += below.exp();
        }
        let wanted = nucleus.mass * masses.iter().sum::<f64>();
        let mut before = 0.0;
        for (slice, mass) in masses.into_iter().enumerate() {
            if before + mass >= wanted {
                candidates.clear();
                candidates.extend(kept().filter(|(logit, _)| slice_of(self.below(*logit)) == slice));
                candidates.sort_unstable_by(|a, b| ascending(*b, *a));
                // `None` where a rounding error puts the end into the next slice.
                if let Some(bound) = self.last_within(before, wanted, nucleus.keeps_ties, candidates) {
                    return bound;
                }
            }
            before += mass;
        }
        nucleus.of
    }

    /// The last of the descending `candidates` before which, with the `before` above all of them, less than `wanted` stands;
    /// `None` if that is so of all of them.
    fn last_within(
        &self,
        mut before: f64,
        wanted: f64,
        keeps_ties: bool,
        candidates: &[(f32, TokenId)],
    ) -> Option<Bound> {
        for (index, (logit, token)) in candidates.iter().enumerate() {
            before += self.below(*logit).exp();
            let next = candidates.get(index + 1);
            let tied = keeps_ties && next.is_some_and(|(next, _)| next == logit);
            if before >= wanted && !tied {
                return Some(if keeps_ties { Bound::at(*logit) } else { Bound { logit: *logit, token: *token } });
            }
        }
        None
    }

    /// The logprob of a token among those within the bound; `None` if it is not one of them.
    pub(super) fn logprob(&self, token: TokenId, bound: Bound) -> Option<f64> {
        let own = self.logits[token as usize];
        if !bound.keeps(own, token) {
            return None;
        }
        let kept = self.tokens().filter(|(logit, token)| bound.keeps(*logit, *token));
        let sum: f64 = kept.map(|(logit, _)| self.below(logit).exp()).sum();
        let logprob = self.below(own) - sum.ln();
        // A logit of minus infinity is no probability either.
        (logprob != f64::NEG_INFINITY).then_some(logprob)
    }
}

fn slice_of(below: f64) -> usize {
    // What is no number goes to the first slice, whose mass then is none either: no nucleus is found.
    ((-below * SLICES_PER_NAT) as usize).min(SLICES - 1)
}

/// Keeps the `k` largest values of more than `k`; the smallest of them.
fn keep_largest(values: &mut Vec<f32>, k: usize) -> f32 {
    let (_, smallest, _) = values.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    let smallest = *smallest;
    values.truncate(k);
    smallest
}
