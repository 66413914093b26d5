//! One row of logits, kept small: enough for every hypothesis about what was done to it.
//!
//! The largest logits are kept one by one, the others as counts in narrow bins (their mean and number), so that a softmax
//! over any monotone function of the logits costs a few thousand exponentials whatever the size of the vocabulary. Within a
//! bin of 1/64 nat the error of a sum of exponentials is below 2e-5 of it.

use plumbline_core::{Processed, TokenId};

/// Logits that are kept one by one.
const KEPT: usize = 2048;
/// Bins per nat.
const BINS_PER_NAT: f32 = 64.0;
/// Bins at most; what is farther below the kept logits adds nothing to a softmax and shares the last one.
const MOST_BINS: usize = 4096;

/// The row that predicts one token.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// The largest logits, descending.
    top: Vec<f64>,
    /// Mean and number of the others.
    rest: Vec<(f64, f64)>,
    /// The predicted token's logit.
    pub(super) target: f64,
    /// Logits of the sequence's own distinct ids, in their order.
    pub(super) own: Vec<f32>,
    /// The target's logprob at the temperature of the numbers, with all logits rounded to bf16 before.
    pub(super) rounded: f64,
    /// Probability of ids that the tokenizer cannot make.
    pub(super) unused: f64,
    /// Log-sum-exp at temperature 1.
    pub(super) total: f64,
    /// The target after everything that the sampling parameters ask for, where they ask for something.
    pub(super) processed: Option<Processed>,
}

/// Nearest bf16, ties to even.
pub(super) fn to_bf16(value: f32) -> f32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) & 0xFFFF_0000;
    if value.is_finite() { f32::from_bits(rounded) } else { value }
}

impl Row {
    /// Condenses a row whose numbers are at a temperature. `own` = the ids whose logits to keep, `used` = ids below are in use.
    pub(super) fn new(
        logits: &[f32],
        target: TokenId,
        temperature: f64,
        own: &[TokenId],
        used: usize,
        scratch: &mut Vec<f32>,
    ) -> Self {
        scratch.clear();
        scratch.extend(logits.iter().filter(|logit| **logit > f32::NEG_INFINITY));
        let kept = KEPT.min(scratch.len());
        if kept < scratch.len() {
            scratch.select_nth_unstable_by(kept, |a, b| b.total_cmp(a));
        }
        scratch[..kept].sort_unstable_by(|a, b| b.total_cmp(a));
        let top: Vec<f64> = scratch[..kept].iter().map(|logit| f64::from(*logit)).collect();
        let rest = bins(&scratch[kept..], scratch.get(kept.wrapping_sub(1)).copied().unwrap_or(0.0));
        let logit = |id: TokenId| logits.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
        let target = logit(target);
        let mut row = Self {
            top,
            rest,
            target: f64::from(target),
            own: own.iter().map(|id| logit(*id)).collect(),
            rounded: 0.0,
            unused: 0.0,
            total: 0.0,
            processed: None,
        };
        row.total = row.log_sum(|logit| logit);
        let largest = to_bf16(logits.iter().fold(f32::NEG_INFINITY, |largest, logit| largest.max(*logit)));
        let inverse = (1.0 / temperature) as f32;
        let sum: f64 = logits.iter().map(|logit| f64::from(((to_bf16(*logit) - largest) * inverse).exp())).sum();
        row.rounded = f64::from(to_bf16(target) - largest) / temperature - sum.ln();
        row.unused = logits.iter().skip(used).map(|logit| (f64::from(*logit) - row.total).exp()).sum();
        row
    }

    /// Log-sum-exp of a function of the logits that never falls.
    pub(super) fn log_sum(&self, function: impl Fn(f64) -> f64) -> f64 {
        let Some(largest) = self.top.first().map(|logit| function(*logit)) else { return f64::NEG_INFINITY };
        let top: f64 = self.top.iter().map(|logit| (function(*logit) - largest).exp()).sum();
        let rest: f64 = self.rest.iter().map(|(logit, count)| count * (function(*logit) - largest).exp()).sum();
        largest + (top + rest).ln()
    }

