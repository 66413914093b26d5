//! From scored rollouts to the report, in their order: one task, whose work runs off the async threads.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::Context;
use plumbline_core::TokenText;
use plumbline_divergence::{
    Diagnosis, DiagnosisConfig, DiagnosisInput, Finding, FloorCurve, RunDiagnosis, RunSequence, SuspectSequence,
    Verdict, VerdictLevels, diagnose,
};
use plumbline_probe::{AsideProber, PieceLimits, PublishedFloor, RecentTraffic};
use plumbline_report::{Collector, Observed, TokenTable};
use plumbline_scheduler::{Scheduler, Ticket};
use plumbline_server::{Config, ModelKnowledge};
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};

use super::assess::Assessed;
use super::cases::Cases;
use super::floor::{self, SessionFloor};
use super::interrupt::Interrupt;
use super::session::Incoming;
use super::tallies::Tallies;

/// Tokens that diagnoses may take from the start, in multiples of what one may take;
const FIRST_DIAGNOSES: usize = 8;

/// and one more for so many scored ones.
const SCORED_PER_PROBED: usize = 4;

/// A rollout that is being scored.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) incoming: Incoming,
    pub(super) version: Option<String>,
    pub(super) ticket: Ticket,
    /// Its part of what may be in flight.
    pub(super) permit: OwnedSemaphorePermit,
}

/// What the task needs.
pub(super) struct Pipeline {
    pub(super) scheduler: Scheduler,
    pub(super) config: Config,
    pub(super) recent: Arc<RecentTraffic>,
    /// That the floor is to be measured with the rollouts that are there.
    pub(super) measure: Arc<Notify>,
    pub(super) sink: Sink,
    pub(super) scored_tokens: Arc<AtomicU64>,
    pub(super) scored_sequences: Arc<AtomicU64>,
}

/// What is there once everything is scored.
pub(super) struct Collected {
    pub(super) sink: Sink,
    pub(super) floor: SessionFloor,
}

impl Pipeline {
    /// Takes in rollouts until no more can come.
    pub(super) async fn run(self, mut flights: mpsc::Receiver<Flight>) -> anyhow::Result<Collected> {
        let Self { scheduler, config, recent, measure, mut sink, scored_tokens, scored_sequences } = self;
        tokio::select! {
            () = recent.has(config.noise_floor_tokens) => {}
            () = measure.notified() => {}
        }
        let floor = floor::measure(&scheduler, &config, &recent).await;
        sink.curve.clone_from(&floor.curve);
        let mut cases = Cases::default();
        while let Some(Flight { incoming, version, ticket, permit }) = flights.recv().await {
            let outcome = ticket.wait().await?.pop().context("the scheduler gave no outcome")?;
            let scored = match outcome {
                Ok(scored) => scored,
                Err(error) => {
                    tracing::warn!(id = incoming.rollout.id, engine = incoming.engine, %error, "a sequence was not scored");
                    sink.tallies.not_scored(&incoming.engine, "the reference failed on it");
                    sink.failed += 1;
                    continue;
                }
            };
            scored_tokens.fetch_add(scored.scores.len() as u64, Relaxed);
            scored_sequences.fetch_add(1, Relaxed);
            let assessed = Assessed::new(incoming, version, scored, &sink.levels, sink.curve.as_ref())
                .context("the reference's scores are unusable")?;
            sink.scored_tokens += assessed.scores.len();
            for case in cases.add(assessed) {
                sink = taken(sink, case).await?;
            }
            drop(permit);
        }
        for case in cases.close() {
            sink = taken(sink, case).await?;
        }
        Ok(Collected { sink, floor })
    }
}

async fn taken(mut sink: Sink, case: Vec<Assessed>) -> anyhow::Result<Sink> {
    let done = tokio::task::spawn_blocking(move || sink.take(&case).map(|()| sink));
    done.await.context("the report's task failed")?
}

/// Where assessed rollouts end. CPU-bound.
pub(super) struct Sink {
    pub(super) collector: Collector,
    pub(super) table: Option<TokenTable<BufWriter<File>>>,
    pub(super) text: Option<Arc<dyn TokenText>>,
    pub(super) tallies: Tallies,
    pub(super) levels: VerdictLevels,
    /// The noise floor, once it is measured.
    pub(super) curve: Option<FloorCurve>,
    /// `None` = causes are not looked for.
    pub(super) diagnoser: Option<Diagnoser>,
    /// By engine.
    pub(super) runs: BTreeMap<String, RunDiagnosis>,
    pub(super) scored_tokens: usize,
    /// Sequences on which the reference failed.
    pub(super) failed: u64,
    /// Cases with something suspicious that were not diagnosed for lack of budget.
    pub(super) undiagnosed: u64,
}

