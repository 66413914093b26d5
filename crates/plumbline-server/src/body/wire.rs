//! The native request body as it stands on the wire. Unknown fields are refused everywhere: a misspelt one would
//! otherwise change what is measured without a word.

use plumbline_core::{LogprobsMode, Sampling, TokenId, optional_name};
use plumbline_engines::Logprob;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use utoipa::ToSchema;

use super::values::{Bounded, Id, Kept, array, optional_array, optional_mode};

/// Rollouts to score and compare: `sequences`, or an engine's bodies as `exchanges`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
pub(crate) struct VerificationRequest {
    /// Name of the training run, 1 to 200 characters; a metric label.
    #[schema(min_length = 1, max_length = 200, example = "grpo-math")]
    pub(crate) run: String,
    /// Name of the inference engine, 1 to 200 characters; a metric label, and the key to what its logprobs mean.
    #[schema(min_length = 1, max_length = 200, example = "vllm")]
    pub(crate) engine: String,
    /// Name of the rollout worker.
    #[schema(min_length = 1, max_length = 200)]
    pub(crate) worker: Option<String>,
    /// Version of the weights that sampled. Missing = the current one. One that may still come is waited for; one that is
    /// not available is 409.
    #[schema(min_length = 1, max_length = 200)]
    pub(crate) policy_version: Option<String>,
    /// How the engine sampled; missing parameters are neutral.
    #[schema(value_type = Option<SamplingParameters>)]
    pub(crate) sampling: Option<Sampling>,
    /// What the engine's logprobs mean. Missing = the engine's default; needed for an unknown engine, unless the
    /// sampling is neutral and all modes coincide. A mode that cannot be reproduced is 422
    /// `irreproducible_logprobs_mode`.
    #[serde(default, deserialize_with = "optional_name")]
    #[schema(value_type = Option<LogprobsModeName>)]
    pub(crate) logprobs_mode: Option<LogprobsMode>,
    /// The rollouts. Either these or `exchanges`.
    #[schema(value_type = Option<Vec<SequenceRequest>>, min_items = 1)]
    pub(crate) sequences: Option<Bounded<SequenceRequest>>,
    /// An engine's own request and response bodies, which the rollouts are read from. Either these or `sequences`.
    #[schema(value_type = Option<Vec<ExchangeRequest>>, min_items = 1)]
    pub(crate) exchanges: Option<Bounded<ExchangeRequest>>,
    /// Optional parts of the answer.
    #[serde(default)]
    pub(crate) include: Vec<Include>,
}

/// One sampled sequence. `sampling`, `policy_version` and `logprobs_mode` replace the request's, each as a whole.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
pub(crate) struct SequenceRequest {
    /// The sender's name for it, unique in the request; missing = its index.
    #[schema(min_length = 1, max_length = 200)]
    pub(crate) id: Option<String>,
    /// Ids that the engine was given, special tokens included; may be empty.
    #[serde(deserialize_with = "array::<_, Id, _>")]
    #[schema(value_type = Vec<u32>, example = json!([1, 5]))]
    pub(crate) prompt_token_ids: Vec<TokenId>,
    /// Ids that the engine sampled.
    #[serde(deserialize_with = "array::<_, Id, _>")]
    #[schema(value_type = Vec<u32>, min_items = 1, example = json!([7, 2]))]
    pub(crate) completion_token_ids: Vec<TokenId>,
    /// The engine's logprob of each completion token in nats. `null`, NaN, infinities (bare as Python writes them, or
    /// as strings), sentinels and positive values are counted as skipped.
    #[serde(deserialize_with = "array::<_, Logprob, _>")]
    #[schema(value_type = Vec<Option<f64>>, example = json!([-0.5, -1.2]))]
    pub(crate) logprobs: Vec<Option<f64>>,
    /// 0 or false = the completion token is shown, but in no sum; 1 or true = compared. Missing = all are compared.
    #[serde(default, deserialize_with = "optional_array::<_, Kept, _>")]
    #[schema(value_type = Option<Vec<u8>>, example = json!([1, 1]))]
    pub(crate) loss_mask: Option<Vec<bool>>,
    /// Tokens of the prompt that the engine took from its prefix cache (vLLM's `prompt_tokens_details.cached_tokens`, SGLang's
    /// `meta_info.cached_tokens`); at most the prompt's. Lets a diagnosis tell stale caches.
    pub(crate) cached_tokens: Option<u32>,
    /// Why the engine stopped.
    pub(crate) finish_reason: Option<String>,
    /// How the engine sampled this sequence.
    #[schema(value_type = Option<SamplingParameters>)]
    pub(crate) sampling: Option<Sampling>,
    /// Version of the weights that sampled this sequence.
    #[schema(min_length = 1, max_length = 200)]
    pub(crate) policy_version: Option<String>,
    /// Which version sampled which completion tokens, where the weights changed within the sequence: consecutive spans that
    /// cover the completion, as vLLM and SGLang report them. Stands above `policy_version`.
    pub(crate) weight_versions: Option<Vec<VersionSpanRequest>>,
    /// What this sequence's logprobs mean.
    #[serde(default, deserialize_with = "optional_name")]
    #[schema(value_type = Option<LogprobsModeName>)]
    pub(crate) logprobs_mode: Option<LogprobsMode>,
}

/// Completion tokens that one version of the weights sampled.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = VersionSpan)]
#[serde(deny_unknown_fields, remote = "Self")]
pub(crate) struct VersionSpanRequest {
    /// The version.
    #[schema(min_length = 1, max_length = 200)]
    pub(crate) version: String,
    /// Index of its first completion token.
    pub(crate) start: usize,
    /// Index after its last completion token.
    pub(crate) end: usize,
}