    /// The target's logprob after a function of the logits that never falls.
    pub(super) fn logprob(&self, function: impl Fn(f64) -> f64) -> f64 {
        function(self.target) - self.log_sum(&function)
    }

    /// The distribution at a temperature, sorted.
    pub(super) fn sorted(&self, temperature: f64) -> Sorted {
        let total = self.log_sum(|logit| logit / temperature);
        let mut mass = 0.0;
        let mut cumulative = Vec::with_capacity(self.top.len());
        for logit in &self.top {
            mass += (logit / temperature - total).exp();
            cumulative.push(mass);
            if self.rest.is_empty() && mass > 1.0 - 1e-12 {
                break;
            }
        }
        // Tokens strictly before the target: those that are equal are kept or cut with it.
        let before = self.top.partition_point(|logit| *logit > self.target);
        Sorted {
            cumulative,
            target: (self.target / temperature - total).min(0.0),
            largest: self.top.first().map_or(0.0, |logit| logit / temperature - total),
            before,
            logprobs: self.top.iter().map(|logit| logit / temperature - total).collect(),
        }
    }
}

fn bins(rest: &[f32], ceiling: f32) -> Vec<(f64, f64)> {
    let mut sums: Vec<(f64, f64)> = Vec::new();
    for logit in rest {
        let bin = (((ceiling - logit) * BINS_PER_NAT) as usize).min(MOST_BINS - 1);
        if bin >= sums.len() {
            sums.resize(bin + 1, (0.0, 0.0));
        }
        sums[bin].0 += f64::from(*logit);
        sums[bin].1 += 1.0;
    }
    sums.retain(|(_, count)| *count > 0.0);
    sums.iter_mut().for_each(|(sum, count)| *sum /= *count);
    sums
}

/// A row's distribution, most likely tokens first.
#[derive(Clone, Debug)]
pub(super) struct Sorted {
    /// Mass of the first 1, 2, ... tokens.
    cumulative: Vec<f64>,
    logprobs: Vec<f64>,
    /// The target's logprob.
    target: f64,
    /// The most likely token's logprob.
    largest: f64,
    /// Tokens before the target.
    before: usize,
}

/// What is kept of a distribution, in vLLM's order: min-p, top-k, then top-p of what is left.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Truncation {
    /// 0 = off.
    pub(super) top_k: usize,
    /// 1 = off.
    pub(super) top_p: f64,
    /// 0 = off.
    pub(super) min_p: f64,
}

impl Truncation {
    pub(super) const NONE: Self = Self { top_k: 0, top_p: 1.0, min_p: 0.0 };
}

/// A target this close below the last kept token, in nats, may have been kept by an engine that rounds.
const BORDER: f64 = 0.15;

