//! The engine saw another prompt than the one that is posted.

use plumbline_core::{Rollout, TokenId};

use super::case::Case;
use super::cause::Cause;
use super::prober::Budgeted;
use super::reforward::{FIRST_TOKENS, Question, panel, try_all};

/// Price in nats of a cut that the prompt's own structure suggests, and of one that was searched for.
const SUGGESTED: f64 = 3.0;
const SEARCHED: f64 = 6.0;
/// Cuts at special tokens that are tried.
const MOST_CUTS: usize = 8;
/// Last tokens of the prompt that a generation prompt may have.
const LONGEST_GENERATION_PROMPT: usize = 8;

pub(super) fn hypotheses(case: &mut Case<'_>, prober: &mut Budgeted<'_>) {
    let mut questions = beginnings(case);
    questions.extend(ends(case));
    try_all(case, prober, &questions, FIRST_TOKENS);
}

fn with_prompt(rollout: &Rollout, prompt: Vec<TokenId>) -> Option<Rollout> {
    (!prompt.is_empty()).then(|| Rollout { prompt_token_ids: prompt, ..rollout.clone() })
}

fn without_first(count: usize) -> impl Fn(&Rollout) -> Option<Rollout> {
    move |rollout| with_prompt(rollout, rollout.prompt_token_ids.get(count..)?.to_vec())
}

fn with_first(first: Vec<TokenId>) -> impl Fn(&Rollout) -> Option<Rollout> {
    move |rollout| with_prompt(rollout, [&first[..], &rollout.prompt_token_ids].concat())
}

/// BOS and other beginnings.
fn beginnings(case: &Case<'_>) -> Vec<Question> {
    let model = case.input.model;
    let mut questions = Vec::new();
    let chosen = panel(case);
    let prompts: Vec<&Vec<TokenId>> = chosen.iter().map(|sequence| &case.rollout(*sequence).prompt_token_ids).collect();
    // A tokenizer without a BOS may have one of its special tokens in its place.
    let fronts: Vec<TokenId> = match model.bos_token_id {
        Some(bos) => vec![bos],
        None => model.special_token_ids.iter().copied().take(4).collect(),
    };
    for bos in &fronts {
        let bos = *bos;
        questions.push(Question::altered(
            Cause::BosExtra,
            format!("the engine saw one more token {bos} (BOS) in front than was posted"),
            SUGGESTED,
            with_first(vec![bos]),
        ));
        if prompts.iter().any(|prompt| prompt.first() == Some(&bos)) {
            questions.push(Question::altered(
                Cause::BosMissing,
                format!("the engine did not see the token {bos} (BOS) in front that was posted"),
                SUGGESTED,
                move |rollout| {
                    (rollout.prompt_token_ids.first() == Some(&bos)).then(|| without_first(1)(rollout)).flatten()
                },
            ));
        }
    }
    if prompts.iter().any(|prompt| prompt.first().is_some_and(|first| !fronts.contains(first))) {
        let said = "the engine did not see the first token of the prompt";
        questions.push(Question::altered(Cause::PromptPrefixDiffers, said, SUGGESTED, move |rollout| {
            let first = rollout.prompt_token_ids.first()?;
            (!fronts.contains(first)).then(|| without_first(1)(rollout)).flatten()
        }));
    }
    questions.extend(cuts(&model.special_token_ids));
    for kept in [8, 16, 32, 64, 128, 256, 512, 1024] {
        if prompts.iter().any(|prompt| prompt.len() > kept) {
            let said = format!("the engine saw only the last {kept} tokens of the prompt");
            questions.push(Question::altered(Cause::PromptPrefixDiffers, said, SEARCHED, move |rollout| {
                let prompt = &rollout.prompt_token_ids;
                with_prompt(rollout, prompt.get(prompt.len().checked_sub(kept)?.max(1)..)?.to_vec())
            }));
        }
    }
    for prefix in &model.template_prefixes {
        let said = format!("the engine saw the template's own {} tokens before the prompt", prefix.len());
        let (prefix, bos) = (prefix.clone(), model.bos_token_id);
        questions.push(Question::altered(Cause::PromptPrefixDiffers, said, SUGGESTED, move |rollout| {
            // Both may begin with the BOS, which the engine saw once.
            let prompt = &rollout.prompt_token_ids;
            let again = bos.is_some() && bos == prefix.first().copied() && bos == prompt.first().copied();
            with_prompt(rollout, [&prefix[..], &prompt[usize::from(again)..]].concat())
        }));
    }
    questions
}

/// Without what comes before the n-th special token, and before the n-th last one.
fn cuts(special: &[TokenId]) -> Vec<Question> {
    let mut questions = Vec::new();
    for nth in 1..=MOST_CUTS {
        for from_end in [false, true] {
            let special = special.to_vec();
            let order = if from_end { "last" } else { "first" };
            let place = if nth == 1 {
                format!("{order} special token")
            } else {
                format!("{order} special token but {}", nth - 1)
            };
            let said = format!("the engine did not see what is before the prompt's {place}");
            questions.push(Question::altered(Cause::PromptPrefixDiffers, said, SUGGESTED, move |rollout| {
                let prompt = &rollout.prompt_token_ids;
                let mut places: Vec<usize> =
                    (1..prompt.len()).filter(|place| special.contains(&prompt[*place])).collect();
                if from_end {
                    places.reverse();
                }
                // Counted from both sides a cut would be asked for twice.
                let place = *places.get(nth - 1)?;
                let again = from_end && places.len() < 2 * nth;
                (!again).then(|| without_first(place)(rollout)).flatten()
            }));
        }
    }
    questions
}

/// Other ends of the prompt.
fn ends(case: &Case<'_>) -> Vec<Question> {
    let model = case.input.model;
    let mut questions = Vec::new();
    for count in 1..=LONGEST_GENERATION_PROMPT {
        let said = format!("the engine did not see the last {count} tokens of the prompt");
        questions.push(Question::altered(Cause::GenerationPromptDiffers, said, SUGGESTED, move |rollout| {
            let prompt = &rollout.prompt_token_ids;
            with_prompt(rollout, prompt[..prompt.len().checked_sub(count)?].to_vec())
        }));
    }
    for added in &model.generation_prompts {
        let added = added.clone();
        let said = format!("the engine saw {} more tokens (a generation prompt) behind the prompt", added.len());
        questions.push(Question::altered(Cause::GenerationPromptDiffers, said, SUGGESTED, move |rollout| {
            with_prompt(rollout, [&rollout.prompt_token_ids[..], &added].concat())
        }));
    }
    questions
}
