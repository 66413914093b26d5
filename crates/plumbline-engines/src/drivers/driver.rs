//! One engine's server, asked over HTTP.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use plumbline_core::TokenId;
use serde_json::{Map, Value};

use super::ask::{Answer, Ask};
use super::error::DriverError;
use super::http::{Http, HttpPolicy};
use super::key::ApiKey;
use super::kind::DriverKind;
use super::{facts, llama_cpp, openai, sglang, vllm};

/// Where an engine is and how it is spoken to.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its protocol.
    pub kind: DriverKind,
    /// Address of the server, such as `http://127.0.0.1:8000`, without `/v1`.
    pub url: String,
    /// Sent as a bearer token.
    pub key: Option<ApiKey>,
    /// Name of the model to ask for; `None` = the only one that the server lists.
    pub model: Option<String>,
}

/// A server that has answered.
#[derive(Debug)]
pub struct Driver {
    kind: DriverKind,
    http: Http,
    /// Empty where the protocol names none.
    model: String,
    facts: Map<String, Value>,
    /// The preferred route or form is not there: the other one is used from then on.
    fallen_back: AtomicBool,
}

impl Driver {
    /// Asks the server what it is.
    ///
    /// # Errors
    /// An unusable address, a server that does not answer, or one whose model is not clear.
    pub async fn connect(endpoint: Endpoint, policy: HttpPolicy) -> Result<Self, DriverError> {
        let Endpoint { kind, url, key, model } = endpoint;
        let http = Http::new(&url, key, policy)?;
        let facts = facts::collect(&http, kind).await?;
        let model = match (model, kind) {
            (Some(model), _) => model,
            // Their routes name no model.
            (None, DriverKind::Sglang | DriverKind::LlamaCpp) => String::new(),
            (None, _) => facts::only_model(&facts)?,
        };
        Ok(Self { kind, http, model, facts, fallen_back: AtomicBool::new(false) })
    }

    /// Its protocol.
    #[must_use]
    pub fn kind(&self) -> DriverKind {
        self.kind
    }

    /// What the server says of itself, and its address. Settings that hold secrets are hidden.
    #[must_use]
    pub fn facts(&self) -> &Map<String, Value> {
        &self.facts
    }

    /// One completion.
    ///
    /// # Errors
    /// The engine refuses, cannot be reached after all attempts, or has no ids to give.
    pub async fn generate(&self, ask: &Ask) -> Result<Answer, DriverError> {
        match self.kind {
            DriverKind::Vllm => self.vllm(ask).await,
            DriverKind::Sglang => self.post(sglang::GENERATE, sglang::generate(ask)).await,
            DriverKind::LlamaCpp => self.post(llama_cpp::COMPLETION, llama_cpp::completion(ask)).await,
            DriverKind::TensorRtLlm => {
                let answer = self.post(openai::COMPLETIONS, openai::tensorrt_llm(ask, &self.model)).await?;
                openai::check_ids(&answer.response).map(|()| answer)
            }
            DriverKind::OpenAi => self.openai(ask).await,
        }
    }

    /// Logprobs, raw and at temperature 1, in nats, of the completion's tokens after the prompt, teacher-forced.
    ///
    /// # Errors
    /// [`DriverError::NotSupported`] for engines without such a route, else as [`Driver::generate`]; also without a prompt,
    /// for the first token then has no context.
    pub async fn score(&self, prompt: &[TokenId], completion: &[TokenId]) -> Result<Vec<f64>, DriverError> {
        if prompt.is_empty() {
            return Err(DriverError::NotSupported("a completion without a prompt has no context for its first token"));
        }
        let token_ids = [prompt, completion].concat();
        let (path, request) = match self.kind {
            DriverKind::Vllm => (vllm::COMPLETIONS, vllm::score(&token_ids, &self.model)),
            DriverKind::Sglang => (sglang::GENERATE, sglang::score(&token_ids)),
            DriverKind::LlamaCpp => return Err(DriverError::NotSupported(llama_cpp::NO_SCORES)),
            DriverKind::TensorRtLlm | DriverKind::OpenAi => return Err(DriverError::NotSupported(openai::NO_SCORES)),
        };
        let answer = self.http.post(path, &request).await?;
        let scores = match self.kind {
            DriverKind::Sglang => sglang::scores(&answer, &token_ids, completion.len()),
            _ => vllm::scores(&answer, &token_ids, completion.len()),
        };
        scores.map_err(|reason| DriverError::Answer { path: path.to_owned(), reason })
    }

    /// Whether [`Driver::score`] has a route.
    #[must_use]
    pub fn can_score(&self) -> bool {
        matches!(self.kind, DriverKind::Vllm | DriverKind::Sglang)
    }

    async fn vllm(&self, ask: &Ask) -> Result<Answer, DriverError> {
        if !self.fallen_back.load(Relaxed) {
            match self.post(vllm::GENERATE, vllm::generate(ask, &self.model)).await {
                // Not started with it, or older than it.
                Err(error) if matches!(error.status(), Some(403 | 404 | 405 | 501)) => {
                    self.fallen_back.store(true, Relaxed);
                }
                other => return other,
            }
        }
        self.post(vllm::COMPLETIONS, vllm::completions(ask, &self.model)).await
    }

    async fn openai(&self, ask: &Ask) -> Result<Answer, DriverError> {
        let mut extended = !self.fallen_back.load(Relaxed);
        let answer = loop {
            match self.post(openai::COMPLETIONS, openai::completions(ask, &self.model, extended)).await {
                // A strict server refuses what it does not know.
                Err(error) if extended && matches!(error.status(), Some(400 | 422)) => extended = false,
                Err(error) if matches!(error.status(), Some(400 | 422)) => return Err(openai::no_id_prompts(&error)),
                other => break other?,
            }
        };
        if !extended {
            self.fallen_back.store(true, Relaxed);
        }
        openai::check_ids(&answer.response).map(|()| answer)
    }

    async fn post(&self, path: &'static str, request: Value) -> Result<Answer, DriverError> {
        let response = self.http.post(path, &request).await?;
        Ok(Answer { path, request, response })
    }
}
