//! Bodies with `choices`: vLLM, SGLang, llama.cpp and TensorRT-LLM.

use super::at::At;
use super::error::{ExchangeErrorCode as Code, Found, Problems};
use super::pairs::{Tokens, entries, spread, tuples, written_ids};
use super::places::ArrayPlace;
use super::prompts::{Asked, Prompt, check_count, check_text_only, prompt_at};
use super::read::{Parts, Reading, finish_reason};
use super::shape::OpenAiRoute as Route;
use super::versions::{Versions, versions_in};
use super::{EngineKind, ExchangeError, ExchangeRollout};

/// Reads every choice.
pub(super) fn read(reading: &Reading<'_>, route: Route) -> Result<Vec<ExchangeRollout>, Vec<ExchangeError>> {
    let mut problems = Problems::default();
    let body = Body::new(reading, route, &mut problems)?;
    let sampled = problems.keep(reading.sampled(body.parameters.as_ref()));
    problems.keep(check_text_only(&reading.request));
    if let Some(placeholders) = reading.response.field("mm_placeholders") {
        let detail = "only tokens can be scored, and the prompt holds images or audio";
        problems.keep::<()>(Err(placeholders.error(Code::Unsupported, detail)));
    }
    problems.check()?;
    let Some(sampled) = sampled else { return Ok(Vec::new()) };

    let mut rollouts = Vec::with_capacity(body.choices.len());
    for (index, choice) in &body.choices {
        let prompt_index = index / body.per_prompt;
        let prompt = body.prompt(choice, prompt_index);
        let tokens = body.tokens(choice, prompt);
        let reason = problems.keep(finish_reason(choice.field("finish_reason")));
        let versions = problems.keep(body.versions(choice));
        let cached_tokens = problems.keep(body.cached_tokens());
        let read = match tokens {
            Ok(read) => Some(read),
            Err(errors) => {
                for error in errors {
                    problems.keep::<()>(Err(error));
                }
                None
            }
        };
        // What is wrong with one choice is mostly wrong with all of them.
        problems.check()?;
        if let (Some((prompt, tokens)), Some(finish_reason), Some(versions), Some(cached_tokens)) =
            (read, reason, versions, cached_tokens)
        {
            rollouts.push(reading.rollout(Parts {
                choice: *index,
                prompt_index,
                prompt,
                tokens,
                finish_reason,
                versions,
                cached_tokens,
                sampled: &sampled,
            }));
        }
    }
    if reading.engine == EngineKind::LlamaCpp {
        check_none_left_out(&reading.response, &rollouts).map_err(|error| vec![error])?;
    }
    Ok(rollouts)
}

/// A response with choices and what was asked for.
struct Body<'a> {
    engine: EngineKind,
    route: Route,
    request: At<'a>,
    response: At<'a>,
    /// The object with sampling parameters.
    parameters: Option<At<'a>>,
    /// By their index, ascending.
    choices: Vec<(usize, At<'a>)>,
    asked: Asked<'a>,
    /// Choices of each prompt.
    per_prompt: usize,
}

impl<'a> Body<'a> {
    fn new(reading: &Reading<'a>, route: Route, problems: &mut Problems) -> Result<Self, Vec<ExchangeError>> {
        let (request, response) = (reading.request.clone(), reading.response.clone());
        let parameters = match route {
            Route::Generate => request.field("sampling_params"),
            Route::Completions | Route::Chat => (!request.value.is_null()).then(|| request.clone()),
        };
        let asked = match route {
            Route::Completions => Asked::at(request.field("prompt")),
            Route::Generate => Asked::at(request.field("token_ids")),
            // SGLang and TensorRT-LLM take ids beside messages.
            Route::Chat => {
                let ids = request.field("input_ids").or_else(|| request.field("prompt_token_ids"));
                Asked::at(ids).map(|asked| match asked {
                    Asked::Unknown if !request.value.is_null() => Asked::Texts(1),
                    asked => asked,
                })
            }
        };
        let asked = problems.keep(asked).unwrap_or(Asked::Unknown);
        let choices = problems.keep(choices_of(&response)).unwrap_or_default();
        let n = problems.keep(count_n(parameters.as_ref())).unwrap_or(1);
        problems.check()?;
        let per_prompt = match asked.count() {
            Some(_) => n,
            // Without the request all choices are taken to be of one prompt.
            None => choices.last().map_or(1, |(index, _)| index.saturating_add(1)),
        };
        if let (Some(count), Some((index, last))) = (asked.count(), choices.last())
            && *index / per_prompt >= count
        {
            let detail = format!("choice {index} is one too many for {count} prompts with n {n}");
            return Err(vec![last.field_or_here("index").error(Code::Contradictory, detail)]);
        }
        Ok(Self { engine: reading.engine, route, request, response, parameters, choices, asked, per_prompt })
    }

