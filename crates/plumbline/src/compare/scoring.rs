//! The only place where `compare` meets the reading of bodies, the scoring pipeline and the report.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use plumbline_core::{LogprobsMode, TokenId};
use plumbline_engines::{EngineKind, Exchange, read_exchange};
use plumbline_model::Tokenizer;
use plumbline_report::CrossComparison;
use plumbline_server::Config;
use serde_json::{Map, Value};

use super::cross::Crossed;
use super::plan::{Plan, Task};
use super::record::Record;
use crate::offline::{Ending, Incoming, Outcome, Session, Submitted};
pub(super) use crate::offline::{INTERRUPTED, Interrupt, OfflineArguments, Progress};

/// What an engine sampled for one task.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sampled {
    pub(super) completion: Vec<TokenId>,
    /// The engine's, in nats.
    pub(super) logprobs: Vec<Option<f64>>,
    pub(super) mode: LogprobsMode,
}

/// Scores what engines answered.
pub(super) struct Scorer {
    session: Session,
}

impl Scorer {
    /// Loads the reference and creates the output folder.
    pub(super) async fn open(
        arguments: &OfflineArguments,
        config: Config,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Self> {
        Ok(Self { session: Session::open(arguments, config, interrupt).await? })
    }

    pub(super) fn tokenizer(&self) -> Option<&Arc<Tokenizer>> {
        self.session.tokenizer()
    }

    /// Counter of scored tokens.
    pub(super) fn scored_tokens(&self) -> Arc<AtomicU64> {
        self.session.scored_tokens()
    }

    /// Hands over one exchange. The inner error says why it cannot be used.
    pub(super) async fn take(
        &mut self,
        record: &Record,
        plan: &Plan,
        task: Task,
    ) -> anyhow::Result<Result<Sampled, String>> {
        let exchange = match exchange(record) {
            Ok(exchange) => exchange,
            Err(reason) => return Ok(Err(reason)),
        };
        let read = match read_exchange(&exchange) {
            Ok(read) => read,
            Err(errors) => {
                let reasons: Vec<String> = errors.iter().map(ToString::to_string).collect();
                return Ok(Err(reasons.join("; ")));
            }
        };
        let count = read.rollouts.len();
        let (Some(only), 1) = (read.rollouts.into_iter().next(), count) else {
            return Ok(Err(format!("{count} completions where one was asked for")));
        };
        if only.rollout.prompt_token_ids != plan.prompts[task.prompt].token_ids {
            return Ok(Err("the engine's prompt is not the one that was sent".into()));
        }
        let sampled = Sampled {
            completion: only.rollout.completion_token_ids.clone(),
            logprobs: only.rollout.logprobs.clone(),
            mode: only.rollout.logprobs_mode,
        };
        let incoming = Incoming {
            engine: record.engine.clone(),
            worker: None,
            group: Some(record.group.clone()),
            rollout: only.rollout,
            cached_tokens: only.cached_tokens,
        };
        Ok(match self.session.submit(incoming).await? {
            Submitted::Taken => Ok(sampled),
            Submitted::Refused { reason, .. } => Err(reason),
        })
    }

    /// Waits for all scores and writes the report.
    pub(super) async fn finish(self, ending: CompareEnding) -> anyhow::Result<Outcome> {
        let CompareEnding { notes, engine_facts, cross, unusable, interrupted } = ending;
        let cross = cross.into_iter().map(comparison).collect();
        let command = Some(command_line());
        self.session
            .finish(Ending { notes, command, engine_facts, cross, unusable, interrupted, ..Ending::default() })
            .await
    }
}

/// What the report must know beside the scores.
#[derive(Debug, Default)]
pub(super) struct CompareEnding {
    pub(super) notes: Vec<String>,
    pub(super) engine_facts: BTreeMap<String, Map<String, Value>>,
    pub(super) cross: Vec<Crossed>,
    /// Why a part of the run could not be used.
    pub(super) unusable: Option<String>,
    pub(super) interrupted: bool,
}

fn comparison(crossed: Crossed) -> CrossComparison {
    let Crossed { sampled_by, scored_by, statistics, clusters, note, .. } = crossed;
    CrossComparison { sampled_by, scored_by, statistics, clusters, note }
}

/// As it was typed; keys are never on it, and addresses with credentials are refused.
fn command_line() -> String {
    std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// A record as the adapters read it.
fn exchange(record: &Record) -> Result<Exchange, String> {
    let engine = EngineKind::of_name(&record.engine_kind);
    Ok(Exchange {
        id: record.id.clone(),
        path: Some(record.path.clone()),
        engine: Some(engine.ok_or_else(|| format!("no engine with the bodies of {:?} is known", record.engine_kind))?),
        logprobs_mode: record.logprobs_mode,
        sampling: record.sampling,
        policy_version: None,
        request: record.request.clone(),
        response: record.response.clone(),
    })
}

/// Where the output goes.
pub(super) fn out(arguments: &OfflineArguments) -> &Path {
    &arguments.out
}
