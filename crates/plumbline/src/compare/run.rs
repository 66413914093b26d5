//! The order of things.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::Context;
use tokio::sync::watch;

use super::arguments::CompareArguments;
use super::cross::{self, Samples};
use super::crossing::Crossing;
use super::drive::{self, Event, Seat};
use super::files::Log;
use super::plan::{Plan, Task};
use super::prompts;
use super::record::Record;
use super::scoring::{self, CompareEnding, INTERRUPTED, Interrupt, Progress, Scorer};
use super::seats::{self, Recorded};
use crate::threads;

/// Name of the exchanges in the output folder.
const FILE: &str = "exchanges.jsonl";
/// Reasons of one engine that are repeated in the report; further ones are counted.
const REASONS: usize = 5;

/// Exit code and what is printed.
pub(super) async fn run(arguments: &CompareArguments) -> anyhow::Result<(u8, String)> {
    seats::check(arguments)?;
    let prompts = prompts::read(&arguments.prompts, arguments.prompt_field.as_deref(), arguments.limit)?;
    let config = arguments.offline.load()?;
    threads::use_threads(config.threads)?;
    let interrupt = Interrupt::listen()?;
    let mut scorer = tokio::select! {
        scorer = Scorer::open(&arguments.offline, config, &interrupt) => scorer?,
        () = interrupt.asked() => return Ok((INTERRUPTED, String::new())),
    };
    let out = scoring::out(&arguments.offline);
    let tokenizer = scorer.tokenizer().map(Arc::clone);
    let plan = Arc::new(Plan::prepare(arguments, &prompts, tokenizer.as_deref(), out)?);
    let log = Log::<Record>::open(&out.join(FILE))?;
    let recorded = recorded(&log, &plan)?;
    let mut notes = Vec::new();
    let (seats, engine_facts) = seats::take(arguments, &plan, &recorded, out, &mut notes).await?;
    let seats: Vec<Arc<Seat>> = seats.into_iter().map(Arc::new).collect();

    let mut table = Table {
        plan: &plan,
        seats: &seats,
        samples: vec![Samples::new(); seats.len()],
        log,
        problems: Problems::default(),
    };
    table.replay(&mut scorer, &interrupt).await?;
    table.drive(&mut scorer, arguments.concurrency, &interrupt).await?;
    let cross = if arguments.no_cross || seats.len() < 2 {
        Vec::new()
    } else {
        table.cross(arguments.concurrency, &interrupt, out, scorer.scored_tokens()).await?
    };

    let Table { samples, problems, .. } = table;
    let asked = plan.tasks().count();
    for (seat, samples) in seats.iter().zip(&samples) {
        if samples.len() < asked {
            notes.push(format!("{}: {} of {asked} completions were compared", seat.name, samples.len()));
        }
    }
    let unusable = problems.summary();
    notes.extend(problems.sentences());
    let interrupted = interrupt.is_asked();
    if interrupted {
        notes.push("interrupted: this report covers what had been answered until then".into());
    }
    let printed_cross = (!cross.is_empty()).then(|| cross::table(&cross));
    let printed_notes = notes.clone();
    let outcome = scorer.finish(CompareEnding { notes, engine_facts, cross, unusable, interrupted }).await?;
    let mut text = outcome.table();
    for part in printed_cross.into_iter().chain(printed_notes.into_iter().map(|note| format!("note: {note}"))) {
        text.push('\n');
        text.push_str(&part);
    }
    Ok((outcome.exit_code, text))
}

/// What the log holds of each engine.
fn recorded(log: &Log<Record>, plan: &Plan) -> anyhow::Result<BTreeMap<String, Recorded>> {
    let mut engines = BTreeMap::new();
    for record in log.read()? {
        let record = record?;
        let kind = record.driver.parse().map_err(anyhow::Error::msg)?;
        let task = task(plan, &record)?;
        let engine = engines.entry(record.engine).or_insert_with(|| Recorded { kind, done: Default::default() });
        engine.done.insert(task);
    }
    Ok(engines)
}

fn task(plan: &Plan, record: &Record) -> anyhow::Result<Task> {
    let found = plan.task(&record.group, record.sample);
    found.with_context(|| format!("exchange {:?} is of no prompt of this run", record.id))
}

/// What went wrong, by engine.
#[derive(Debug, Default)]
struct Problems(BTreeMap<String, Vec<String>>);

