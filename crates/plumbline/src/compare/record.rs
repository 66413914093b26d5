//! One line of `exchanges.jsonl`, which `plumbline verify` reads too.

use plumbline_core::{LogprobsMode, Sampling};
use plumbline_engines::EngineKind;
use plumbline_engines::drivers::{Answer, DriverKind};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::plan::{Plan, Task};

/// Both bodies as they went over the wire, and whose they are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// `engine/prompt/sample`.
    pub(super) id: String,
    /// The name given on the command line.
    pub(super) engine: String,
    /// How it was driven: `vllm`, `sglang`, `llama.cpp`, `tensorrt-llm`, `openai`.
    pub(super) driver: String,
    /// Whose bodies these are: as `driver`, but for `openai`, whose ids stand where one of the others has them.
    pub(super) engine_kind: String,
    /// The prompt's id: samples of one prompt belong together.
    pub(super) group: String,
    /// Which sample of the prompt, from 0.
    pub(super) sample: usize,
    /// Route of the request.
    pub(super) path: String,
    /// What the logprobs mean, if the command line said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) logprobs_mode: Option<LogprobsMode>,
    /// The sampling parameters, where the request does not hold all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sampling: Option<Sampling>,
    /// The body sent.
    pub(super) request: Value,
    /// The body received.
    pub(super) response: Value,
}

impl Record {
    pub(super) fn new(
        engine: &str,
        kind: DriverKind,
        logprobs_mode: Option<LogprobsMode>,
        plan: &Plan,
        task: Task,
        answer: Answer,
    ) -> Self {
        let group = plan.prompts[task.prompt].id.clone();
        let Answer { path, request, response } = answer;
        let engine_kind = bodies_of(kind, &response);
        Self {
            id: format!("{engine}/{group}/{}", task.sample),
            engine: engine.to_owned(),
            driver: kind.as_str().to_owned(),
            engine_kind: engine_kind.as_str().to_owned(),
            group,
            sample: task.sample,
            path: path.to_owned(),
            logprobs_mode,
            sampling: (kind == DriverKind::OpenAi).then_some(plan.sampling),
            request,
            response,
        }
    }
}

/// Ids stand in an OpenAI body in vLLM's way or in llama.cpp's.
fn bodies_of(kind: DriverKind, response: &Value) -> EngineKind {
    match kind {
        DriverKind::Vllm => EngineKind::Vllm,
        DriverKind::Sglang => EngineKind::Sglang,
        DriverKind::LlamaCpp => EngineKind::LlamaCpp,
        DriverKind::TensorRtLlm => EngineKind::TensorRtLlm,
        DriverKind::OpenAi if response["choices"][0]["logprobs"]["content"][0]["id"].is_u64() => EngineKind::LlamaCpp,
        DriverKind::OpenAi => EngineKind::Vllm,
    }
}
