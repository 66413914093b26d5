//! A reference that is loaded, and rollouts on their way through it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow};
use plumbline_core::{ModelLimits, ReferenceInfo, Rollout};
use plumbline_divergence::{SequenceComparison, compare};
use plumbline_model::Tokenizer;
use plumbline_probe::RecentTraffic;
use plumbline_report::{
    Collector, CollectorLimits, CrossComparison, EngineFacts, Facts, InputFacts, TableFacts, TokenTable,
};
use plumbline_scheduler::{NullObserver, Scheduler, SchedulerConfig};
use plumbline_server::Config;
use serde_json::{Map, Value};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::interrupt::Interrupt;
use super::outcome::{self, Outcome};
use super::pipeline::{Collected, Diagnoser, Flight, Pipeline, Sink};
use super::tallies::Tallies;
use super::{OfflineArguments, floor::SessionFloor};
use crate::reference;
use crate::timestamp::rfc3339;

/// Tokens in flight at most, in multiples of a batch: enough that the model never waits for a file.
const BATCHES_IN_FLIGHT: usize = 8;

/// Rollouts in flight at most.
const MOST_IN_FLIGHT: usize = 4096;

/// Share of the model's time that floor and diagnoses get while something waits: nobody waits for a single answer here.
const ASIDE_SHARE: f64 = 0.5;

/// How long the model thread may take to end when everything is done.
const DRAIN: Duration = Duration::from_secs(10);

/// The table of tokens while it is being written.
const PARTIAL_TABLE: &str = ".tokens.parquet.partial";
const TABLE: &str = "tokens.parquet";

/// A rollout that is handed over.
#[derive(Clone, Debug)]
pub(crate) struct Incoming {
    pub(crate) engine: String,
    pub(crate) worker: Option<String>,
    /// Rollouts of one group share their prompt.
    pub(crate) group: Option<String>,
    pub(crate) rollout: Rollout,
    /// Prompt tokens that the engine took from its prefix cache, if it said so.
    pub(crate) cached_tokens: Option<usize>,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Submitted {
    /// It is being scored.
    Taken,
    /// It cannot be scored; it is counted, and the report says so.
    Refused {
        /// Its kind, for counts.
        kind: &'static str,
        /// For people.
        reason: String,
    },
}

/// What a command knows at its end.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    /// Sentences that the reader must see.
    pub(crate) notes: Vec<String>,
    /// The command line, without secrets.
    pub(crate) command: Option<String>,
    /// What was read.
    pub(crate) inputs: Vec<InputFacts>,
    /// Free facts by engine.
    pub(crate) engine_facts: BTreeMap<String, Map<String, Value>>,
    /// Engines against each other.
    pub(crate) cross: Vec<CrossComparison>,
    /// Why the input, or a part of it, could not be used.
    pub(crate) unusable: Option<String>,
    /// Whether Ctrl-C ended it.
    pub(crate) interrupted: bool,
}

/// A reference that is loaded, and rollouts on their way through it.
pub(crate) struct Session {
    arguments: OfflineArguments,
    config: Config,
    scheduler: Scheduler,
    reference: Arc<ReferenceInfo>,
    /// If the user named one: rollouts of others are not scored.
    policy_version: Option<String>,
    limits: ModelLimits,
    tokenizer: Option<Arc<Tokenizer>>,
    in_flight: Arc<Semaphore>,
    most_in_flight: usize,
    recent: Arc<RecentTraffic>,
    /// Whether the floor has all rollouts that it needs.
    floor_is_fed: bool,
    measure: Arc<Notify>,
    refused: Tallies,
    created_at: String,
    scored_tokens: Arc<AtomicU64>,
    scored_sequences: Arc<AtomicU64>,
    /// `None` once it has ended.
    running: Option<Running>,
}

struct Running {
    flights: mpsc::Sender<Flight>,
    task: JoinHandle<anyhow::Result<Collected>>,
}

