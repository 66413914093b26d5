//! How the engine was asked to sample, and what of it cannot be reproduced.

use plumbline_core::{LogprobsMode, ProcessingOrder, Sampling};
use serde_json::Value;

use super::at::At;
use super::engine::EngineKind;
use super::error::{ExchangeErrorCode as Code, Found};

/// Temperatures below this are greedy to SGLang.
const SGLANG_GREEDY_BELOW: f64 = 1e-6;

/// The sampling parameters in `parameters`, an engine's object that holds them; what is not there has the engine's default.
pub(super) fn sampling_of(engine: EngineKind, parameters: Option<&At<'_>>) -> Found<Sampling> {
    let number = |name: &str| parameters.and_then(|at| at.field(name)).map(|at| at.number()).transpose();
    let integer = |name: &str| parameters.and_then(|at| at.field(name)).map(|at| at.integer()).transpose();
    let default = default_of(engine);
    let repetition = if engine == EngineKind::LlamaCpp { "repeat_penalty" } else { "repetition_penalty" };
    let mut sampling = Sampling {
        temperature: number("temperature")?.unwrap_or(default.temperature),
        top_p: number("top_p")?.unwrap_or(default.top_p),
        top_k: integer("top_k")?.unwrap_or(default.top_k),
        min_p: number("min_p")?.unwrap_or(default.min_p),
        repetition_penalty: number(repetition)?.unwrap_or(default.repetition_penalty),
        presence_penalty: number("presence_penalty")?.unwrap_or(default.presence_penalty),
        frequency_penalty: number("frequency_penalty")?.unwrap_or(default.frequency_penalty),
        order: engine.processing_order(),
    };
    let greedy = match engine {
        EngineKind::Sglang => (0.0..SGLANG_GREEDY_BELOW).contains(&sampling.temperature),
        EngineKind::LlamaCpp => sampling.temperature <= 0.0,
        EngineKind::Tgi => {
            let asked = parameters.and_then(|at| at.field("do_sample")).map(|at| at.boolean()).transpose()?;
            let warped = ["temperature", "top_k", "top_p", "typical_p"];
            let is_warped =
                |name: &&str| number(name).ok().flatten().is_some_and(|value| value != 1.0 || *name == "top_k");
            !asked.unwrap_or(false) && !warped.iter().any(is_warped)
        }
        EngineKind::Vllm | EngineKind::TensorRtLlm => false,
    };
    if greedy {
        sampling.temperature = 0.0;
    }
    Ok(sampling)
}

/// What an engine does with a request that says nothing. Models can bring other defaults (`generation_config.json`), which
/// no body tells.
fn default_of(engine: EngineKind) -> Sampling {
    match engine {
        EngineKind::LlamaCpp => {
            Sampling { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, ..Sampling::default() }
        }
        _ => Sampling::default(),
    }
}

/// Whether a value of a field is one that changes the distribution.
type Changes = fn(&Value) -> bool;

/// Names of request fields that change the distribution in a way that is not reproduced, and when they do.
const BEYOND: [(&str, Changes); 32] = [
    ("logit_bias", holds_something),
    ("bad_words", holds_something),
    ("bad", holds_something),
    ("allowed_token_ids", holds_something),
    ("min_tokens", is_positive),
    ("min_new_tokens", is_positive),
    ("guided_json", holds_something),
    ("guided_regex", holds_something),
    ("guided_choice", holds_something),
    ("guided_grammar", holds_something),
    ("guided_decoding", holds_something),
    ("structured_outputs", holds_something),
    ("json_schema", holds_something),
    ("regex", holds_something),
    ("ebnf", holds_something),
    ("structural_tag", holds_something),
    ("grammar", holds_something),
    ("response_format", constrains),
    ("tool_choice", forces_a_tool),
    ("logits_processors", holds_something),
    ("custom_logit_processor", holds_something),
    ("thinking_token_budget", is_positive),
    ("use_beam_search", is_true),
    ("watermark", is_true),
    ("watermarking", is_true),
    ("typical_p", is_not_one),
    ("dry_multiplier", is_positive),
    ("xtc_probability", is_positive),
    ("mirostat", is_positive),
    ("top_n_sigma", is_positive),
    ("dynatemp_range", is_positive),
    ("smoothing_factor", is_positive),
];

fn holds_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::String(text) => !text.is_empty(),
        Value::Bool(true) | Value::Number(_) => true,
    }
}

fn is_true(value: &Value) -> bool {
    value == &Value::Bool(true)
}

fn is_positive(value: &Value) -> bool {
    value.as_f64().is_some_and(|number| number > 0.0)
}

fn is_not_one(value: &Value) -> bool {
    value.as_f64().is_some_and(|number| number != 1.0)
}

fn constrains(value: &Value) -> bool {
    value.get("type").is_some_and(|kind| kind != "text")
}

fn forces_a_tool(value: &Value) -> bool {
    value == "required" || value.is_object()
}

/// Checks that numbers of this mode can be reproduced with what was asked: `asked` are the objects that hold parameters.
///
/// Raw numbers do not depend on how a token was drawn; only SGLang changes its logits before it computes any.
///
/// # Errors
/// The first parameter that is in the way.
pub(super) fn check_reproducible(
    engine: EngineKind,
    mode: LogprobsMode,
    sampling: &Sampling,
    asked: &[&At<'_>],
    stated_at: &str,
) -> Found<()> {
    if mode != LogprobsMode::Processed && engine != EngineKind::Sglang {
        return Ok(());
    }
    for (name, changes) in BEYOND {
        if let Some(at) = asked.iter().filter_map(|at| at.field(name)).find(|at| changes(at.value)) {
            let detail =
                format!("changes the distribution that {} logprobs are of, which is not reproduced", mode.as_str());
            return Err(at.error(Code::IrreproducibleMode, detail));
        }
    }
    let transforms = sampling.active_transforms();
    let unknown = sampling.order.is_none() && ProcessingOrder::is_none_of_these(engine.as_str());
    if mode == LogprobsMode::Processed && unknown && !transforms.is_empty() {
        let detail = format!(
            "processed logprobs of {engine} with {} cannot be reproduced: the order of its transforms is not known here; if it \
             is that of another engine, sampling.order says so",
            transforms.join(", ")
        );
        let pointer = stated_at.to_owned();
        return Err(super::error::ExchangeError { code: Code::IrreproducibleMode, pointer, detail });
    }
    Ok(())
}
