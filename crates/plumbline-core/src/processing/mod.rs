//! From a row of logits to the logprob that an engine reports: penalties, temperature, top-k, top-p and min-p.
//!
//! What engines do was read in their sources (vLLM's V1 sampler, SGLang's sampler and penalty library, TGI's token chooser)
//! and, for vLLM, checked against recordings; `docs/logprobs.md` says it in words. Everything here is pure and in f64.

mod counts;
mod kept;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use self::counts::TokenCounts;
use self::kept::{Bound, Row, TopP};
use crate::{LogprobsMode, Sampling, TokenId};

/// In which engine's order, and with which engine's meaning, logits are processed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessingOrder {
    /// Penalties, temperature, min-p, top-k, then top-p of what is left. The repetition penalty sees the prompt too.
    #[default]
    Vllm,
    /// Penalties, temperature, then top-k, top-p and min-p each of the whole distribution. The penalties see sampled tokens
    /// only and are part of every logprob that is reported, raw ones too.
    Sglang,
    /// Repetition penalty (it sees the prompt too), temperature, top-k, then top-p of what is left. Nothing else.
    Tgi,
}

impl ProcessingOrder {
    /// The order of an engine; `None` for one that is not known here. Then vLLM's is used, the default, unless
    /// [`ProcessingOrder::is_none_of_these`].
    #[must_use]
    pub fn of_engine(engine: &str) -> Option<Self> {
        match engine.to_ascii_lowercase().as_str() {
            "vllm" => Some(Self::Vllm),
            "sglang" => Some(Self::Sglang),
            "tgi" => Some(Self::Tgi),
            _ => None,
        }
    }

    /// Whether an engine is known to process logits in another order than all of these: llama.cpp truncates before
    /// temperature and penalises a window, TensorRT-LLM's kernels differ by version.
    #[must_use]
    pub fn is_none_of_these(engine: &str) -> bool {
        matches!(engine.to_ascii_lowercase().as_str(), "llama.cpp" | "llamacpp" | "tensorrt-llm" | "trtllm")
    }

    /// The name used on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vllm => "vllm",
            Self::Sglang => "sglang",
            Self::Tgi => "tgi",
        }
    }
}

/// What an engine does to a row of logits before it reports the logprob of the token that it drew.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Processing {
    /// Softmax temperature, > 0.
    pub temperature: f64,
    /// Number of kept tokens (ties with the last one are kept too); 0 = off.
    pub top_k: usize,
    /// Nucleus mass in (0, 1]; 1 = off.
    pub top_p: f64,
    /// Kept tokens have at least this share of the top token's probability; 0 = off.
    pub min_p: f64,
    /// Divides positive and multiplies other logits of tokens already seen; 1 = off.
    pub repetition_penalty: f64,
    /// Subtracted once from the logits of tokens already sampled; 0 = off.
    pub presence_penalty: f64,
    /// Subtracted per occurrence from the logits of tokens already sampled; 0 = off.
    pub frequency_penalty: f64,
    /// Whose order and meaning.
    pub order: ProcessingOrder,
}

impl Default for Processing {
    /// Nothing: the model's own distribution.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            order: ProcessingOrder::Vllm,
        }
    }
}

/// A logprobs mode that the reference cannot reproduce with these sampling parameters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} logprobs with {} in the order of {} cannot be reproduced",
    mode.as_str(), parameters.join(", "), order.as_str()
)]
pub struct IrreproducibleMode {
    /// The mode.
    pub mode: LogprobsMode,
    /// The sampling parameters in the way.
    pub parameters: Vec<&'static str>,
    /// The order in which they have no known meaning.
    pub order: ProcessingOrder,
}

/// The lowest temperature that vLLM samples at; a lower one above 0 is raised to it.
const VLLM_LOWEST_TEMPERATURE: f64 = 0.01;

impl Processing {
    /// Temperature and nothing else.
    #[must_use]
    pub fn at_temperature(temperature: f64) -> Self {
        Self { temperature, ..Self::default() }
    }