impl Session {
    /// Loads the reference and creates the folder for the report.
    pub(crate) async fn open(
        arguments: &OfflineArguments,
        config: Config,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Self> {
        let out = &arguments.out;
        fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
        let (source, base) = reference::source_and_base(&config);
        let started =
            source.start(scheduler_config(&config), Arc::new(NullObserver)).context("cannot start the model thread")?;
        let reference = started.scheduler.ready().await?;
        let known = started.knowledge(&reference);
        let scheduler = started.scheduler;
        let tokenizer = match base.found().map(|model| model.tokenizer()).transpose() {
            Ok(tokenizer) => tokenizer.flatten().map(Arc::new),
            Err(error) => {
                tracing::warn!(%error, "the report does without text");
                None
            }
        };
        let created_at = rfc3339(SystemTime::now())?;
        let table = match arguments.no_token_table {
            true => None,
            false => {
                let facts =
                    TableFacts { run: None, model: Some(reference.model.clone()), created_at: created_at.clone() };
                let path = out.join(PARTIAL_TABLE);
                Some(TokenTable::create(&path, &facts).with_context(|| format!("cannot write {}", path.display()))?)
            }
        };
        let diagnoser = (!arguments.no_diagnosis && config.diagnosis_request_tokens > 0).then(|| Diagnoser {
            scheduler: scheduler.clone(),
            limits: config.piece_limits(),
            known: known.clone(),
            request_tokens: config.diagnosis_request_tokens,
            probed: 0,
            interrupt: interrupt.clone(),
        });
        let sink = Sink {
            collector: Collector::new(CollectorLimits::default()),
            table,
            text: known.text,
            tallies: Tallies::default(),
            levels: config.verdict_levels(),
            curve: None,
            diagnoser,
            runs: BTreeMap::new(),
            scored_tokens: 0,
            failed: 0,
            undiagnosed: 0,
        };
        let recent = Arc::new(RecentTraffic::new(config.aside_tokens, config.noise_floor_tokens));
        let (measure, scored_tokens, scored_sequences) = (Arc::default(), Arc::default(), Arc::default());
        let pipeline = Pipeline {
            scheduler: scheduler.clone(),
            config: config.clone(),
            recent: Arc::clone(&recent),
            measure: Arc::clone(&measure),
            sink,
            scored_tokens: Arc::clone(&scored_tokens),
            scored_sequences: Arc::clone(&scored_sequences),
        };
        let (flights, received) = mpsc::channel(MOST_IN_FLIGHT);
        let task = tokio::spawn(pipeline.run(received));
        let most_in_flight = (BATCHES_IN_FLIGHT * config.max_batch_tokens).min(Semaphore::MAX_PERMITS);
        Ok(Self {
            arguments: arguments.clone(),
            limits: config.sequence_limits(&reference.limits),
            policy_version: config.policy_version.clone(),
            config,
            scheduler,
            reference,
            tokenizer,
            in_flight: Arc::new(Semaphore::new(most_in_flight)),
            most_in_flight,
            recent,
            floor_is_fed: false,
            measure,
            refused: Tallies::default(),
            created_at,
            scored_tokens,
            scored_sequences,
            running: Some(Running { flights, task }),
        })
    }

    pub(crate) fn reference(&self) -> &Arc<ReferenceInfo> {
        &self.reference
    }

    /// `None`: the model has no tokenizer files.
    #[allow(dead_code, reason = "for commands that make engines generate")]
    pub(crate) fn tokenizer(&self) -> Option<&Arc<Tokenizer>> {
        self.tokenizer.as_ref()
    }

    /// Counter of scored tokens.
    pub(crate) fn scored_tokens(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.scored_tokens)
    }

