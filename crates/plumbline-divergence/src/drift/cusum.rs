//! Betting against "no change": the e-detector in its CUSUM form.
//!
//! Under "the expected limited multiple `Y` is at most `m`" the payoff `1 + b (Y / m - 1)` of a bet `0 <= b <= 1` has an
//! expectation of at most 1 given the past, and under "at least `m`" so has `1 + b (1 - Y / m)` as long as it cannot fall
//! below 0. The sum over all beginnings of the products of payoffs since then (Shiryaev and Roberts) therefore grows on
//! average by at most 1 a sequence, and reaches `A` after `A` sequences on average at the earliest. The largest such
//! product (the CUSUM, which starts anew whenever it falls to 1) is no more than their sum. Several bets in both
//! directions share the allowance: each raises the alarm at `A` times their number.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::level::Level;
use super::{DriftDirection, DriftSample};

/// Shares of the largest bet: small ones find small or intermittent changes, large ones big changes at once.
const SHARES: [f64; 3] = [0.1, 0.35, 1.0];
/// The largest bet as a share of the largest possible, so that no single sequence can take all.
const LARGEST: f64 = 0.95;
/// Multiples count at most as this in bets on a change down: the lower, the larger these bets can be, as no payoff may be
/// negative. Healthy streams keep their mean up to 2 % or so under this limit.
const DOWN_CAP: f64 = 2.0;
/// Bets that share the allowance: all of both directions.
const BETS: f64 = 2.0 * SHARES.len() as f64;

/// The evidence that one bet has gathered since it last had none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Evidence {
    log: f64,
    /// Sum of weights and of weighted log levels since the beginning.
    weight: f64,
    weighted_log: f64,
    pub(super) began_sequence: u64,
    pub(super) began_at: Duration,
    pub(super) policy_version: Option<String>,
}

impl Evidence {
    /// Mean log level since the beginning.
    pub(super) fn mean_log(&self) -> f64 {
        self.weighted_log / self.weight
    }
}

/// All bets in one direction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Cusum {
    bets: [Option<Evidence>; SHARES.len()],
}

impl Cusum {
    /// Takes in one sequence. `weight` scales the bets; it may depend on anything known before the level is.
    pub(super) fn observe(
        &mut self,
        direction: DriftDirection,
        sample: &DriftSample<'_>,
        sequence: u64,
        weight: f64,
        reference: &Level,
        cap: f64,
    ) {
        let multiple = sample.level / reference.value;
        let (largest, excess) = match direction {
            DriftDirection::Up => (1.0, multiple.min(cap) / reference.tolerance - 1.0),
            DriftDirection::Down => {
                let cap = cap.min(DOWN_CAP);
                // The worst payoff is at the cap.
                (1.0 / (cap * reference.tolerance - 1.0), 1.0 - multiple.min(cap) * reference.tolerance)
            }
        };
        for (bet, share) in self.bets.iter_mut().zip(SHARES) {
            let gain = (share * LARGEST * largest * weight * excess).ln_1p();
            let before = bet.as_ref().map_or(0.0, |evidence| evidence.log);
            if before + gain <= 0.0 {
                *bet = None;
                continue;
            }
            let evidence = bet.get_or_insert_with(|| Evidence {
                log: 0.0,
                weight: 0.0,
                weighted_log: 0.0,
                began_sequence: sequence,
                began_at: sample.at,
                policy_version: sample.policy_version.map(str::to_owned),
            });
            evidence.log += gain;
            evidence.weight += weight;
            evidence.weighted_log += weight * reference.log(sample.level);
        }
    }

    /// The bet with the most evidence.
    pub(super) fn strongest(&self) -> Option<&Evidence> {
        self.bets.iter().flatten().max_by(|a, b| a.log.total_cmp(&b.log))
    }

    /// Evidence relative to what raises an alarm at this mean run length: 0 = none, 1 = alarm.
    pub(super) fn score(&self, mean_run_length: f64) -> f64 {
        self.strongest().map_or(0.0, |evidence| evidence.log / (BETS * mean_run_length).ln())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The guarantee rests on this: with levels at the edge of the null hypothesis, no bet gains on average, whatever the
    /// distribution; and no payoff is negative.
    #[test]
    fn no_bet_gains_on_average_at_the_edge_of_the_tolerance() {
        let reference = Level { value: 2.0, mean_log: 2f64.ln(), raised: false, tolerance: 1.25 };
        let payoff = |direction, multiple: f64, bet: usize| {
            let sample = DriftSample::new(Duration::ZERO, None, 100, 2.0 * multiple, None).unwrap();
            let mut cusum = Cusum::default();
            // Evidence in hand, so that a loss shows.
            let start = Evidence {
                log: 10.0,
                weight: 1.0,
                weighted_log: 0.0,
                began_sequence: 0,
                began_at: Duration::ZERO,
                policy_version: None,
            };
            cusum.bets = SHARES.map(|_| Some(start.clone()));
            cusum.observe(direction, &sample, 1, 1.0, &reference, 4.0);
            (cusum.bets[bet].as_ref().unwrap().log - 10.0).exp()
        };
        for bet in 0..SHARES.len() {
            // Two-point distributions with mean 1.25 (up) and 0.8 (down); 400 counts as 4 or 2.
            let up = 0.6875 * payoff(DriftDirection::Up, 0.0, bet) + 0.3125 * payoff(DriftDirection::Up, 400.0, bet);
            let down = 0.6 * payoff(DriftDirection::Down, 0.0, bet) + 0.4 * payoff(DriftDirection::Down, 400.0, bet);
            assert!((up - 1.0).abs() < 1e-12 && (down - 1.0).abs() < 1e-12, "bet {bet}: {up} and {down}");
        }
    }
}
