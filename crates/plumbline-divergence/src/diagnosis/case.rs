//! The working state of one diagnosis: the suspicious sequences, their rows of logits, and what was tried so far.

use std::collections::BTreeMap;

use plumbline_core::{LogprobsMode, Processing, ProcessingScratch, Rollout, TokenCounts, TokenId};

use super::cause::Cause;
use super::config::DiagnosisConfig;
use super::hypothesis::{Fit, Prediction, Tried, fit};
use super::input::{DiagnosisInput, SuspectSequence};
use super::observed::Observed;
use super::prober::Budgeted;
use super::row::Row;

/// See the module's text.
pub(super) struct Case<'a> {
    pub(super) input: &'a DiagnosisInput<'a>,
    pub(super) config: &'a DiagnosisConfig,
    /// The suspicious sequences.
    pub(super) observed: Vec<Observed>,
    /// For each, the ids whose logits are kept: those of its prompt and completion, and the frequent ones of the request, each
    /// once, ascending.
    pub(super) own: Vec<Vec<TokenId>>,
    /// For each, the rows that were looked at, one per token.
    pub(super) rows: Vec<Vec<Option<Row>>>,
    /// Hypotheses and how they fit.
    pub(super) tried: Vec<Tried>,
}

impl<'a> Case<'a> {
    pub(super) fn new(input: &'a DiagnosisInput<'a>, config: &'a DiagnosisConfig, observed: Vec<Observed>) -> Self {
        let frequent = frequent_ids(input, &observed);
        let own = observed.iter().map(|one| own_ids(input.sequences[one.index].rollout, &frequent)).collect();
        let rows = observed.iter().map(|observed| vec![None; observed.tokens.len()]).collect();
        Self { input, config, observed, own, rows, tried: Vec::new() }
    }

    pub(super) fn sequence(&self, sequence: usize) -> &'a SuspectSequence<'a> {
        &self.input.sequences[self.observed[sequence].index]
    }

    pub(super) fn rollout(&self, sequence: usize) -> &'a Rollout {
        self.sequence(sequence).rollout
    }

    /// Looks at rows of logits of every sequence, as many as the configuration allows, evenly spread.
    pub(super) fn look_at_rows(&mut self, prober: &mut Budgeted<'_>) {
        let quota = (self.config.rows / self.observed.len().max(1)).max(8).min(self.config.rows_per_sequence);
        let mut left = self.config.rows;
        let vocabulary = self.input.model.vocab_size;
        let used = self.input.model.tokenizer_size.unwrap_or(vocabulary).min(vocabulary);
        let temperature = super::head::temperature(self).unwrap_or(1.0);
        let mut scratch = Vec::new();
        let mut processed = ProcessingScratch::default();
        for sequence in 0..self.observed.len() {
            let tokens = &self.observed[sequence].tokens;
            let wanted = quota.min(tokens.len()).min(left);
            if wanted == 0 {
                continue;
            }
            let chosen: Vec<usize> = (0..wanted).map(|index| index * tokens.len() / wanted).collect();
            let places: Vec<usize> = chosen.iter().map(|index| tokens[*index].place).collect();
            let own = &self.own[sequence];
            let rows = &mut self.rows[sequence];
            let rollout = self.input.sequences[self.observed[sequence].index].rollout;
            // What the parameters mean where the numbers are after all of them; nothing in an order that is not known.
            let processing = Processing::of(LogprobsMode::Processed, &rollout.sampling).ok();
            let processing = processing.filter(|_| !rollout.sampling.is_neutral());
            prober.logits(rollout, &places, &mut |place, logits| {
                let Ok(index) = tokens.binary_search_by_key(&place, |token| token.place) else { return };
                let token = &tokens[index];
                let mut row = Row::new(logits, token.id, temperature, own, used, &mut scratch);
                row.processed = processing.as_ref().map(|processing| {
                    let seen = TokenCounts::new(&rollout.prompt_token_ids, &rollout.completion_token_ids[..token.at]);
                    processing.logprob(logits, token.id, &seen, &mut processed)
                });
                rows[index] = Some(row);
            });
            left -= wanted;
        }
    }

    /// Fits a hypothesis to every sequence.
    pub(super) fn fits(&self, prediction: impl Fn(usize, usize) -> Prediction) -> Vec<Option<Fit>> {
        let sequences = self.observed.iter().enumerate();
        sequences.map(|(sequence, observed)| fit(observed, |token| prediction(sequence, token))).collect()
    }

    /// As [`Case::fits`], of a part of the rows: enough to choose a parameter by.
    pub(super) fn rough_fits(&self, prediction: impl Fn(usize, usize) -> Prediction) -> Vec<Option<Fit>> {
        let rows: usize = self.rows.iter().map(|rows| rows.iter().flatten().count()).sum();
        let stride = rows.div_ceil(ROUGH_ROWS).max(1);
        self.fits(|sequence, token| match self.rows[sequence][token] {
            Some(_) if (sequence + token) % stride == 0 => prediction(sequence, token),
            _ => Prediction::Unknown,
        })
    }

    /// Records a hypothesis whose parameters all sequences share, at a price in nats.
    pub(super) fn record(&mut self, cause: Cause, said: impl Into<String>, price: f64, fits: Vec<Option<Fit>>) {
        let sharing = fits.iter().flatten().count().max(1) as f64;
        let fits = fits.into_iter().map(|fit| fit.map(|fit| fit.minus(price / sharing))).collect();
        self.tried.push(Tried::new(cause, said, fits));
    }

    /// As [`Case::record`], for something that was fitted on top of a temperature: recorded only if it is clearly better than
    /// the temperature alone, which it contains.
    pub(super) fn record_beyond(
        &mut self,
        temperature: f64,
        cause: Cause,
        said: impl Into<String>,
        price: f64,
        fits: Vec<Option<Fit>>,
    ) {
        let alone = self.fits(|sequence, token| match &self.rows[sequence][token] {
            Some(row) => Prediction::Value(row.logprob(|logit| logit / temperature)),
            None => Prediction::Unknown,
        });
        if total(&fits) - price > total(&alone) + self.config.margin {
            self.record(cause, said, price, fits);
        }
    }

    /// Fits and records a hypothesis about rows.
    pub(super) fn try_rows(
        &mut self,
        cause: Cause,
        said: impl Into<String>,
        price: f64,
        prediction: impl Fn(&Row) -> Prediction,
    ) {
        let fits =
            self.fits(|sequence, token| self.rows[sequence][token].as_ref().map_or(Prediction::Unknown, &prediction));
        self.record(cause, said, price, fits);
    }

    /// Whether some hypothesis already leaves nothing but noise, clearly.
    pub(super) fn is_settled(&self) -> bool {
        self.tried.iter().any(|tried| {
            let pooled = tried.pooled();
            let covered = tried.fits.iter().flatten().count();
            tried.is_counterfactual
                && pooled.gain > 2.0 * self.config.margin
                && (pooled.reaches(1.25) && pooled.explained() > 0.6
                    || pooled.reaches(self.config.reached) && pooled.explained() > 0.85)
                && 5 * covered >= 4 * tried.fits.len()
                && tried.fits.iter().flatten().all(|fit| fit.reaches(self.config.reached))
        })
    }
}