    /// Counter of scored sequences.
    #[allow(dead_code, reason = "for commands that make engines generate")]
    pub(crate) fn scored_sequences(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.scored_sequences)
    }

    /// Hands over a rollout to be scored and reported. Waits while too much is in flight.
    ///
    /// # Errors
    /// The reference or the report failed: nothing more can be done.
    pub(crate) async fn submit(&mut self, incoming: Incoming) -> anyhow::Result<Submitted> {
        let (incoming, version) = match self.check(incoming) {
            Ok(checked) => checked,
            Err((engine, kind, reason)) => {
                self.refused.not_scored(&engine, kind);
                return Ok(Submitted::Refused { kind, reason });
            }
        };
        let sequences = incoming.rollout.scoring_sequences()?;
        let tokens: usize = sequences.iter().map(|sequence| sequence.forward_tokens().max(1)).sum();
        let permits = u32::try_from(tokens.min(self.most_in_flight)).unwrap_or(u32::MAX);
        self.note_for_floor(&incoming.rollout);
        let permit = match Arc::clone(&self.in_flight).try_acquire_many_owned(permits) {
            Ok(permit) => permit,
            Err(_) => {
                // The floor cannot wait for more rollouts when these wait for it.
                self.measure.notify_one();
                Arc::clone(&self.in_flight).acquire_many_owned(permits).await?
            }
        };
        let ticket = self.scheduler.submit(sequences)?;
        let Some(running) = &self.running else { return Err(anyhow!("the session has ended")) };
        if running.flights.capacity() == 0 {
            self.measure.notify_one();
        }
        if running.flights.send(Flight { incoming, version, ticket, permit }).await.is_err() {
            return Err(self.failure().await);
        }
        Ok(Submitted::Taken)
    }

    /// The floor is measured on the first rollouts and on nothing else, so that the same input gives the same floor.
    fn note_for_floor(&mut self, rollout: &Rollout) {
        if !self.floor_is_fed {
            self.recent.add(std::slice::from_ref(rollout));
            self.floor_is_fed = self.recent.sequences(self.config.noise_floor_tokens).is_some();
        }
    }

    /// The rollout as it is scored, and the version that it was recorded with; or its engine and why it cannot be scored.
    fn check(&self, mut incoming: Incoming) -> Result<(Incoming, Option<String>), (String, &'static str, String)> {
        let versions = incoming.rollout.versions();
        if let Some(own) = &self.policy_version
            && let Some(other) = versions.iter().flatten().find(|version| *version != own)
        {
            let reason = format!("was sampled by policy version {other:?}, the reference is {own:?}");
            return Err((incoming.engine, "other_policy_version", reason));
        }
        let version = match versions.as_slice() {
            [Some(version)] => Some((*version).to_owned()),
            _ => None,
        };
        if let Some(violation) = incoming.rollout.violations(&self.limits).into_iter().next() {
            let field = violation.pointer.trim_start_matches('/').replace('/', ".");
            return Err((incoming.engine, violation.code.as_str(), format!("{field}: {}", violation.detail)));
        }
        // The one reference scores everything.
        incoming.rollout.policy_version = None;
        incoming.rollout.weight_versions = Vec::new();
        Ok((incoming, version))
    }

    /// Scores a rollout without reporting it.
    #[allow(dead_code, reason = "for commands that make engines generate")]
    pub(crate) async fn score(&self, rollout: &Rollout) -> anyhow::Result<SequenceComparison> {
        let rollout = Rollout { policy_version: None, weight_versions: Vec::new(), ..rollout.clone() };
        let outcome = self.scheduler.submit(rollout.scoring_sequences()?)?.wait().await?;
        let scored = outcome.into_iter().next().context("the scheduler gave no outcome")??;
        Ok(compare(&rollout, &scored.scores, &scored.reference.eos_token_ids)?)
    }

    /// Why the task ended before its time.
    async fn failure(&mut self) -> anyhow::Error {
        let Some(running) = self.running.take() else { return anyhow!("the session has ended") };
        drop(running.flights);
        match running.task.await {
            Ok(Err(error)) => error,
            Ok(Ok(_)) => anyhow!("the session ended before its time"),
            Err(error) => anyhow!(error).context("the session's task failed"),
        }
    }

    /// Waits for everything in flight, writes the report, and says how it went.
    ///
    /// # Errors
    /// The reference failed, or a file cannot be written.
    pub(crate) async fn finish(mut self, ending: Ending) -> anyhow::Result<Outcome> {
        let Some(running) = self.running.take() else { return Err(anyhow!("the session has ended")) };
        drop(running.flights);
        self.measure.notify_one();
        let Collected { sink, floor } = running.task.await.context("the session's task failed")??;
        self.scheduler.drain(DRAIN).await;
        tokio::task::spawn_blocking(move || self.write(sink, floor, ending))
            .await
            .context("the report's task failed")?
    }

    fn write(self, sink: Sink, floor: SessionFloor, ending: Ending) -> anyhow::Result<Outcome> {
        let Sink { collector, table, text, tallies, runs, failed, undiagnosed, .. } = sink;
        let mut tallies = tallies;
        tallies.merge(self.refused);
        let title = self.arguments.title.clone().unwrap_or_else(|| format!("against {}", self.reference.model));
        let mut facts = Facts::new(title, self.created_at, (*self.reference).clone());
        facts.command = ending.command;
        facts.levels = self.config.verdict_levels();
        facts.inputs = ending.inputs;
        facts.cross = ending.cross;
        facts.notes = ending.notes;
        facts.notes.extend(floor.note);
        facts.floor = floor.floor;
        if undiagnosed > 0 {
            facts
                .notes
                .push(format!("{undiagnosed} suspicious parts were not searched for causes: the budget was spent"));
        }
        for (engine, own) in ending.engine_facts {
            facts.engines.entry(engine).or_default().facts = own;
        }
        for (engine, run) in runs {
            facts.engines.entry(engine).or_default().diagnosis = run.findings();
        }
        for (engine, tally) in tallies.clone().into_engines() {
            let known: &mut EngineFacts = facts.engines.entry(engine).or_default();
            known.not_scored = tally.not_scored;
        }
        let causes = facts.engines.iter().map(|(engine, facts)| (engine.clone(), facts.diagnosis.clone())).collect();
        let report = collector.finish(facts, text.as_deref());
        let out = &self.arguments.out;
        let mut files =
            report.write_to(out).with_context(|| format!("cannot write the report to {}", out.display()))?;
        files.extend(finish_table(table, out)?);
        let unusable =
            ending.unusable.or_else(|| (failed > 0).then(|| format!("the reference failed on {failed} sequences")));
        let inputs = outcome::Inputs { tallies: &tallies, causes, files, unusable, interrupted: ending.interrupted };
        Ok(Outcome::new(&report, inputs, &self.arguments.fail_on, self.arguments.fail_on_suspect))
    }
}

fn finish_table(
    table: Option<TokenTable<std::io::BufWriter<fs::File>>>,
    out: &std::path::Path,
) -> anyhow::Result<Option<PathBuf>> {
    let Some(table) = table else { return Ok(None) };
    let path = out.join(TABLE);
    let written = table.finish().map_err(anyhow::Error::from);
    let written =
        written.and_then(|writer| Ok(writer.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?));
    written
        .and_then(|()| Ok(fs::rename(out.join(PARTIAL_TABLE), &path)?))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Some(path))
}

/// One version, and as much of a queue as the session lets in.
fn scheduler_config(config: &Config) -> SchedulerConfig {
    SchedulerConfig {
        max_queue_tokens: usize::MAX,
        keep_versions: 1,
        max_weight_bytes: 0,
        aside_share: ASIDE_SHARE,
        ..config.scheduler()
    }
}
