//! Reports of runs: one is made at a time, off the async workers, and kept for some seconds, so that requests for them cannot
//! take more than one core from scoring.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::body::Bytes;
use plumbline_core::ReferenceInfo;
use plumbline_divergence::{GroupKey, GroupView, NamedPoint, PointSums};
use plumbline_report::{Collector, CollectorLimits, Facts, Observed, Report, ReportError, Totals};
use tokio::sync::Semaphore;

use crate::ledger;
use crate::problem::{Code, Problem};
use crate::sequences::StoredSequence;
use crate::state::{AppState, loading};
use crate::timestamp::rfc3339;

/// How long a report that was made answers further requests,
const FRESH: Duration = Duration::from_secs(10);
/// and how many are kept.
const KEPT: usize = 8;
/// Requests that wait for the one before them at most.
const WAITING: usize = 8;
/// How soon to try again when too many wait.
const BUSY_RETRY: Duration = Duration::from_secs(5);

/// A form of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Json,
    Html,
    Xlsx,
    Png,
    Views,
}

/// Makes reports one at a time and keeps the latest.
#[derive(Debug)]
pub(crate) struct Reports {
    /// A permit for each request that waits or works.
    waiting: Arc<Semaphore>,
    /// One permit: the right to work.
    working: Arc<Semaphore>,
    made: Mutex<VecDeque<Made>>,
}

/// A report that was made.
#[derive(Debug)]
struct Made {
    run: String,
    form: Form,
    at: Instant,
    bytes: Bytes,
}

impl Default for Reports {
    fn default() -> Self {
        Self {
            waiting: Arc::new(Semaphore::new(WAITING + 1)),
            working: Arc::new(Semaphore::new(1)),
            made: Mutex::default(),
        }
    }
}

impl Reports {
    /// The report of a run, which exists: a fresh one, or one of the last seconds.
    ///
    /// # Errors
    /// 404 for a run that is gone by now, 429 if too many requests wait, 503 while there is no reference, 500 if it cannot be made.
    pub(crate) async fn get(&self, state: &Arc<AppState>, run: &str, form: Form) -> Result<Bytes, Problem> {
        if let Some(bytes) = self.fresh(run, form) {
            return Ok(bytes);
        }
        let waiting = Arc::clone(&self.waiting).try_acquire_owned().map_err(|_| {
            Problem::new(Code::ReportsBusy, format!("{WAITING} requests for reports wait already"))
                .retry_after(BUSY_RETRY)
        })?;
        let working = Arc::clone(&self.working).acquire_owned().await.map_err(|error| defect(&error))?;
        // Whoever was first may have made it.
        if let Some(bytes) = self.fresh(run, form) {
            return Ok(bytes);
        }
        let (own, name) = (Arc::clone(state), run.to_owned());
        let work = move || {
            // Held until the work is done, also if the client leaves before.
            let _permits = (waiting, working);
            make(&own, &name, form)
        };
        let bytes = Bytes::from(tokio::task::spawn_blocking(work).await.map_err(|error| defect(&error))??);
        let mut made = self.lock();
        made.push_back(Made { run: run.to_owned(), form, at: Instant::now(), bytes: bytes.clone() });
        while made.len() > KEPT {
            made.pop_front();
        }
        Ok(bytes)
    }

