//! From an exchange to its rollouts.

use plumbline_core::{LogprobsMode, Rollout, Sampling};
use serde_json::Value;

use super::at::At;
use super::error::{ExchangeErrorCode as Code, Found};
use super::pairs::Tokens;
use super::prompts::Prompt;
use super::sampling::{check_reproducible, sampling_of};
use super::shape::{Shape, engine_of, shape_of};
use super::versions::Versions;
use super::{
    EngineKind, Exchange, ExchangeError, ExchangeRollout, Places, ReadExchange, events, llama_cpp, openai, sglang, tgi,
};

/// Reads the rollouts in an exchange: prompt ids, completion ids and logprobs exactly as the engine gave them, sampling
/// parameters and the meaning of the logprobs from the request and the engine's defaults.
///
/// Values that stand for "none" (`null`, -9999, the lowest float) are kept as they are; the core counts them as skipped.
///
/// # Errors
/// Everything in the way: ids or logprobs that the response does not hold (with the request flag that asks for them),
/// bodies of no known shape, contradictions, and what cannot be reproduced. At least one.
pub fn read_exchange(exchange: &Exchange) -> Result<ReadExchange, Vec<ExchangeError>> {
    let assembled;
    let response = match &exchange.response {
        Value::String(text) => {
            assembled = events::assemble(text).map_err(|error| vec![error])?;
            At::assembled("/response", &assembled)
        }
        value => At::new("/response", value),
    };
    let request = At::new("/request", &exchange.request);
    if !request.value.is_null() {
        request.object().map_err(|error| vec![error])?;
    }
    let shape = shape_of(exchange.path.as_deref(), &request, &response).map_err(|error| vec![error])?;
    let engine = engine_of(shape, exchange.engine, &response).map_err(|error| vec![error])?;
    let mode = exchange.logprobs_mode.unwrap_or_else(|| engine.default_logprobs_mode());
    let reading = Reading { exchange, engine, mode, request, response };
    let rollouts = match shape {
        Shape::OpenAi(route) => openai::read(&reading, route),
        Shape::Sglang => sglang::read(&reading),
        Shape::LlamaCpp => llama_cpp::read(&reading),
        Shape::Tgi => tgi::read(&reading),
    }?;
    if rollouts.is_empty() {
        return Err(vec![reading.response.error(Code::InvalidValue, "holds no completion")]);
    }
    Ok(ReadExchange { engine, rollouts })
}

/// An exchange whose engine is known.
pub(super) struct Reading<'a> {
    exchange: &'a Exchange,
    pub(super) engine: EngineKind,
    mode: LogprobsMode,
    pub(super) request: At<'a>,
    pub(super) response: At<'a>,
}

/// How completions were sampled, and where that stands.
#[derive(Clone)]
pub(super) struct Sampled {
    sampling: Sampling,
    pointer: String,
}

/// What a completion is made of.
pub(super) struct Parts<'a> {
    /// Index of the completion in the exchange.
    pub(super) choice: usize,
    /// Index of its prompt.
    pub(super) prompt_index: usize,
    pub(super) prompt: Prompt,
    pub(super) tokens: Tokens,
    pub(super) finish_reason: Option<String>,
    pub(super) versions: Versions,
    pub(super) cached_tokens: Option<usize>,
    pub(super) sampled: &'a Sampled,
}

impl<'a> Reading<'a> {
    /// The sampling that the caller states, or else that of `parameters`, checked against the mode.
    pub(super) fn sampled(&self, parameters: Option<&At<'a>>) -> Found<Sampled> {
        let (sampling, pointer) = match self.exchange.sampling {
            Some(stated) => {
                let order = stated.order.or_else(|| self.engine.processing_order());
                (Sampling { order, ..stated }, "/sampling".to_owned())
            }
            None if parameters.is_none() && self.request.value.is_null() && self.depends_on_sampling() => {
                let detail = format!(
                    "is missing, and {} logprobs of {} depend on the sampling parameters in it: include it, or state sampling",
                    self.mode.as_str(),
                    self.engine
                );
                return Err(self.request.error(Code::MissingField, detail));
            }
            None => {
                let pointer = parameters.map_or_else(|| self.request.pointer(), At::pointer);
                (sampling_of(self.engine, parameters)?, pointer)
            }
        };
        let asked: Vec<&At<'a>> = [Some(&self.request), parameters].into_iter().flatten().collect();
        let stated_at = if self.exchange.logprobs_mode.is_some() { "/logprobs_mode" } else { &pointer };
        check_reproducible(self.engine, self.mode, &sampling, &asked, stated_at)?;
        Ok(Sampled { sampling, pointer })
    }

    /// Whether the numbers depend on how tokens were drawn. SGLang's raw ones do: they are after penalties.
    fn depends_on_sampling(&self) -> bool {
        self.mode != LogprobsMode::Raw || self.engine == EngineKind::Sglang
    }

    /// Puts a rollout together.
    pub(super) fn rollout(&self, parts: Parts<'_>) -> ExchangeRollout {
        let Parts { choice, prompt_index, prompt, tokens, finish_reason, versions, cached_tokens, sampled } = parts;
        let stated = self.exchange.policy_version.clone();
        let versions_at = match (&stated, versions.pointer) {
            (None, Some(pointer)) => pointer,
            _ => "/policy_version".to_owned(),
        };
        let (policy_version, weight_versions) =
            if stated.is_some() { (stated, Vec::new()) } else { (versions.whole, versions.spans) };
        ExchangeRollout {
            rollout: Rollout {
                id: format!("{}-{choice}", self.exchange.id),
                prompt_token_ids: prompt.ids,
                completion_token_ids: tokens.ids,
                logprobs: tokens.logprobs,
                loss_mask: None,
                sampling: sampled.sampling,
                logprobs_mode: self.mode,
                finish_reason,
                policy_version,
                weight_versions,
            },
            prompt: prompt_index,
            cached_tokens,
            places: Places {
                prompt: prompt.place,
                completion: tokens.ids_place,
                logprobs: tokens.logprobs_place,
                sampling: sampled.pointer.clone(),
                mode: match self.exchange.logprobs_mode {
                    Some(_) => "/logprobs_mode".to_owned(),
                    None => sampled.pointer.clone(),
                },
                versions: versions_at,
            },
        }
    }
}

/// The engine's word for why it stopped: a string, or SGLang's object with a `type`.
pub(super) fn finish_reason(at: Option<At<'_>>) -> Found<Option<String>> {
    let Some(at) = at else { return Ok(None) };
    match at.field("type") {
        Some(kind) => kind.string().map(|kind| Some(kind.to_owned())),
        None => at.string().map(|reason| Some(reason.to_owned())),
    }
}
