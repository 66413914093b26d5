//! Repetition, presence and frequency penalties in the numbers.

use plumbline_core::{LogprobsMode, Rollout, TokenId};

use super::case::{Case, maximise, total};
use super::cause::Cause;
use super::hypothesis::{Fit, Prediction};
use super::row::Row;
use super::sampling::{shared_sampling, stated_temperature};

const FITTED: f64 = 6.0;
const STATED: f64 = 1.0;

/// The three penalties, in the meaning of the OpenAI API and of vLLM.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Penalties {
    /// Divides positive logits, multiplies negative ones, of ids in prompt or completion.
    repetition: f64,
    /// Subtracted once from ids in the completion.
    presence: f64,
    /// Subtracted per occurrence in the completion.
    frequency: f64,
}

impl Penalties {
    const NONE: Self = Self { repetition: 1.0, presence: 0.0, frequency: 0.0 };

    fn apply(self, logit: f64, sampled: u32) -> f64 {
        let repeated = if logit > 0.0 { logit / self.repetition } else { logit * self.repetition };
        if sampled == 0 { repeated } else { repeated - self.presence - self.frequency * f64::from(sampled) }
    }
}

/// Which of a sequence's own ids were there before each token.
struct Seen {
    /// Per token: own index and how often it was sampled before; ids of the prompt are there with 0.
    before: Vec<Vec<(u32, u32)>>,
    /// Per token: index of the token itself among the own ids.
    target: Vec<usize>,
}

impl Seen {
    fn new(rollout: &Rollout, own: &[TokenId], at: impl Iterator<Item = Option<usize>>) -> Self {
        let index_of = |id: &TokenId| own.binary_search(id).ok();
        let mut counts: Vec<Option<u32>> = vec![None; own.len()];
        rollout.prompt_token_ids.iter().filter_map(index_of).for_each(|index| counts[index] = Some(0));
        let completion: Vec<Option<usize>> = rollout.completion_token_ids.iter().map(index_of).collect();
        let mut next = 0;
        let (mut before, mut target) = (Vec::new(), Vec::new());
        for at in at {
            let Some(at) = at else {
                before.push(Vec::new());
                target.push(0);
                continue;
            };
            for index in completion[next..at].iter().flatten() {
                counts[*index] = Some(counts[*index].unwrap_or(0) + 1);
            }
            next = at;
            let present = counts.iter().enumerate().filter_map(|(index, count)| Some((index as u32, (*count)?)));
            before.push(present.collect());
            target.push(completion[at].unwrap_or(0));
        }
        Self { before, target }
    }

    fn logprob(&self, row: &Row, token: usize, penalties: Penalties, temperature: f64, total: f64) -> f64 {
        let mut target = row.target;
        let (mut removed, mut added) = (0.0, 0.0);
        for (index, sampled) in &self.before[token] {
            let logit = f64::from(row.own[*index as usize]);
            let penalised = penalties.apply(logit, *sampled);
            removed += (logit / temperature - total).exp();
            added += (penalised / temperature - total).exp();
            if *index as usize == self.target[token] {
                target = penalised;
            }
        }
        // The mass of tokens not seen is a difference: nothing below the rounding of the sum is left of it.
        target / temperature - total - ((1.0 - removed).max(1e-12) + added).ln()
    }
}

/// Tries stated and fitted penalties.
pub(super) fn hypotheses(case: &mut Case<'_>) {
    let Some(sampling) = shared_sampling(case) else { return };
    let temperatures = match (case.rollout(0).logprobs_mode, stated_temperature(&sampling)) {
        (LogprobsMode::Raw, Some(temperature)) => vec![1.0, temperature],
        (_, Some(temperature)) => vec![temperature],
        (_, None) => vec![1.0],
    };
    let seen: Vec<Seen> = (0..case.observed.len())
        .map(|sequence| {
            let rows = case.rows[sequence].iter().zip(&case.observed[sequence].tokens);
            Seen::new(
                case.rollout(sequence),
                &case.own[sequence],
                rows.map(|(row, token)| row.as_ref().map(|_| token.at)),
            )
        })
        .collect();
    for temperature in temperatures {
        let totals: Vec<Vec<f64>> = case
            .rows
            .iter()
            .map(|rows| {
                rows.iter().map(|row| row.as_ref().map_or(0.0, |row| row.log_sum(|z| z / temperature))).collect()
            })
            .collect();
        let predicted = |case: &Case<'_>, penalties: Penalties, sequence: usize, token: usize| {
            let total = totals[sequence][token];
            let row = case.rows[sequence][token].as_ref();
            row.map_or(Prediction::Unknown, |row| {
                Prediction::Value(seen[sequence].logprob(row, token, penalties, temperature, total))
            })
        };
        let fits = |case: &Case<'_>, penalties: Penalties| -> Vec<Option<Fit>> {
            case.fits(|sequence, token| predicted(case, penalties, sequence, token))
        };
        let rough = |penalties: Penalties| -> f64 {
            total(&case.rough_fits(|sequence, token| predicted(case, penalties, sequence, token)))
        };
        let found = fitted(rough);
        let at = if temperature == 1.0 { String::new() } else { format!(" at temperature {temperature}") };
        let stated = Penalties {
            repetition: sampling.repetition_penalty,
            presence: sampling.presence_penalty,
            frequency: sampling.frequency_penalty,
        };
        if stated != Penalties::NONE {
            let found = fits(case, stated);
            let said = format!("the stated penalties are in the numbers ({}){at}", words(stated));
            case.record(Cause::PenaltiesApplied, said, STATED, found);
        }
        for (penalties, price) in found {
            let found = fits(case, penalties);
            let said = format!("penalties are in the numbers ({}){at}", words(penalties));
            case.record_beyond(temperature, Cause::PenaltiesApplied, said, price, found);
        }
    }
}