impl Problems {
    fn add(&mut self, engine: &str, reason: String) {
        tracing::warn!(engine, reason, "a completion cannot be used");
        self.0.entry(engine.to_owned()).or_default().push(reason);
    }

    /// Why the exit code is what it is.
    fn summary(&self) -> Option<String> {
        let count: usize = self.0.values().map(Vec::len).sum();
        let engines: Vec<&str> = self.0.keys().map(String::as_str).collect();
        (count > 0).then(|| format!("{count} things went wrong with {}; the notes say what", engines.join(", ")))
    }

    fn sentences(self) -> impl Iterator<Item = String> {
        self.0.into_iter().map(|(engine, reasons)| {
            let shown = reasons.iter().take(REASONS).map(String::as_str).collect::<Vec<_>>().join("; ");
            match reasons.len() - reasons.len().min(REASONS) {
                0 => format!("{engine}: {shown}"),
                more => format!("{engine}: {shown}; and {more} more"),
            }
        })
    }
}

/// Everybody's samples.
struct Table<'a> {
    plan: &'a Arc<Plan>,
    seats: &'a [Arc<Seat>],
    samples: Vec<Samples>,
    log: Log<Record>,
    problems: Problems,
}

impl Table<'_> {
    /// Scores what an earlier run has recorded.
    async fn replay(&mut self, scorer: &mut Scorer, interrupt: &Interrupt) -> anyhow::Result<()> {
        for record in self.log.read()? {
            if interrupt.is_asked() {
                break;
            }
            let record = record?;
            let task = task(self.plan, &record)?;
            let seat = self.seats.iter().position(|seat| seat.name == record.engine);
            let seat = seat.with_context(|| format!("nobody is called {:?}", record.engine))?;
            self.score(scorer, seat, task, &record).await?;
        }
        Ok(())
    }

    /// Asks the engines, keeps what they answer, scores it.
    async fn drive(&mut self, scorer: &mut Scorer, concurrency: usize, interrupt: &Interrupt) -> anyhow::Result<()> {
        let count = self.seats.iter().map(|seat| seat.todo.len() as u64).sum();
        let done = Arc::<AtomicU64>::default();
        let _progress = Progress::count(count, Arc::clone(&done), scorer.scored_tokens());
        let (stop, stopped) = watch::channel(interrupt.is_asked());
        let mut events = drive::start(self.seats, self.plan, concurrency, &stopped);
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                () = interrupt.asked(), if !*stop.borrow() => {
                    stop.send_replace(true);
                    continue;
                }
            };
            match event {
                None => break,
                Some(Event::Answered { seat, task, answer }) => {
                    let engine = Arc::clone(&self.seats[seat]);
                    let record = Record::new(&engine.name, engine.kind, engine.logprobs_mode, self.plan, task, answer);
                    self.log.append(&record)?;
                    self.score(scorer, seat, task, &record).await?;
                    done.fetch_add(1, Relaxed);
                }
                Some(Event::Failed { seat, task, error }) => {
                    let prompt = &self.plan.prompts[task.prompt].id;
                    let reason = format!("prompt {prompt} sample {}: {error}", task.sample);
                    self.problems.add(&self.seats[seat].name, reason);
                    done.fetch_add(1, Relaxed);
                }
                Some(Event::GaveUp { seat, left }) => {
                    self.problems
                        .add(&self.seats[seat].name, format!("not asked any more, {left} completions are missing"));
                }
            }
        }
        Ok(())
    }

    async fn score(&mut self, scorer: &mut Scorer, seat: usize, task: Task, record: &Record) -> anyhow::Result<()> {
        match scorer.take(record, self.plan, task).await? {
            Ok(sampled) => {
                self.samples[seat].insert(task, sampled);
            }
            Err(reason) => self.problems.add(&record.engine, format!("{}: {reason}", record.id)),
        }
        Ok(())
    }

    async fn cross(
        &self,
        concurrency: usize,
        interrupt: &Interrupt,
        out: &Path,
        scored_tokens: Arc<AtomicU64>,
    ) -> anyhow::Result<Vec<cross::Crossed>> {
        let (plan, seats, samples) = (self.plan, self.seats, &self.samples);
        Crossing { plan, seats, samples, concurrency, interrupt, scored_tokens }.run(out).await
    }
}