    /// What gives the number that an engine reports in `mode`. Greedy sampling has temperature 1 and truncates nothing in
    /// any mode. An order that nobody named is vLLM's.
    ///
    /// # Errors
    /// [`IrreproducibleMode`] if a parameter is active that has no known meaning in the order (TGI's frequency penalty
    /// differs by version, and it has no presence penalty and no min-p).
    pub fn of(mode: LogprobsMode, sampling: &Sampling) -> Result<Self, IrreproducibleMode> {
        let order = sampling.order.unwrap_or_default();
        let all = Self::all_of(sampling, order);
        let penalties_only = Self { top_k: 0, top_p: 1.0, min_p: 0.0, ..all };
        match (mode, order) {
            (LogprobsMode::Processed, _) => {
                let parameters = sampling.active_transforms();
                let unknown = |name: &&'static str| {
                    order == ProcessingOrder::Tgi && ["frequency_penalty", "presence_penalty", "min_p"].contains(name)
                };
                let parameters: Vec<_> = parameters.into_iter().filter(unknown).collect();
                if parameters.is_empty() { Ok(all) } else { Err(IrreproducibleMode { mode, parameters, order }) }
            }
            (LogprobsMode::Temperature, ProcessingOrder::Sglang) => Ok(penalties_only),
            (LogprobsMode::Temperature, _) => {
                let temperature = if sampling.is_greedy() { 1.0 } else { sampling.temperature };
                Ok(Self { order, ..Self::at_temperature(temperature) })
            }
            (LogprobsMode::Raw, ProcessingOrder::Sglang) => Ok(Self { temperature: 1.0, ..penalties_only }),
            (LogprobsMode::Raw, _) => Ok(Self { order, ..Self::default() }),
        }
    }

    fn all_of(sampling: &Sampling, order: ProcessingOrder) -> Self {
        let greedy = sampling.is_greedy();
        let temperature = match order {
            _ if greedy => 1.0,
            ProcessingOrder::Vllm => sampling.temperature.max(VLLM_LOWEST_TEMPERATURE),
            ProcessingOrder::Sglang | ProcessingOrder::Tgi => sampling.temperature,
        };
        Self {
            temperature,
            top_k: if greedy { 0 } else { usize::try_from(sampling.top_k).unwrap_or(0) },
            top_p: if greedy { 1.0 } else { sampling.top_p },
            min_p: if greedy { 0.0 } else { sampling.min_p },
            repetition_penalty: sampling.repetition_penalty,
            presence_penalty: sampling.presence_penalty,
            frequency_penalty: sampling.frequency_penalty,
            order,
        }
    }

    /// Whether logits change with what was sampled before.
    #[must_use]
    pub fn has_penalties(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }

    /// Whether tokens may be left without probability.
    #[must_use]
    pub fn truncates(&self) -> bool {
        self.top_k > 0 || self.top_p < 1.0 || self.min_p > 0.0
    }

    /// Whether a row's logits are needed, each by itself: running sums do for temperature alone.
    #[must_use]
    pub fn needs_whole_row(&self) -> bool {
        self.has_penalties() || self.truncates()
    }

    /// The logprob of `token` in nats after this processing. `logits` is the model's own row, `[vocab_size]`, at
    /// temperature 1 and without NaN; `seen` is what stands before the token, which only penalties look at.
    ///
    /// The time is that of a few passes over the row: it is never sorted as a whole.
    ///
    /// # Panics
    /// If `token` is not below `logits.len()`.
    #[must_use]
    pub fn logprob(
        &self,
        logits: &[f32],
        token: TokenId,
        seen: &TokenCounts,
        scratch: &mut ProcessingScratch,
    ) -> Processed {
        let ProcessingScratch { penalised, values, candidates } = scratch;
        let logits = if self.has_penalties() {
            self.penalise(logits, seen, penalised);
            penalised
        } else {
            logits
        };
        let row = Row::new(logits, self.temperature);
        let mut bound = Bound::NONE;
        if self.min_p > 0.0 {
            bound = bound.max(row.min_p(self.min_p));
        }
        if self.top_k > 0 {
            bound = bound.max(row.top_k(self.top_k, bound, values));
        }
        if self.top_p < 1.0 {
            let top_p = match self.order {
                ProcessingOrder::Sglang => TopP { mass: self.top_p, of: Bound::NONE, keeps_ties: true },
                ProcessingOrder::Vllm | ProcessingOrder::Tgi => TopP { mass: self.top_p, of: bound, keeps_ties: false },
            };
            bound = bound.max(row.top_p(&top_p, candidates));
        }
        match row.logprob(token, bound) {
            Some(logprob) => Processed::Logprob(logprob),
            None => Processed::OutsideSupport,
        }
    }

    /// A copy of the row with penalties, in f32 as in the engines.
    fn penalise(&self, logits: &[f32], seen: &TokenCounts, penalised: &mut Vec<f32>) {
        penalised.clear();
        penalised.extend_from_slice(logits);
        let repeats = |logit: f64| {
            if logit > 0.0 { logit / self.repetition_penalty } else { logit * self.repetition_penalty }
        };
        for (token, in_prompt, sampled) in seen.iter() {
            let Some(place) = penalised.get_mut(token as usize) else { continue };
            let logit = f64::from(*place);
            let subtracted =
                if sampled > 0 { self.presence_penalty + self.frequency_penalty * f64::from(sampled) } else { 0.0 };
            let changed = match self.order {
                // Only what was sampled, and the repetition penalty last.
                ProcessingOrder::Sglang if sampled > 0 => repeats(logit - subtracted),
                ProcessingOrder::Sglang => continue,
                ProcessingOrder::Vllm | ProcessingOrder::Tgi if in_prompt || sampled > 0 => repeats(logit) - subtracted,
                ProcessingOrder::Vllm | ProcessingOrder::Tgi => continue,
            };
            *place = changed as f32;
        }
    }
}

/// What is left of a token after the processing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Processed {
    /// Its logprob in nats.
    Logprob(f64),
    /// It is not among the kept tokens: its probability is 0.
    OutsideSupport,
}

/// Buffers that are used again from row to row; one for each thread.
#[derive(Debug, Default)]
pub struct ProcessingScratch {
    penalised: Vec<f32>,
    values: Vec<f32>,
    candidates: Vec<(f32, TokenId)>,
}
