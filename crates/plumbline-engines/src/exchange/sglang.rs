//! SGLang's `/generate`.

use super::at::At;
use super::error::{ExchangeErrorCode as Code, Found, Problems};
use super::pairs::{Tokens, spread, tuples};
use super::prompts::{Asked, Prompt, check_count, check_text_only, prompt_at};
use super::read::{Parts, Reading, finish_reason};
use super::versions::versions_in;
use super::{ExchangeError, ExchangeRollout};

/// Reads one completion, or an array of them: of several prompts, or several of one.
pub(super) fn read(reading: &Reading<'_>) -> Result<Vec<ExchangeRollout>, Vec<ExchangeError>> {
    let mut problems = Problems::default();
    let request = &reading.request;
    let single = [reading.response.clone()];
    let completions: Vec<At<'_>> = match reading.response.value.is_array() {
        true => reading.response.elements().map_err(|error| vec![error])?.collect(),
        false => single.to_vec(),
    };
    problems.keep(check_text_only(request));
    let asked = problems.keep(Asked::at(request.field("input_ids").or_else(|| request.field("text"))));
    let parameters = request.field("sampling_params");
    problems.check()?;
    let Some(asked) = asked else { return Ok(Vec::new()) };
    let per_prompt = problems.keep(completions_per_prompt(parameters.as_ref(), &asked, completions.len()));
    problems.check()?;

    let mut rollouts = Vec::with_capacity(completions.len());
    for (index, completion) in completions.iter().enumerate() {
        let prompt_index = index / per_prompt.unwrap_or(1);
        let own = match &parameters {
            Some(list) if list.value.is_array() => list.element(prompt_index),
            parameters => parameters.clone(),
        };
        let sampled = problems.keep(reading.sampled(own.as_ref()));
        let prompt = problems.keep(prompt_of(completion, &asked, prompt_index));
        let tokens = problems.keep(tokens_of(completion));
        let meta = completion.field("meta_info");
        let reason = problems.keep(finish_reason(meta.as_ref().and_then(|meta| meta.field("finish_reason"))));
        let versions = problems.keep(meta.as_ref().map_or_else(|| Ok(Default::default()), versions_in));
        let cached = meta.and_then(|meta| meta.field("cached_tokens")).map(|at| at.count()).transpose();
        let cached_tokens = problems.keep(cached);
        // What is wrong with one completion is mostly wrong with all of them.
        problems.check()?;
        if let (Some(sampled), Some(prompt), Some(tokens), Some(finish_reason), Some(versions), Some(cached_tokens)) =
            (sampled, prompt, tokens, reason, versions, cached_tokens)
        {
            let parts = Parts {
                choice: index,
                prompt_index,
                prompt,
                tokens,
                finish_reason,
                versions,
                cached_tokens,
                sampled: &sampled,
            };
            rollouts.push(reading.rollout(parts));
        }
    }
    Ok(rollouts)
}

/// How many completions each prompt has: the response lists them prompt by prompt.
fn completions_per_prompt(parameters: Option<&At<'_>>, asked: &Asked<'_>, completions: usize) -> Found<usize> {
    fn of<'a>(at: &At<'a>) -> Found<Option<(usize, At<'a>)>> {
        at.field("n").map(|n| n.count().map(|count| (count, n))).transpose()
    }
    let n = match parameters {
        Some(list) if list.value.is_array() => {
            let mut first = None;
            for own in list.elements()? {
                let n = of(&own)?;
                let count = n.as_ref().map_or(1, |(count, _)| *count);
                if *first.get_or_insert(count) != count {
                    return Err(own.error(Code::Unsupported, "n differs between the prompts of one request"));
                }
            }
            first.unwrap_or(1)
        }
        Some(one) => match of(one)? {
            Some((0, at)) => return Err(at.error(Code::InvalidValue, "must be at least 1")),
            Some((count, _)) => count,
            None => 1,
        },
        None => 1,
    };
    let prompts = match asked.count() {
        Some(prompts) => prompts,
        // Without the request all completions are taken to be of one prompt, whose ids each of them holds.
        None => return Ok(completions.max(1)),
    };
    if n == 0 || completions > prompts.saturating_mul(n) {
        let pointer = "/response".to_owned();
        let detail = format!("has {completions} completions of {prompts} prompts with n {n}");
        return Err(ExchangeError { code: Code::Contradictory, pointer, detail });
    }
    Ok(n)
}

/// The ids of a prompt: those that the response gives back, else the request's, else those with input logprobs, if these
/// start at the prompt's first token.
fn prompt_of(completion: &At<'_>, asked: &Asked<'_>, index: usize) -> Found<Prompt> {
    let meta = completion.field("meta_info");
    let returned = completion.field("prompt_token_ids").or_else(|| meta.as_ref()?.field("prompt_token_ids"));
    let counted = meta.as_ref().and_then(|meta| meta.field("prompt_tokens"));
    if let Some(returned) = returned {
        return prompt_at(&returned);
    }
    if let Some(ids) = asked.ids(index) {
        let prompt = prompt_at(ids)?;
        check_count(&prompt, counted)?;
        return Ok(prompt);
    }
    let inputs = meta.as_ref().and_then(|meta| meta.field("input_token_logprobs"));
    if let (Some(inputs), Some(counted)) = (inputs, counted) {
        let Tokens { ids, ids_place, .. } = tuples(&inputs)?;
        if !ids.is_empty() && ids.len() == counted.count()? {
            return Ok(Prompt { ids, place: ids_place });
        }
    }
    let detail =
        "the prompt's ids are missing: send input_ids, or set return_prompt_token_ids true (or logprob_start_len 0)";
    Err(completion.missing("prompt_token_ids", Code::MissingTokenIds, detail))
}

fn tokens_of(completion: &At<'_>) -> Found<Tokens> {
    let meta = completion.required("meta_info")?;
    let Some(outputs) = meta.field("output_token_logprobs") else {
        let detail = "the logprobs are missing: set return_logprob true";
        return Err(meta.missing("output_token_logprobs", Code::MissingLogprobs, detail));
    };
    let pairs = tuples(&outputs)?;
    match completion.field("output_ids") {
        Some(ids) => spread(pairs, &ids, false),
        None => Ok(pairs),
    }
}
