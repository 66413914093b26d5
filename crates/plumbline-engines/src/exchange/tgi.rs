//! Text Generation Inference's `/generate`.

use super::at::At;
use super::error::{ExchangeErrorCode as Code, Found, Problems};
use super::pairs::{Tokens, entries};
use super::places::ArrayPlace;
use super::prompts::Prompt;
use super::read::{Parts, Reading, finish_reason};
use super::versions::Versions;
use super::{ExchangeError, ExchangeRollout};

/// Reads one completion and, with `best_of`, the ones that were not the best.
pub(super) fn read(reading: &Reading<'_>) -> Result<Vec<ExchangeRollout>, Vec<ExchangeError>> {
    let mut problems = Problems::default();
    // TGI's `/` answers with an array of one.
    if reading.response.value.as_array().is_some_and(|all| all.len() > 1) {
        return Err(vec![
            reading.response.error(Code::Unsupported, "holds several answers: send each as an exchange of its own"),
        ]);
    }
    let body = reading.response.element(0).unwrap_or_else(|| reading.response.clone());
    let Some(details) = body.field("details") else {
        let detail = "the tokens are missing: set parameters.details and parameters.decoder_input_details true";
        return Err(vec![body.missing("details", Code::MissingTokenIds, detail)]);
    };
    let parameters = reading.request.field("parameters");
    let sampled = problems.keep(reading.sampled(parameters.as_ref()));
    let prompt = problems.keep(prompt_of(&details));
    problems.check()?;
    let mut all = vec![details.clone()];
    if let Some(others) = details.field("best_of_sequences") {
        all.extend(others.elements().map_err(|error| vec![error])?);
    }
    let mut rollouts = Vec::with_capacity(all.len());
    for (choice, details) in all.iter().enumerate() {
        let tokens = problems.keep(tokens_of(details));
        let reason = problems.keep(finish_reason(details.field("finish_reason")));
        problems.check()?;
        if let (Some(sampled), Some(prompt), Some(tokens), Some(finish_reason)) = (&sampled, &prompt, tokens, reason) {
            rollouts.push(reading.rollout(Parts {
                choice,
                prompt_index: 0,
                prompt: prompt.clone(),
                tokens,
                finish_reason,
                versions: Versions::default(),
                cached_tokens: None,
                sampled,
            }));
        }
    }
    Ok(rollouts)
}

fn prompt_of(details: &At<'_>) -> Found<Prompt> {
    let prefill = details.field("prefill").filter(|prefill| prefill.element(0).is_some());
    let Some(prefill) = prefill else {
        let detail = "the prompt's ids are missing: set parameters.decoder_input_details true (not with /generate_stream, which \
                      cannot return them)";
        return Err(details.missing("prefill", Code::MissingTokenIds, detail));
    };
    let ids = prefill.elements()?.map(|token| token.required("id")?.id()).collect::<Found<_>>()?;
    Ok(Prompt { ids, place: ArrayPlace::new(&prefill, 0, "/id") })
}

fn tokens_of(details: &At<'_>) -> Found<Tokens> {
    let tokens = details.required("tokens")?;
    let entries = entries(&tokens)?;
    let Some((ids, within)) = entries.ids else {
        return Err(tokens.error(Code::MissingTokenIds, "has no ids"));
    };
    if let Some(counted) = details.field("generated_tokens")
        && counted.count()? != ids.len()
    {
        return Err(counted.error(Code::Contradictory, format!("is not the number of tokens, {}", ids.len())));
    }
    let logprobs_place = ArrayPlace::new(&tokens, 0, "/logprob");
    Ok(Tokens { ids, logprobs: entries.logprobs, ids_place: ArrayPlace::new(&tokens, 0, within), logprobs_place })
}