    fn fresh(&self, run: &str, form: Form) -> Option<Bytes> {
        let mut made = self.lock();
        made.retain(|one| one.at.elapsed() < FRESH);
        made.iter().find(|one| one.run == run && one.form == form).map(|one| one.bytes.clone())
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Made>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn defect(cause: &impl ToString) -> Problem {
    Problem::internal(Code::Internal, "the report cannot be made; see the server's log", cause)
}

/// Makes a report of what is known of a run now. CPU-bound.
fn make(state: &AppState, run: &str, form: Form) -> Result<Vec<u8>, Problem> {
    let resident = state.resident()?;
    let divergence = &resident.divergence;
    let reference = state.scheduler.reference().ok_or_else(loading)?;
    let mut views = divergence.view(run);
    if views.is_empty() {
        views = ledger::recall(&state.ledger, divergence, run).map_err(|error| ledger::problem(&error))?;
    }
    if views.is_empty() {
        return Err(crate::routes::run_not_found(run));
    }
    let since = views.iter().map(|view| view.first_seen).min().unwrap_or_default();
    let since = rfc3339(divergence.time_of(since));
    let mut facts = facts(state, run, &reference, &since);
    for view in &views {
        facts.engines.entry(view.key.engine.clone()).or_default().diagnosis.clone_from(&view.causes);
    }
    let collected = collect(state, run, &views)?;
    let report = collected.finish(facts, resident.text.as_deref());
    render(&report, form).map_err(|error| defect(&error))
}

fn render(report: &Report, form: Form) -> Result<Vec<u8>, ReportError> {
    match form {
        Form::Json => report.json(),
        Form::Html => report.html().map(String::into_bytes),
        Form::Xlsx => report.xlsx(),
        Form::Png => report.png(),
        Form::Views => report.views_json(),
    }
}

fn facts(state: &AppState, run: &str, reference: &ReferenceInfo, since: &str) -> Facts {
    let mut facts = Facts::new(format!("Run {run}"), rfc3339(SystemTime::now()), reference.clone());
    facts.floor = state.floors.of(&reference.policy_version).map(|measured| measured.floor.clone());
    facts.levels = state.config.verdict_levels();
    facts.notes.push(format!(
        "Made by a running service: metrics, verdicts, workers and policy versions are of everything since {since}, not of the sliding \
         window that the run's page and its alarms look at."
    ));
    let kept = match state.ledger.store() {
        Some(_) => {
            "Views and sequences are of the latest sequences in the service's store, at most 8192, and of the worst and the longest before \
             them."
        }
        None => {
            "Views and sequences are of the sequences that the service still holds: the worst, the longest and the latest. They are no \
             uniform sample: the worst have more weight than they had in the run."
        }
    };
    facts.notes.push(kept.into());
    facts
}

/// The monitor's sums, and the sequences that are kept.
fn collect(state: &AppState, run: &str, views: &[GroupView]) -> Result<Collector, Problem> {
    let levels = state.config.verdict_levels();
    let mut collector = Collector::new(CollectorLimits::default());
    for view in views {
        collector.add_totals(&view.key.engine, &totals(view));
    }
    let known = |engine: &str| views.iter().any(|view| view.key.engine == engine);
    ledger::each_reported(state, run, |sequence: &StoredSequence| {
        // The one that was answered: of the same sums by the same levels.
        let judgement = levels.judge(&sequence.statistics);
        let findings = state.findings.of(&sequence.id).unwrap_or_default();
        collector.observe(&Observed {
            engine: if known(&sequence.engine) { &sequence.engine } else { GroupKey::OTHER },
            worker: sequence.worker.as_deref(),
            policy_version: sequence.policy_version.as_deref(),
            group: None,
            rollout: None,
            comparison: &sequence.comparison,
            statistics: &sequence.statistics,
            judgement: &judgement,
            findings: &findings,
            stored_id: Some(&sequence.id),
        });
    })?;
    Ok(collector)
}

fn totals(view: &GroupView) -> Totals {
    let points = |named: &[NamedPoint], rest: &PointSums| {
        let named = named.iter().map(|point| (point.name.clone(), point.sums));
        named.chain((rest.sequences > 0).then_some((None, *rest))).collect()
    };
    Totals {
        statistics: view.totals.statistics.clone(),
        clusters: view.totals.clusters.clone(),
        skipped: view.skipped,
        verdicts: view.verdicts,
        causes: view.diagnoses.clone(),
        workers: points(&view.workers, &view.other_workers),
        policy_versions: points(&view.versions, &view.earlier_versions),
    }
}