    /// The ids of the choice's prompt: those that the response gives back, else the request's.
    fn prompt(&self, choice: &At<'_>, index: usize) -> Found<Option<Prompt>> {
        let meta = choice.field("meta_info");
        let own = choice.field("prompt_token_ids").or_else(|| meta?.field("prompt_token_ids"));
        if let Some(own) = own {
            return prompt_at(&own).map(Some);
        }
        if let Some(shared) = self.response.field("prompt_token_ids") {
            let lists = shared.element(0).is_some_and(|first| first.value.is_array());
            let of_prompt = if lists { shared.element(index) } else { Some(shared.clone()) };
            match of_prompt {
                Some(_) if !lists && self.asked.count().is_some_and(|count| count > 1) => {
                    let detail = "holds the ids of one prompt, but several were sent";
                    return Err(shared.error(Code::Contradictory, detail));
                }
                Some(ids) => return prompt_at(&ids).map(Some),
                None => {}
            }
        }
        let Some(ids) = self.asked.ids(index) else { return Ok(None) };
        let prompt = prompt_at(ids)?;
        if self.asked.count() == Some(1) {
            check_count(&prompt, self.response.path(&["usage", "prompt_tokens"]))?;
        }
        Ok(Some(prompt))
    }

    /// The prompt and the completion of a choice; with `echo` the logprobs are of both.
    fn tokens(&self, choice: &At<'_>, prompt: Found<Option<Prompt>>) -> Result<(Prompt, Tokens), Vec<ExchangeError>> {
        let mut problems = Problems::default();
        let given = problems.keep(choice.field("token_ids").map(|at| at.ids().map(|ids| (at, ids))).transpose());
        let values = problems.keep(self.values(choice));
        let prompt = problems.keep(prompt);
        // Both are reported where both are missing.
        if let (Some(None), true) = (&given, values.as_ref().is_none_or(|values| values.ids.is_none())) {
            problems.keep::<()>(Err(choice.missing("token_ids", Code::MissingTokenIds, self.ids_advice())));
        }
        if let Some(None) = &prompt
            && !self.echoes_ids(values.as_ref())
        {
            problems.keep::<()>(Err(self.missing_prompt(choice)));
        }
        problems.check()?;
        let (Some(given), Some(values), Some(prompt)) = (given, values, prompt) else { return Err(Vec::new()) };
        let (prompt, echoed) =
            self.echoed(prompt, given.as_ref().map(|(_, ids)| ids.len()), &values).map_err(|error| vec![error])?;
        let tokens = values.after(echoed, given, self.engine).map_err(|error| vec![error])?;
        Ok((prompt, tokens))
    }

    /// Whether the prompt's ids can be taken from the echo.
    fn echoes_ids(&self, values: Option<&Values<'_>>) -> bool {
        self.is_echo() && values.is_some_and(|values| values.ids.is_some())
    }

    fn is_echo(&self) -> bool {
        self.request.field("echo").is_some_and(|echo| echo.value == true)
    }

    /// The prompt, and how many of the values are its.
    fn echoed(&self, prompt: Option<Prompt>, given: Option<usize>, values: &Values<'_>) -> Found<(Prompt, usize)> {
        let count = values.logprobs.len();
        let Some(prompt) = prompt else {
            let counted = self.response.path(&["usage", "prompt_tokens"]);
            let Some((counted, 1)) = counted.zip(self.asked.count()) else {
                let detail =
                    "the prompt's ids are missing, and the length of the echo is not told: set return_token_ids true";
                return Err(values.at.error(Code::MissingTokenIds, detail));
            };
            let echoed = counted.count()?;
            let ids = values.ids.as_ref().and_then(|ids| ids.get(..echoed));
            let Some(ids) = ids else {
                return Err(
                    counted.error(Code::Contradictory, format!("is more than the {count} tokens with logprobs"))
                );
            };
            return Ok((Prompt { ids: ids.to_vec(), place: values.ids_place(0) }, echoed));
        };
        let length = prompt.ids.len();
        let echoed = match given {
            Some(given) if count == given => 0,
            Some(given) if count == given + length => length,
            // Refused below, as lengths that do not match.
            Some(_) => 0,
            None if self.is_echo() && self.engine != EngineKind::TensorRtLlm => length,
            None => 0,
        };
        if echoed > count {
            let detail = format!("has {count} values, but the echoed prompt alone has {length} tokens");
            return Err(values.at.error(Code::Contradictory, detail));
        }
        if echoed > 0 && values.ids.as_ref().is_some_and(|ids| ids[..echoed] != prompt.ids) {
            return Err(values.at.error(Code::Contradictory, "the echo is not of the prompt's ids"));
        }
        Ok((prompt, echoed))
    }

