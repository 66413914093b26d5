//! Which engine and route a response is from.

use super::at::At;
use super::engine::EngineKind;
use super::error::{ExchangeErrorCode as Code, Found};

/// The shape of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// `choices`, as OpenAI has it.
    OpenAi(OpenAiRoute),
    /// SGLang's own `/generate`.
    Sglang,
    /// llama.cpp's own `/completion`.
    LlamaCpp,
    /// TGI's own `/generate`.
    Tgi,
}

/// Routes that answer with `choices`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpenAiRoute {
    /// `/v1/completions`
    Completions,
    /// `/v1/chat/completions`
    Chat,
    /// vLLM's `/inference/v1/generate`
    Generate,
}

/// Keys of an error message in place of a completion. FastAPI says `detail`.
const ERROR_KEYS: [&str; 2] = ["error", "detail"];

const FAILED: &str = "the response is an error of the engine, not a completion";

/// The shape of a response.
///
/// # Errors
/// An engine's error message, and a body that is no completion.
pub(super) fn shape_of(path: Option<&str>, request: &At<'_>, response: &At<'_>) -> Found<Shape> {
    let first = response.element(0);
    let body = if response.value.is_array() { first.as_ref().unwrap_or(response) } else { response };
    let has = |key| body.field(key).is_some();
    if has("choices") && !response.value.is_array() {
        return Ok(Shape::OpenAi(route_of(path, request, response)));
    }
    if has("meta_info") {
        return Ok(Shape::Sglang);
    }
    if has("generated_text") {
        return Ok(Shape::Tgi);
    }
    if has("completion_probabilities") || (has("content") && has("stop")) {
        return Ok(Shape::LlamaCpp);
    }
    let is_error = body.field("object").is_some_and(|at| at.value == "error");
    let said = ERROR_KEYS.into_iter().chain(["message"]).find_map(|key| body.field(key).map(|at| (key, at)));
    match said {
        Some((key, at)) if key != "message" || is_error => return Err(at.error(Code::EngineFailed, FAILED)),
        _ if is_error => return Err(body.error(Code::EngineFailed, FAILED)),
        _ => {}
    }
    let detail = "has the shape of no engine's completion: choices (vLLM, SGLang, llama.cpp, TensorRT-LLM), meta_info (SGLang), \
                  completion_probabilities (llama.cpp) or generated_text (TGI) is missing";
    Err(response.error(Code::UnknownEngine, detail))
}

fn route_of(path: Option<&str>, request: &At<'_>, response: &At<'_>) -> OpenAiRoute {
    let path = path.unwrap_or_default();
    let first = response.path(&["choices"]).and_then(|choices| choices.element(0));
    let in_first = |key| first.as_ref().is_some_and(|choice| choice.value.get(key).is_some());
    let object = response.field("object").and_then(|at| at.value.as_str()).unwrap_or_default();
    let path_says = |end: &str| path.trim_end_matches('/').ends_with(end);
    if path_says("/inference/v1/generate")
        || response.field("output_mode").is_some()
        || (request.field("token_ids").is_some() && request.field("prompt").is_none())
    {
        OpenAiRoute::Generate
    } else if path_says("/chat/completions") || object.starts_with("chat.") || in_first("message") {
        OpenAiRoute::Chat
    } else {
        OpenAiRoute::Completions
    }
}

/// The engine of a response: the one that was named, if the shape allows it, else the one that the shape tells.
///
/// # Errors
/// A shape of another engine than the one named, or, without a name, of several.
pub(super) fn engine_of(shape: Shape, named: Option<EngineKind>, response: &At<'_>) -> Found<EngineKind> {
    let own = |engine: EngineKind, what: &str| match named {
        Some(named) if named != engine => {
            Err(response.error(Code::EngineMismatch, format!("is {what}, but the engine named is {named}")))
        }
        _ => Ok(engine),
    };
    match shape {
        Shape::Sglang => own(EngineKind::Sglang, "a body of SGLang's /generate"),
        Shape::LlamaCpp => own(EngineKind::LlamaCpp, "a body of llama.cpp's /completion"),
        Shape::Tgi => own(EngineKind::Tgi, "a body of TGI's /generate"),
        Shape::OpenAi(OpenAiRoute::Generate) => own(EngineKind::Vllm, "a body of vLLM's /inference/v1/generate"),
        Shape::OpenAi(_) => {
            let marked = marks(response);
            match (named, marked.as_slice()) {
                (Some(EngineKind::Tgi), _) => {
                    let detail = "TGI's OpenAI routes return no token ids: use /generate with parameters.details and \
                                  parameters.decoder_input_details true";
                    Err(response.error(Code::MissingTokenIds, detail))
                }
                (Some(named), []) => Ok(named),
                (Some(named), marked) if marked.contains(&named) => Ok(named),
                (Some(named), [engine, ..]) => {
                    let detail = format!("has the marks of {engine}, but the engine named is {named}");
                    Err(response.error(Code::EngineMismatch, detail))
                }
                (None, [engine]) => Ok(*engine),
                (None, _) => {
                    let detail = "several engines answer in this shape, and their logprobs mean different things: name the \
                                  engine (vllm, sglang, llama.cpp or tensorrt-llm)";
                    Err(response.error(Code::UnknownEngine, detail))
                }
            }
        }
    }
}

/// Engines whose marks an OpenAI body bears: fields that only they write.
fn marks(response: &At<'_>) -> Vec<EngineKind> {
    let fingerprint = response.field("system_fingerprint").and_then(|at| at.value.as_str()).unwrap_or_default();
    let choice = response.path(&["choices"]).and_then(|choices| choices.element(0));
    let at_top = |keys: &[&str]| keys.iter().any(|key| response.value.get(key).is_some());
    let in_choice =
        |keys: &[&str]| choice.as_ref().is_some_and(|at| keys.iter().any(|key| at.value.get(key).is_some()));
    let entry = choice.as_ref().and_then(|at| at.path(&["logprobs", "content"])?.element(0));
    let is_build =
        |text: &str| text.strip_prefix('b').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let of_vllm = fingerprint.starts_with("vllm")
        || at_top(&["kv_transfer_params", "prompt_logprobs"])
        || in_choice(&["prompt_logprobs"]);
    let of_sglang = response.path(&["metadata", "weight_version"]).is_some()
        || at_top(&["sglext"])
        || in_choice(&["matched_stop", "meta_info"]);
    let of_llama_cpp =
        is_build(fingerprint) || at_top(&["timings"]) || entry.is_some_and(|at| at.value.get("id").is_some());
    let of_tensorrt_llm = in_choice(&["disaggregated_params", "avg_decoded_tokens_per_iter", "context_logits"]);
    [
        (EngineKind::Vllm, of_vllm),
        (EngineKind::Sglang, of_sglang),
        (EngineKind::LlamaCpp, of_llama_cpp),
        (EngineKind::TensorRtLlm, of_tensorrt_llm),
    ]
    .into_iter()
    .filter_map(|(engine, marked)| marked.then_some(engine))
    .collect()
}
