//! Another token in the prompt: which place, found by taking each posted token's influence away.
//!
//! What the engine had in its place is not known, and there are too many tokens to try. But the mean of the numbers under
//! several replacements is near what the reference expects without knowing that token: nearer to the engine's than the
//! posted one's numbers are, if that is the token that differs, and farther from them if it is not.

use plumbline_core::{Rollout, TokenId};

use super::case::{Case, total};
use super::cause::Cause;
use super::hypothesis::{Fit, Prediction, Tried, fit};
use super::prober::Budgeted;
use super::reforward::{FIRST_TOKENS, panel_of, shortened};

/// Last tokens of the prompt that are tried.
const PROMPT_TOKENS: usize = 10;
/// Replacements of each, and those added to the most promising places.
const FIRST_LOOK: usize = 3;
const SECOND_LOOK: usize = 9;
const PROMISING: usize = 2;
/// Sequences that places are searched with at most.
const SEQUENCES: usize = 8;
/// Completion tokens that a place is searched by: a token's influence fades.
const SEARCHED_TOKENS: usize = 96;
/// Price in nats of having searched.
const SEARCHED: f64 = 6.0;
/// Share of `|d|` that has to be explained where the floor is not reached: the posted token's part goes away, the true one's
/// stays. Of two equal and independent parts that is 29 %.
const LEAST_EXPLAINED: f64 = 0.12;

/// Sums of the numbers of one sequence under replacements of one token.
#[derive(Clone, Debug, Default)]
struct Mean {
    sums: Vec<f64>,
    count: usize,
}

impl Mean {
    fn add(&mut self, logprobs: &[f64]) {
        self.sums.resize(self.sums.len().max(logprobs.len()), 0.0);
        self.sums.iter_mut().zip(logprobs).for_each(|(sum, logprob)| *sum += logprob);
        self.count += 1;
    }

    fn at(&self, place: usize) -> Prediction {
        match self.sums.get(place) {
            Some(sum) if self.count > 0 => Prediction::Value(sum / self.count as f64),
            _ => Prediction::Unknown,
        }
    }
}

/// One place, counted from the end of the prompt, and the means of the sequences that were asked for.
struct Place {
    back: usize,
    means: Vec<Mean>,
}

impl Place {
    fn fits(&self, case: &Case<'_>) -> Vec<Option<Fit>> {
        let of = |(mean, observed): (&Mean, &super::observed::Observed)| {
            (mean.count > 0).then(|| fit(observed, |token| mean.at(observed.tokens[token].place))).flatten()
        };
        self.means.iter().zip(&case.observed).map(of).collect()
    }

    /// Asks for further replacements in some sequences.
    fn ask(
        &mut self,
        case: &Case<'_>,
        prober: &mut Budgeted<'_>,
        (sequences, replacements): (&[usize], &[TokenId]),
        tokens: usize,
    ) {
        let pairs = sequences.iter().flat_map(|sequence| replacements.iter().map(move |other| (*sequence, *other)));
        let altered =
            |(sequence, other)| Some((sequence, with_prompt_token(case.rollout(sequence), self.back, other, tokens)?));
        let (asked, altered): (Vec<usize>, Vec<Rollout>) = pairs.filter_map(altered).unzip();
        for (sequence, scores) in asked.into_iter().zip(prober.score(&altered, None)) {
            if let Some(scores) = scores {
                self.means[sequence].add(&scores.logprobs_in_mode);
            }
        }
    }
}

/// The rollout's first tokens with another prompt token `back` before the prompt's end; `None` if there is none, or if it is
/// the same.
fn with_prompt_token(rollout: &Rollout, back: usize, other: TokenId, tokens: usize) -> Option<Rollout> {
    let place = rollout.prompt_token_ids.len().checked_sub(back)?;
    let mut altered = shortened(rollout, tokens);
    let replaced = std::mem::replace(altered.prompt_token_ids.get_mut(place)?, other);
    (replaced != other).then_some(altered)
}

/// Looks for a prompt token that the engine had otherwise.
pub(super) fn hypotheses(case: &mut Case<'_>, prober: &mut Budgeted<'_>) {
    let questions = PROMPT_TOKENS * FIRST_LOOK + PROMISING * SECOND_LOOK;
    let panel = panel_of(case, SEQUENCES, prober.left() / (questions + questions / 4));
    let longest = panel.iter().map(|sequence| case.rollout(*sequence).prompt_token_ids.len()).max().unwrap_or(0);
    let replacements = replacements(case);
    let (first, more) = replacements.split_at(FIRST_LOOK.min(replacements.len()));
    let mut places: Vec<Place> = (1..=PROMPT_TOKENS.min(longest))
        .map(|back| Place { back, means: vec![Mean::default(); case.observed.len()] })
        .collect();
    for place in &mut places {
        place.ask(case, prober, (&panel, first), SEARCHED_TOKENS);
    }
    let by_gain = |case: &Case<'_>, places: &mut Vec<Place>| {
        places.sort_by(|a, b| total(&b.fits(case)).total_cmp(&total(&a.fits(case))));
    };
    by_gain(case, &mut places);
    places.truncate(PROMISING);
    for place in &mut places {
        place.ask(case, prober, (&panel, more), SEARCHED_TOKENS);
    }
    by_gain(case, &mut places);
    let Some(searched) = places.into_iter().next() else { return };
    let mut place = searched;
    if total(&place.fits(case)) > 0.0 {
        // The other sequences, as far as the budget goes: fewer replacements of each would only blur what the panel shows.
        for sequence in (0..case.observed.len()).filter(|sequence| !panel.contains(sequence)) {
            let rollout = case.rollout(sequence);
            let once = rollout.prompt_token_ids.len() + rollout.completion_token_ids.len().min(FIRST_TOKENS);
            if once * replacements.len() <= prober.left() {
                place.ask(case, prober, (&[sequence], &replacements), FIRST_TOKENS);
            }
        }
    }
    let fits = place.fits(case);
    let said = format!("the engine had another token {} before the end of the prompt", place.back);
    let sharing = fits.iter().flatten().count().max(1) as f64;
    let fits = fits.into_iter().map(|fit| fit.map(|fit| fit.minus(SEARCHED / sharing))).collect();
    case.tried.push(Tried { least_explained: LEAST_EXPLAINED, ..Tried::new(Cause::TokenAltered, said, fits) });
}

/// Tokens of the request, spread over the ids: ordinary ones.
fn replacements(case: &Case<'_>) -> Vec<TokenId> {
    let Some(own) = case.own.first() else { return Vec::new() };
    let wanted = FIRST_LOOK + SECOND_LOOK;
    // By turns from all over, so that the first few are as different as all of them.
    let spread = (0..wanted).map(|index| (index * 5 % wanted * 2 + 1) * own.len() / (2 * wanted));
    let mut chosen: Vec<TokenId> = Vec::new();
    for id in spread.filter_map(|index| own.get(index)) {
        if !chosen.contains(id) {
            chosen.push(*id);
        }
    }
    chosen
}