    /// The logprobs of a choice, in whichever form.
    fn values<'c>(&self, choice: &At<'c>) -> Found<Values<'c>> {
        if let Some(at) = choice.path(&["meta_info", "output_token_logprobs"]) {
            let Tokens { ids, logprobs, .. } = tuples(&at)?;
            return Ok(Values { logprobs, ids: Some(ids), within_ids: "/1", within: "/0", ids_at: at.clone(), at });
        }
        let logprobs =
            choice.field("logprobs").filter(|at| at.value.as_object().is_some_and(|fields| !fields.is_empty()));
        let Some(object) = logprobs else {
            return Err(choice.missing("logprobs", Code::MissingLogprobs, self.logprobs_advice()));
        };
        if let Some(at) = object.field("content") {
            let read = entries(&at)?;
            let (ids, within_ids) = read.ids.map_or((None, ""), |(ids, within)| (Some(ids), within));
            return Ok(Values { logprobs: read.logprobs, ids, within_ids, within: "/logprob", ids_at: at.clone(), at });
        }
        let Some(at) = object.field("token_logprobs") else {
            return Err(object.missing("content", Code::MissingLogprobs, self.logprobs_advice()));
        };
        let logprobs = at.logprobs()?;
        let tokens = object.field("tokens");
        let ids = tokens.as_ref().map(written_ids).transpose()?.flatten();
        if let (Some(tokens), Some(ids)) = (&tokens, &ids)
            && ids.len() != logprobs.len()
        {
            let detail = format!("has {} tokens for {} logprobs", ids.len(), logprobs.len());
            return Err(tokens.error(Code::Contradictory, detail));
        }
        let ids_at = tokens.unwrap_or_else(|| at.clone());
        Ok(Values { logprobs, ids, within_ids: "", within: "", ids_at, at })
    }

    /// The versions of the weights: vLLM says them of each choice, SGLang of the first, beside the choices.
    fn versions(&self, choice: &At<'_>) -> Found<Versions> {
        for place in [Some(choice.clone()), choice.field("meta_info")].into_iter().flatten() {
            let own = versions_in(&place)?;
            if own.pointer.is_some() {
                return Ok(own);
            }
        }
        let Some(metadata) = self.response.field("metadata") else { return versions_in(&self.response) };
        let shared = versions_in(&metadata)?;
        if !shared.spans.is_empty() && self.choices.len() > 1 {
            let detail = "the weights changed, and of several choices only the first one's versions are told: send one at a time, \
                          or state policy_version";
            return Err(metadata.missing("weight_versions", Code::Unsupported, detail));
        }
        Ok(shared)
    }

    /// Told for the whole request, so of one prompt only.
    fn cached_tokens(&self) -> Found<Option<usize>> {
        if self.asked.count().is_some_and(|count| count != 1) {
            return Ok(None);
        }
        let usage = self.response.path(&["usage", "prompt_tokens_details", "cached_tokens"]);
        usage.or_else(|| self.response.path(&["timings", "cache_n"])).map(|at| at.count()).transpose()
    }

    fn missing_prompt(&self, choice: &At<'_>) -> ExchangeError {
        let advice = match (self.engine, self.route) {
            (EngineKind::LlamaCpp, Route::Chat) => "llama.cpp does not return them: send ids as prompt to /completion",
            (EngineKind::TensorRtLlm, Route::Chat) => "send ids as prompt to /v1/completions",
            (EngineKind::LlamaCpp | EngineKind::TensorRtLlm, _) => "send ids as prompt",
            (EngineKind::Sglang, Route::Chat) => {
                "set return_prompt_token_ids (or return_token_ids) true, or send input_ids"
            }
            (_, Route::Chat) => "set return_token_ids true",
            (_, Route::Generate) => "set return_token_ids true, or include the request with its token_ids",
            (_, Route::Completions) => "set return_token_ids true, or send ids as prompt",
        };
        let detail = format!("the prompt's ids are missing: {advice}");
        choice.missing("prompt_token_ids", Code::MissingTokenIds, detail)
    }

    fn ids_advice(&self) -> String {
        let advice = match (self.engine, self.route) {
            (EngineKind::LlamaCpp, Route::Chat) => "set logprobs true (the entries bear ids)",
            (EngineKind::LlamaCpp, _) => "set logprobs 1 (the entries bear ids)",
            (EngineKind::TensorRtLlm, Route::Chat) => "use /v1/completions with detokenize false",
            (EngineKind::TensorRtLlm, _) => "set detokenize false",
            (EngineKind::Vllm, Route::Completions | Route::Chat) => {
                "set return_token_ids (or return_tokens_as_token_ids) true"
            }
            _ => "set return_token_ids true",
        };
        format!("the completion's ids are missing: {advice}; text is never tokenised again")
    }

    fn logprobs_advice(&self) -> String {
        let advice = match (self.engine, self.route) {
            (_, Route::Chat) => "logprobs true",
            (_, Route::Generate) => "sampling_params.logprobs 0",
            (EngineKind::Vllm, Route::Completions) => "logprobs 0",
            (_, Route::Completions) => "logprobs 1",
        };
        format!("the logprobs are missing: set {advice}")
    }
}

