//! Hypotheses that need another forward: tried on a few sequences first, the best of each cause then on all.

use plumbline_core::{Rollout, TokenScores, Variant};

use super::case::{Case, total};
use super::cause::Cause;
use super::hypothesis::{Fit, Prediction, fit};
use super::prober::Budgeted;

/// How a rollout is altered; `None` where the alteration does not apply to it.
type Alteration = Box<dyn Fn(&Rollout) -> Option<Rollout>>;

/// One question to the model.
pub(super) struct Question {
    pub(super) cause: Cause,
    pub(super) said: String,
    /// Price in nats of having chosen it.
    pub(super) price: f64,
    pub(super) alteration: Alteration,
    pub(super) variant: Option<Variant>,
    /// The share of `|d|` that it has to explain where the floor is not reached.
    pub(super) least_explained: f64,
}

impl Question {
    pub(super) fn altered(
        cause: Cause,
        said: impl Into<String>,
        price: f64,
        alteration: impl Fn(&Rollout) -> Option<Rollout> + 'static,
    ) -> Self {
        Self {
            cause,
            said: said.into(),
            price,
            alteration: Box::new(alteration),
            variant: None,
            least_explained: super::hypothesis::LEAST_EXPLAINED,
        }
    }

    pub(super) fn of_variant(cause: Cause, said: impl Into<String>, price: f64, variant: Variant) -> Self {
        let unchanged = |rollout: &Rollout| Some(rollout.clone());
        Self { variant: Some(variant), ..Self::altered(cause, said, price, unchanged) }
    }
}

/// Share of the budget that one question may take on the panel.
const QUESTIONS: usize = 48;

/// The most telling suspicious sequences: the largest excess for what they cost, of different prompts where there are several,
/// as many as the budget has room for.
pub(super) fn panel(case: &Case<'_>) -> Vec<usize> {
    panel_of(case, case.config.panel, case.config.probe_tokens / QUESTIONS)
}

/// As [`panel`], of so many sequences and so many tokens of one forward over all of them.
pub(super) fn panel_of(case: &Case<'_>, most: usize, mut left: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..case.observed.len()).collect();
    let weight = |sequence: &usize| {
        let excess = case.observed[*sequence].excess();
        let forward = case.rollout(*sequence).prompt_token_ids.len() + excess.tokens;
        (excess.sum - excess.floor) / (forward as f64).sqrt()
    };
    order.sort_by(|a, b| weight(b).total_cmp(&weight(a)));
    let mut chosen: Vec<usize> = Vec::new();
    for same_prompts in [false, true] {
        for sequence in &order {
            let prompt = &case.rollout(*sequence).prompt_token_ids;
            let known = chosen.iter().any(|other| case.rollout(*other).prompt_token_ids == *prompt);
            let cost = prompt.len() + case.rollout(*sequence).completion_token_ids.len().min(FIRST_TOKENS);
            let affordable = chosen.is_empty() || cost <= left;
            let wanted = chosen.len() < most && !chosen.contains(sequence) && (same_prompts || !known);
            if wanted && affordable {
                chosen.push(*sequence);
                left = left.saturating_sub(cost);
            }
        }
    }
    chosen
}

/// Completion tokens that suffice to see what another context does.
pub(super) const FIRST_TOKENS: usize = 256;

/// A rollout without what comes after its first completion tokens.
pub(super) fn shortened(rollout: &Rollout, tokens: usize) -> Rollout {
    let mut short = rollout.clone();
    short.completion_token_ids.truncate(tokens);
    short.logprobs.truncate(tokens);
    if let Some(mask) = &mut short.loss_mask {
        mask.truncate(tokens);
    }
    short.weight_versions.retain(|span| span.start < tokens);
    short.weight_versions.iter_mut().for_each(|span| span.end = span.end.min(tokens));
    short
}

/// The scores of the first tokens of some sequences under a question, where it applies, is affordable and has an answer: one
/// for each observed sequence.
pub(super) fn ask(
    case: &Case<'_>,
    prober: &mut Budgeted<'_>,
    sequences: &[usize],
    question: &Question,
    tokens: usize,
) -> Vec<Option<TokenScores>> {
    let mut scores = vec![None; case.observed.len()];
    let altered = |sequence: &usize| (question.alteration)(&shortened(case.rollout(*sequence), tokens));
    let (asked, altered): (Vec<usize>, Vec<Rollout>) =
        sequences.iter().filter_map(|sequence| Some((*sequence, altered(sequence)?))).unzip();
    for (sequence, answer) in asked.into_iter().zip(prober.score(&altered, question.variant.as_ref())) {
        scores[sequence] = answer;
    }
    scores
}

/// The fit of each sequence that has scores.
fn fit_all(case: &Case<'_>, scores: &[Option<TokenScores>]) -> Vec<Option<Fit>> {
    let of = |(sequence, scores): (usize, &Option<TokenScores>)| fit_scores(case, sequence, scores.as_ref()?);
    scores.iter().enumerate().map(of).collect()
}

/// The engine's mode of the scores of a sequence whose completion is as posted.
pub(super) fn fit_scores(case: &Case<'_>, sequence: usize, scores: &TokenScores) -> Option<Fit> {
    let observed = &case.observed[sequence];
    fit(observed, |token| {
        let value = scores.logprobs_in_mode.get(observed.tokens[token].place);
        value.map_or(Prediction::Unknown, |value| Prediction::Value(*value))
    })
}

/// Tries all questions on the first tokens of the panel and, for each cause, the best one on all suspicious sequences. Returns
/// the gains on the panel in the order of the questions, `None` for what had no answer.
pub(super) fn try_all(
    case: &mut Case<'_>,
    prober: &mut Budgeted<'_>,
    questions: &[Question],
    tokens: usize,
) -> Vec<Option<f64>> {
    let panel = panel(case);
    let mut gains = Vec::new();
    let mut best: Vec<(f64, usize, Vec<Option<Fit>>)> = Vec::new();
    for (index, question) in questions.iter().enumerate() {
        let fits = fit_all(case, &ask(case, prober, &panel, question, tokens));
        let answered = fits.iter().any(Option::is_some);
        let gain = total(&fits) - question.price;
        gains.push(answered.then_some(gain));
        if !answered {
            continue;
        }
        match best.iter_mut().find(|(_, other, _)| questions[*other].cause == question.cause) {
            Some(known) if known.0 < gain => *known = (gain, index, fits),
            Some(_) => {}
            None => best.push((gain, index, fits)),
        }
    }
    // The best cause first: it is the one to spend what is left on.
    best.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (gain, index, mut fits) in best {
        if gain > 0.0 {
            let others: Vec<usize> = (0..case.observed.len()).filter(|sequence| !panel.contains(sequence)).collect();
            let of_others = fit_all(case, &ask(case, prober, &others, &questions[index], tokens));
            others.iter().for_each(|sequence| fits[*sequence] = of_others[*sequence]);
        }
        let question = &questions[index];
        case.record(question.cause, question.said.clone(), question.price, fits);
        if let Some(tried) = case.tried.last_mut() {
            tried.least_explained = question.least_explained;
        }
    }
    gains
}