impl Sorted {
    /// The target's logprob after renormalisation over what is kept; `None` if it is cut off. Where the kept tokens reach
    /// below those that are known one by one, a nucleus has its nominal mass and other truncations keep everything.
    pub(super) fn truncated(&self, rule: Truncation) -> Option<f64> {
        let known = self.cumulative.len();
        let mut kept = usize::MAX;
        if rule.top_k > 0 {
            kept = rule.top_k;
        }
        if rule.min_p > 0.0 {
            let least = self.largest + rule.min_p.ln();
            kept = kept.min(self.logprobs.partition_point(|logprob| *logprob >= least));
        }
        let mass = |kept: usize| if kept > known { 1.0 } else { self.cumulative[kept.max(1) - 1].min(1.0) };
        if rule.top_p < 1.0 {
            let wanted = rule.top_p * mass(kept);
            let nucleus = self.cumulative.partition_point(|mass| *mass < wanted) + 1;
            if nucleus > known {
                return Some(self.target - wanted.max(mass(known)).ln());
            }
            kept = kept.min(nucleus);
        }
        if kept > known {
            return Some(self.target);
        }
        let kept = kept.max(1);
        if self.before < kept {
            return Some(self.target - mass(kept).ln());
        }
        let close = self.before < known && self.target > self.logprobs[kept - 1] - BORDER;
        close.then(|| self.target - mass(self.before + 1).ln())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn exact(logits: &[f32], target: usize, function: impl Fn(f64) -> f64) -> f64 {
        let values: Vec<f64> = logits.iter().map(|logit| function(f64::from(*logit))).collect();
        let largest = values.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
        values[target] - largest - values.iter().map(|value| (value - largest).exp()).sum::<f64>().ln()
    }

    /// Logits of a vocabulary with more tokens than are kept.
    fn wide() -> impl Strategy<Value = Vec<f32>> {
        (1u64..1000, 2000usize..9000, 0.5f32..6.0).prop_map(|(seed, len, spread)| {
            let mut state = seed;
            (0..len)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let uniform = (state >> 40) as f32 / 16_777_216.0;
                    spread * ((uniform + 1e-4) / (1.0 - uniform + 1e-4)).ln()
                })
                .collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// A condensed row gives the softmax of the whole row, under any function.
        #[test]
        fn condensing_keeps_the_softmax(logits in wide(), target in 0usize..2000, temperature in 0.3f64..2.5, cap in 3.0f64..50.0) {
            let row = Row::new(&logits, target as u32, temperature, &[3], logits.len(), &mut Vec::new());
            let scaled = |z: f64| z / temperature;
            let capped = |z: f64| cap * (z / cap).tanh();
            prop_assert!((row.logprob(scaled) - exact(&logits, target, scaled)).abs() < 1e-4);
            prop_assert!((row.logprob(capped) - exact(&logits, target, capped)).abs() < 1e-4);
            prop_assert_eq!(row.own[0], logits[3]);
            let rounded: Vec<f32> = logits.iter().map(|logit| to_bf16(*logit)).collect();
            prop_assert!((row.rounded - exact(&rounded, target, scaled)).abs() < 1e-4);
        }

        /// Truncations keep what their definitions say.
        #[test]
        fn truncations_follow_their_definitions(
            logits in prop::collection::vec(-6.0f32..6.0, 8..60), target in 0usize..8, k in 1usize..8, p in 0.3f64..0.99,
        ) {
            let row = Row::new(&logits, target as u32, 1.0, &[], logits.len(), &mut Vec::new());
            let sorted = row.sorted(1.0);
            let mut order: Vec<usize> = (0..logits.len()).collect();
            order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
            let probability = |id: usize| exact(&logits, id, |z| z).exp();
            let mut mass = 0.0;
            let nucleus = order.iter().position(|id| { mass += probability(*id); mass >= p }).unwrap() + 1;
            let least = probability(order[0]) * 0.1;
            let floor = order.iter().filter(|id| probability(**id) >= least).count();
            let rules = [
                (Truncation { top_k: k, ..Truncation::NONE }, k),
                (Truncation { top_p: p, ..Truncation::NONE }, nucleus),
                (Truncation { min_p: 0.1, ..Truncation::NONE }, floor),
            ];
            for (rule, kept) in rules {
                let sum: f64 = order[..kept].iter().map(|id| probability(*id)).sum();
                if order[..kept].contains(&target) {
                    let expected = probability(target).ln() - sum.ln();
                    prop_assert!((sorted.truncated(rule).unwrap() - expected).abs() < 1e-9);
                } else if let Some(value) = sorted.truncated(rule) {
                    prop_assert!(probability(target) > probability(order[kept - 1]) * (-0.16f64).exp(), "{value}");
                }
            }
        }
    }

    #[test]
    fn bf16_rounds_to_nearest_even() {
        assert_eq!(to_bf16(1.0 + 1.0 / 256.0), 1.0);
        assert_eq!(to_bf16(1.0 + 3.0 / 256.0), 1.0 + 2.0 / 128.0);
        assert_eq!(to_bf16(-3.3), -3.296_875);
        assert_eq!(to_bf16(f32::NEG_INFINITY), f32::NEG_INFINITY);
    }
}