/// Choices by their index.
fn choices_of<'a>(response: &At<'a>) -> Found<Vec<(usize, At<'a>)>> {
    let list = response.required("choices")?;
    let mut choices = Vec::new();
    for (position, choice) in list.elements()?.enumerate() {
        choice.object()?;
        let index = choice.field("index").map_or(Ok(position), |at| at.count())?;
        choices.push((index, choice));
    }
    choices.sort_by_key(|(index, _)| *index);
    match choices.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(pair[1].1.field_or_here("index").error(Code::Contradictory, "is that of another choice")),
        None => Ok(choices),
    }
}

fn count_n(parameters: Option<&At<'_>>) -> Found<usize> {
    let Some(at) = parameters.and_then(|at| at.field("n")) else { return Ok(1) };
    match at.count()? {
        0 => Err(at.error(Code::InvalidValue, "must be at least 1")),
        n => Ok(n),
    }
}

/// llama.cpp leaves out tokens of a stop word and such that end within a character. Its OpenAI routes do not return them, but
/// their number.
fn check_none_left_out(response: &At<'_>, rollouts: &[ExchangeRollout]) -> Found<()> {
    let held: usize = rollouts.iter().map(|own| own.rollout.completion_token_ids.len()).sum();
    let counted = response
        .path(&["usage", "completion_tokens"])
        .or_else(|| response.path(&["timings", "predicted_n"]).filter(|_| rollouts.len() == 1));
    let Some(counted) = counted else {
        let detail = "whether all sampled tokens have ids cannot be told: set stream_options.include_usage true";
        return Err(response.missing("usage", Code::MissingTokenIds, detail));
    };
    if counted.count()? == held {
        return Ok(());
    }
    let detail = format!(
        "{held} of {} sampled tokens have ids (llama.cpp leaves out those of a stop word and within a character): use \
         /completion with return_tokens true",
        counted.count()?
    );
    Err(counted.error(Code::MissingTokenIds, detail))
}

/// The logprobs of a choice, the prompt's before them if it was echoed.
struct Values<'c> {
    logprobs: Vec<Option<f64>>,
    /// The ids that stand beside them, as many, if any do.
    ids: Option<Vec<plumbline_core::TokenId>>,
    at: At<'c>,
    /// From an element of the array to its logprob.
    within: &'static str,
    ids_at: At<'c>,
    /// From an element of the array to its id.
    within_ids: &'static str,
}

impl Values<'_> {
    fn ids_place(&self, offset: usize) -> ArrayPlace {
        ArrayPlace::new(&self.ids_at, offset, self.within_ids)
    }

    /// What follows the first `echoed` values, with the ids that are given apart or stand beside.
    fn after(
        mut self,
        echoed: usize,
        given: Option<(At<'_>, Vec<plumbline_core::TokenId>)>,
        engine: EngineKind,
    ) -> Found<Tokens> {
        let ids_place = self.ids_place(echoed);
        let logprobs_place = ArrayPlace::new(&self.at, echoed, self.within);
        let logprobs = self.logprobs.split_off(echoed);
        let beside = self.ids.as_mut().map(|ids| ids.split_off(echoed));
        match (beside, given) {
            (Some(ids), Some((at, _))) => {
                let pairs = Tokens { ids, logprobs, ids_place, logprobs_place };
                spread(pairs, &at, engine == EngineKind::LlamaCpp)
            }
            (Some(ids), None) => Ok(Tokens { ids, logprobs, ids_place, logprobs_place }),
            (None, Some((at, ids))) if ids.len() == logprobs.len() => {
                Ok(Tokens { ids, logprobs, ids_place: ArrayPlace::new(&at, 0, ""), logprobs_place })
            }
            (None, Some((_, ids))) => {
                let detail = format!("has {} values for {} token ids", logprobs.len() + echoed, ids.len());
                Err(self.at.error(Code::Contradictory, detail))
            }
            (None, None) => Err(self.at.error(Code::MissingTokenIds, "the completion's ids are missing")),
        }
    }
}
