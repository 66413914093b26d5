//! llama.cpp's `/completion`.

use super::at::At;
use super::error::{ExchangeErrorCode as Code, Found, Problems};
use super::pairs::{Tokens, entries, spread};
use super::places::ArrayPlace;
use super::prompts::{Asked, Prompt, check_count, check_text_only, prompt_at};
use super::read::{Parts, Reading, finish_reason};
use super::versions::Versions;
use super::{ExchangeError, ExchangeRollout};

/// Reads one completion, or an array of one for each prompt.
pub(super) fn read(reading: &Reading<'_>) -> Result<Vec<ExchangeRollout>, Vec<ExchangeError>> {
    let mut problems = Problems::default();
    let request = &reading.request;
    let completions: Vec<At<'_>> = match reading.response.value.is_array() {
        true => reading.response.elements().map_err(|error| vec![error])?.collect(),
        false => vec![reading.response.clone()],
    };
    problems.keep(check_text_only(request));
    problems.keep(check_not_after_sampling(request));
    let asked = problems.keep(Asked::at(request.field("prompt")));
    problems.check()?;
    let Some(asked) = asked else { return Ok(Vec::new()) };

    let mut rollouts = Vec::with_capacity(completions.len());
    for (position, completion) in completions.iter().enumerate() {
        problems.keep(completion.object());
        let index = problems.keep(completion.field("index").map_or(Ok(position), |at| at.count()));
        let settings = completion.field("generation_settings");
        if let Some(settings) = &settings {
            problems.keep(check_not_after_sampling(settings));
        }
        // What the engine says it did stands above what it was asked to do.
        let parameters = settings.or_else(|| (!request.value.is_null()).then(|| request.clone()));
        let sampled = problems.keep(reading.sampled(parameters.as_ref()));
        let prompt = problems.keep(index.map_or(Ok(Prompt::default()), |index| prompt_of(completion, &asked, index)));
        let tokens = problems.keep(tokens_of(completion));
        let reason = problems.keep(finish_reason(completion.field("stop_type")));
        problems.keep(check_not_shifted(completion));
        let cached = completion.path(&["timings", "cache_n"]).map(|at| at.count()).transpose();
        let cached_tokens = problems.keep(cached);
        problems.check()?;
        if let (Some(index), Some(sampled), Some(prompt), Some(tokens), Some(finish_reason), Some(cached_tokens)) =
            (index, sampled, prompt, tokens, reason, cached_tokens)
        {
            let parts = Parts {
                choice: position,
                prompt_index: index,
                prompt,
                tokens,
                finish_reason,
                versions: Versions::default(),
                cached_tokens,
                sampled: &sampled,
            };
            rollouts.push(reading.rollout(parts));
        }
    }
    Ok(rollouts)
}

/// Probabilities after the sampler chain are of what was kept, in an order of transforms that is not reproduced.
fn check_not_after_sampling(at: &At<'_>) -> Found<()> {
    match at.field("post_sampling_probs") {
        Some(flag) if flag.boolean()? => {
            let detail = "probabilities after sampling cannot be reproduced: send post_sampling_probs false";
            Err(flag.error(Code::Unsupported, detail))
        }
        _ => Ok(()),
    }
}

/// A context that ran out may have been shifted: then tokens were sampled from a context that is gone.
fn check_not_shifted(completion: &At<'_>) -> Found<()> {
    match completion.field("truncated") {
        Some(flag) if flag.boolean()? => Err(flag.error(
            Code::Unsupported,
            "the context ran out, and whether it was shifted cannot be told: use a longer one",
        )),
        _ => Ok(()),
    }
}

fn prompt_of(completion: &At<'_>, asked: &Asked<'_>, index: usize) -> Found<Prompt> {
    let Some(ids) = asked.ids(index) else {
        let detail = "the prompt's ids are missing: llama.cpp does not return them; send them as prompt (its /tokenize gives them)";
        let key = "prompt";
        return Err(completion.missing(key, Code::MissingTokenIds, detail));
    };
    let prompt = prompt_at(ids)?;
    check_count(&prompt, completion.field("tokens_evaluated"))?;
    Ok(prompt)
}

fn tokens_of(completion: &At<'_>) -> Found<Tokens> {
    let Some(list) = completion.field("completion_probabilities") else {
        let detail = "the logprobs are missing: set n_probs 1";
        return Err(completion.missing("completion_probabilities", Code::MissingLogprobs, detail));
    };
    if list.element(0).is_some_and(|entry| entry.field("prob").is_some() || entry.field("probs").is_some()) {
        let detail = "holds probabilities, not logprobs: send post_sampling_probs false to a server of 2025 or later";
        return Err(list.error(Code::Unsupported, detail));
    }
    let entries = entries(&list)?;
    let Some((ids, within)) = entries.ids else {
        return Err(list.error(Code::MissingTokenIds, "has no ids: the server is older than their introduction"));
    };
    let logprobs_place = ArrayPlace::new(&list, 0, "/logprob");
    let pairs =
        Tokens { ids, logprobs: entries.logprobs, ids_place: ArrayPlace::new(&list, 0, within), logprobs_place };
    // Empty unless return_tokens was set, and in the last event of a stream.
    if let Some(sampled) = completion.field("tokens").filter(|tokens| tokens.element(0).is_some()) {
        return spread(pairs, &sampled, true);
    }
    let Some(counted) = completion.field("tokens_predicted") else {
        return Err(completion.missing("tokens", Code::MissingTokenIds, "the ids are missing: set return_tokens true"));
    };
    if counted.count()? == pairs.ids.len() {
        return Ok(pairs);
    }
    let detail = format!(
        "{} of {} sampled tokens have ids (llama.cpp leaves out those of a stop word and within a character): set return_tokens \
         true",
        pairs.ids.len(),
        counted.count()?
    );
    Err(completion.missing("tokens", Code::MissingTokenIds, detail))
}