/// Rows by which a parameter is chosen.
const ROUGH_ROWS: usize = 320;

/// Ids of which a bias can be seen.
const FREQUENT: usize = 128;

/// The most frequent ids of the completions.
fn frequent_ids(input: &DiagnosisInput<'_>, observed: &[Observed]) -> Vec<TokenId> {
    let mut counts: BTreeMap<TokenId, usize> = BTreeMap::new();
    for one in observed {
        for id in &input.sequences[one.index].rollout.completion_token_ids {
            *counts.entry(*id).or_default() += 1;
        }
    }
    let mut counts: Vec<(TokenId, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts.into_iter().take(FREQUENT).map(|(id, _)| id).collect()
}

/// Distinct ids of a rollout and some more, ascending.
fn own_ids(rollout: &Rollout, more: &[TokenId]) -> Vec<TokenId> {
    let mut ids = [&rollout.prompt_token_ids[..], &rollout.completion_token_ids, more].concat();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// The total gain of fits.
pub(super) fn total(fits: &[Option<Fit>]) -> f64 {
    fits.iter().flatten().map(|fit| fit.gain).sum()
}

/// The argument with the largest value: the best of `grid`, refined between its neighbours by golden section.
pub(super) fn maximise(grid: &[f64], mut value: impl FnMut(f64) -> f64) -> Option<f64> {
    let values: Vec<f64> = grid.iter().map(|argument| value(*argument)).collect();
    let best = (0..grid.len()).max_by(|a, b| values[*a].total_cmp(&values[*b]))?;
    let (mut low, mut high) = (grid[best.saturating_sub(1)], grid[(best + 1).min(grid.len() - 1)]);
    const GOLDEN: f64 = 0.618_033_988_749_894_9;
    let (mut argument, mut largest) = (grid[best], values[best]);
    for _ in 0..12 {
        let (a, b) = (high - GOLDEN * (high - low), low + GOLDEN * (high - low));
        let (at_a, at_b) = (value(a), value(b));
        for (candidate, at) in [(a, at_a), (b, at_b)] {
            if at > largest {
                (argument, largest) = (candidate, at);
            }
        }
        if at_a > at_b { high = b } else { low = a }
    }
    Some(argument)
}

/// `count` values from `low` to `high`, evenly spaced in their logarithm.
pub(super) fn logarithmic(low: f64, high: f64, count: usize) -> Vec<f64> {
    let step = (high / low).ln() / (count.max(2) - 1) as f64;
    (0..count).map(|index| low * (step * index as f64).exp()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_maximum_is_found_between_grid_points() {
        let grid = logarithmic(0.1, 10.0, 21);
        assert!((grid[20] - 10.0).abs() < 1e-9);
        let found = maximise(&grid, |x| -(x - 0.7333f64).abs()).unwrap();
        assert!((found - 0.7333).abs() < 1e-3, "{found}");
        assert_eq!(maximise(&[], |x| x), None);
    }
}