/// The best penalties of one kind each, and of presence and frequency together.
fn fitted(gain: impl Fn(Penalties) -> f64) -> Vec<(Penalties, f64)> {
    let factors: Vec<f64> = (0..22).map(|step| 0.7 + 0.06 * f64::from(step)).collect();
    let amounts: Vec<f64> = (0..21).map(|step| -1.0 + 0.15 * f64::from(step)).collect();
    let mut found = Vec::new();
    if let Some(repetition) = maximise(&factors, |repetition| gain(Penalties { repetition, ..Penalties::NONE })) {
        found.push((Penalties { repetition, ..Penalties::NONE }, FITTED));
    }
    let presence = maximise(&amounts, |presence| gain(Penalties { presence, ..Penalties::NONE })).unwrap_or(0.0);
    found.push((Penalties { presence, ..Penalties::NONE }, FITTED));
    let frequency = maximise(&amounts, |frequency| gain(Penalties { frequency, ..Penalties::NONE })).unwrap_or(0.0);
    found.push((Penalties { frequency, ..Penalties::NONE }, FITTED));
    // Both, by turns: the two are nearly the same where few ids come twice.
    let mut both = Penalties { presence: presence / 2.0, frequency: frequency / 2.0, ..Penalties::NONE };
    for _ in 0..3 {
        both.presence = maximise(&amounts, |presence| gain(Penalties { presence, ..both })).unwrap_or(both.presence);
        both.frequency =
            maximise(&amounts, |frequency| gain(Penalties { frequency, ..both })).unwrap_or(both.frequency);
    }
    found.push((both, 2.0 * FITTED));
    found
}

fn words(penalties: Penalties) -> String {
    let parts = [
        (penalties.repetition != 1.0, format!("repetition {:.2}", penalties.repetition)),
        (penalties.presence != 0.0, format!("presence {:.2}", penalties.presence)),
        (penalties.frequency != 0.0, format!("frequency {:.2}", penalties.frequency)),
    ];
    parts.into_iter().filter(|(is_on, _)| *is_on).map(|(_, words)| words).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The logprob from sums is that of a softmax over the penalised row.
        #[test]
        fn penalised_logprobs_are_a_softmax(
            logits in prop::collection::vec(-4.0f32..6.0, 12),
            prompt in prop::collection::vec(0u32..12, 1..6),
            completion in prop::collection::vec(0u32..12, 2..10),
            repetition in 0.8f64..1.6, presence in -0.5f64..1.0, frequency in -0.3f64..0.8, temperature in 0.5f64..1.5,
        ) {
            let penalties = Penalties { repetition, presence, frequency };
            let at = completion.len() - 1;
            let mut expected: Vec<f64> = logits.iter().map(|logit| f64::from(*logit)).collect();
            for (id, logit) in expected.iter_mut().enumerate() {
                let sampled = completion[..at].iter().filter(|seen| **seen as usize == id).count() as u32;
                if sampled > 0 || prompt.contains(&(id as u32)) {
                    *logit = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
                    *logit -= frequency * f64::from(sampled) + if sampled > 0 { presence } else { 0.0 };
                }
            }
            let sum: f64 = expected.iter().map(|logit| (logit / temperature).exp()).sum();
            let expected = expected[completion[at] as usize] / temperature - sum.ln();

            let mut own: Vec<u32> = prompt.iter().chain(&completion).copied().collect();
            own.sort_unstable();
            own.dedup();
            let rollout = super::super::testing::rollout(&prompt, &completion);
            let seen = Seen::new(&rollout, &own, (0..=at).map(|index| (index == at).then_some(index)));
            let row = Row::new(&logits, completion[at], 1.0, &own, 12, &mut Vec::new());
            let total = row.log_sum(|logit| logit / temperature);
            let actual = seen.logprob(&row, at, penalties, temperature, total);
            prop_assert!((actual - expected).abs() < 1e-6, "{actual} {expected}");
        }
    }
}