/// One request to an engine and its answer, both as they went over the wire. Ids, logprobs, sampling parameters and versions of
/// the weights are read from them; what they do not hold exactly is 422 with the request flag that would have brought it
/// (`missing_token_ids`, `missing_logprobs`). `docs/exchanges.md` lists engines, routes and flags.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = Exchange)]
#[serde(deny_unknown_fields, remote = "Self")]
pub(crate) struct ExchangeRequest {
    /// Its name, unique in the request; missing = its index. Its rollouts are named `{id}-{choice}`, choices from 0.
    #[schema(min_length = 1, max_length = 200)]
    pub(crate) id: Option<String>,
    /// The engine's route.
    #[schema(example = "/v1/completions")]
    pub(crate) path: Option<String>,
    /// `vllm`, `sglang`, `llama.cpp`, `tgi` or `tensorrt-llm`. Missing = the request's, if it is one of them, else by the shape
    /// of the response.
    #[schema(example = "vllm")]
    pub(crate) engine: Option<String>,
    /// What the logprobs mean; vLLM's names for it (`raw_logprobs`, `processed_logprobs`) do too. Missing = the request's, else
    /// the engine's default.
    #[serde(default, deserialize_with = "optional_mode")]
    #[schema(value_type = Option<LogprobsModeName>)]
    pub(crate) logprobs_mode: Option<LogprobsMode>,
    /// Version of the weights that sampled. Stands above what the response says, which stands above the request's.
    #[schema(min_length = 1, max_length = 200)]
    pub(crate) policy_version: Option<String>,
    /// How the engine sampled, in place of what the body sent says and the engine's defaults.
    #[schema(value_type = Option<SamplingParameters>)]
    pub(crate) sampling: Option<Sampling>,
    /// The body sent. Missing or null = not known: then the response must hold the prompt's ids, and `sampling` must be
    /// stated unless the logprobs are raw.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub(crate) request: Value,
    /// The body received: JSON, or a string of server-sent events.
    pub(crate) response: Value,
}

plumbline_core::objects_only!(VerificationRequest, SequenceRequest, VersionSpanRequest, ExchangeRequest);

/// Optional parts of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum Include {
    /// Per-token numbers.
    Tokens,
    /// Importance weights per token and sequence.
    ImportanceWeights,
    /// Causes of the divergence of each sequence whose verdict is not `consistent`. The answer takes longer, within limits
    /// of the server's.
    Diagnosis,
}

impl<'de> Deserialize<'de> for Include {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "tokens" => Ok(Self::Tokens),
            "importance_weights" => Ok(Self::ImportanceWeights),
            "diagnosis" => Ok(Self::Diagnosis),
            other => Err(D::Error::unknown_variant(other, &["tokens", "importance_weights", "diagnosis"])),
        }
    }
}

/// Sampling parameters; the defaults are neutral.
#[derive(ToSchema)]
#[schema(as = Sampling)]
#[expect(dead_code, reason = "describes plumbline_core::Sampling in the OpenAPI document")]
pub(crate) struct SamplingParameters {
    /// Softmax temperature, >= 0; 0 = greedy.
    #[schema(required = false, minimum = 0.0, default = 1.0)]
    temperature: f64,
    /// Nucleus mass in (0, 1]; 1 = off.
    #[schema(required = false, exclusive_minimum = 0.0, maximum = 1.0, default = 1.0)]
    top_p: f64,
    /// Number of kept tokens; 0 or -1 = off.
    #[schema(required = false, minimum = -1, default = 0)]
    top_k: i64,
    /// Kept tokens have at least this share of the top token's probability; 0 = off.
    #[schema(required = false, minimum = 0.0, maximum = 1.0, default = 0.0)]
    min_p: f64,
    /// Divides or multiplies the logits of tokens already in context (SGLang: already sampled); 1 = off.
    #[schema(required = false, exclusive_minimum = 0.0, default = 1.0)]
    repetition_penalty: f64,
    /// Subtracted once from the logits of tokens already sampled; 0 = off.
    #[schema(required = false, default = 0.0)]
    presence_penalty: f64,
    /// Subtracted per occurrence from the logits of tokens already sampled; 0 = off.
    #[schema(required = false, default = 0.0)]
    frequency_penalty: f64,
    /// In which engine's order, and with which engine's meaning, processed logprobs come about. Missing = by the name of
    /// the engine, and vLLM's for an unknown one.
    #[schema(required = false, nullable)]
    order: ProcessingOrderName,
}

/// `vllm`: penalties, temperature, min-p, top-k, top-p of what is left. `sglang`: penalties of sampled tokens, temperature,
/// then top-k, top-p and min-p each of the whole distribution. `tgi`: repetition penalty, temperature, top-k, top-p of what
/// is left.
#[derive(ToSchema)]
#[schema(as = ProcessingOrder, rename_all = "lowercase")]
#[expect(dead_code, reason = "describes plumbline_core::ProcessingOrder in the OpenAPI document")]
pub(crate) enum ProcessingOrderName {
    Vllm,
    Sglang,
    Tgi,
}

/// What a logprob means: `raw` (log-softmax of the model's logits), `temperature` (after temperature), `processed`
/// (after penalties, temperature, top-k, top-p and min-p, in the order of the engine: `sampling.order`). SGLang has its
/// penalties in all of them.
#[derive(ToSchema)]
#[schema(as = LogprobsMode, rename_all = "lowercase")]
#[expect(dead_code, reason = "describes plumbline_core::LogprobsMode in the OpenAPI document")]
pub(crate) enum LogprobsModeName {
    Raw,
    Temperature,
    Processed,
}