impl Sink {
    fn take(&mut self, case: &[Assessed]) -> anyhow::Result<()> {
        let diagnosis = self.diagnose(case);
        let text = self.text.as_deref();
        for (index, assessed) in case.iter().enumerate() {
            let Assessed { incoming, version, comparison, statistics, judgement, .. } = assessed;
            let found = diagnosis.as_ref().and_then(|diagnosis| diagnosis.sequences.get(index));
            // What is within the floor needs no cause, as in the answers of the service.
            let findings: &[Finding] = match judgement.verdict {
                Verdict::Consistent => &[],
                _ => found.map_or(&[], |found| &found.findings),
            };
            let observed = Observed {
                engine: &incoming.engine,
                worker: incoming.worker.as_deref(),
                policy_version: version.as_deref(),
                group: incoming.group.as_deref(),
                rollout: Some(&incoming.rollout),
                comparison,
                statistics,
                judgement,
                findings,
                stored_id: None,
            };
            self.collector.observe(&observed);
            if let Some(table) = &mut self.table {
                table.append(&observed, text).context("cannot write tokens.parquet")?;
            }
            self.tallies.judged(&incoming.engine, judgement.verdict);
            let run = self.runs.entry(incoming.engine.clone()).or_default();
            run.vote(findings);
            if let Some((mae, expected)) = mean_and_floor(assessed) {
                run.observe(&RunSequence {
                    worker: incoming.worker.as_deref(),
                    policy_version: version.as_deref(),
                    cached_tokens: incoming.cached_tokens,
                    tokens: statistics.floor_tokens as usize,
                    mae,
                    floor_mae: expected,
                });
            }
        }
        Ok(())
    }

    /// Causes of a case with something suspicious in it, as far as the budget goes.
    fn diagnose(&mut self, case: &[Assessed]) -> Option<Diagnosis> {
        let suspicious =
            |assessed: &Assessed| matches!(assessed.judgement.verdict, Verdict::Suspect | Verdict::Divergent);
        let diagnoser = self.diagnoser.as_mut().filter(|_| case.iter().any(suspicious))?;
        let budget = FIRST_DIAGNOSES * diagnoser.request_tokens + self.scored_tokens / SCORED_PER_PROBED;
        if diagnoser.probed >= budget || diagnoser.interrupt.is_asked() {
            self.undiagnosed += 1;
            return None;
        }
        diagnoser.find(case, self.curve.as_ref())
    }
}

/// Mean `|d|` of a rollout and what the floor expects of it, over its tokens with a floor.
fn mean_and_floor(assessed: &Assessed) -> Option<(f64, f64)> {
    let statistics = &assessed.statistics;
    let tokens = statistics.floor_tokens as f64;
    (tokens > 0.0).then(|| (statistics.floor_abs_delta / tokens, statistics.floor_expected / tokens))
}

/// Looks for causes.
pub(super) struct Diagnoser {
    pub(super) scheduler: Scheduler,
    pub(super) limits: PieceLimits,
    pub(super) known: ModelKnowledge,
    /// Tokens of one diagnosis.
    pub(super) request_tokens: usize,
    /// Tokens of all diagnoses so far.
    pub(super) probed: usize,
    pub(super) interrupt: Interrupt,
}

impl Diagnoser {
    /// `None` if the search panicked.
    fn find(&mut self, case: &[Assessed], floor: Option<&FloorCurve>) -> Option<Diagnosis> {
        let sequences: Vec<_> = case
            .iter()
            .map(|assessed| SuspectSequence {
                rollout: &assessed.incoming.rollout,
                scores: &assessed.scores,
                comparison: &assessed.comparison,
                cached_tokens: assessed.incoming.cached_tokens,
            })
            .collect();
        let floor: &dyn plumbline_divergence::Floor = match floor {
            Some(curve) => curve,
            None => &PublishedFloor,
        };
        let input = DiagnosisInput { sequences: &sequences, model: &self.known.facts, floor };
        let config = DiagnosisConfig { probe_tokens: self.request_tokens, ..DiagnosisConfig::default() };
        let mut prober = AsideProber {
            scheduler: &self.scheduler,
            limits: self.limits,
            tokens_left: self.request_tokens,
            deadline: None,
            give_up: &|| self.interrupt.is_asked(),
            text: self.known.text.as_deref(),
            supported: RefCell::default(),
        };
        // A defect in there must not cost the report.
        let diagnosis = catch_unwind(AssertUnwindSafe(|| diagnose(&input, &mut prober, &config)));
        self.probed += self.request_tokens - prober.tokens_left;
        diagnosis.inspect_err(|_| tracing::error!("a diagnosis panicked")).ok()
    }
}
