//! Who takes part: engines of the command line, and engines that an earlier run has recorded.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use plumbline_engines::drivers::{Driver, DriverKind, Endpoint, HttpPolicy};
use serde_json::{Map, Value, json};

use super::arguments::CompareArguments;
use super::drive::Seat;
use super::engine_spec::EngineSpec;
use super::files;
use super::plan::{Plan, Task};

/// What the engines said of themselves, for runs that resume without them.
const FACTS_FILE: &str = "engines.json";

/// Facts by the engine's name.
pub(super) type EngineFacts = BTreeMap<String, Map<String, Value>>;

/// What the log of an earlier run holds of one engine.
#[derive(Debug)]
pub(super) struct Recorded {
    pub(super) kind: DriverKind,
    pub(super) done: BTreeSet<Task>,
}

/// Checks the command line; nothing is asked yet.
pub(super) fn check(arguments: &CompareArguments) -> anyhow::Result<()> {
    if let Some((field, value, reason)) = arguments.sampling().violations().into_iter().next() {
        bail!("--{} {value} {reason}", field.replace('_', "-"));
    }
    let mut names = BTreeSet::new();
    for EngineSpec { name, .. } in &arguments.engines {
        ensure!(names.insert(name), "two engines are called {name:?}: name them, as in --engine bf16=vllm@URL");
    }
    let unknown = arguments.unknown_names();
    ensure!(unknown.is_empty(), "no --engine is called {}", unknown.join(", "));
    for EngineSpec { name, kind, .. } in &arguments.engines {
        let mode = CompareArguments::of(&arguments.engine_logprobs_mode, name);
        if kind.default_logprobs_mode().is_none() && mode.is_none() && !arguments.sampling().is_neutral() {
            bail!(
                "what the logprobs of {name:?} mean is not known, and with these sampling parameters it matters: say it with \
                 --engine-logprobs-mode {name}=raw|temperature|processed"
            );
        }
    }
    Ok(())
}

/// Connects to every engine that has something to do; one that is only recorded, or has all its work done and does not
/// answer, takes part as a recording.
pub(super) async fn take(
    arguments: &CompareArguments,
    plan: &Plan,
    recorded: &BTreeMap<String, Recorded>,
    out: &Path,
    notes: &mut Vec<String>,
) -> anyhow::Result<(Vec<Seat>, EngineFacts)> {
    let path = out.join(FACTS_FILE);
    let mut facts: EngineFacts = if path.exists() { files::read_json(&path)? } else { EngineFacts::new() };
    let mut seats = Vec::new();
    for spec in &arguments.engines {
        let before = recorded.get(&spec.name);
        if let Some(before) = before {
            ensure!(
                before.kind == spec.kind,
                "{:?} is {} in the run that is resumed, not {}",
                spec.name,
                before.kind,
                spec.kind
            );
        }
        let todo: Vec<Task> =
            plan.tasks().filter(|task| before.is_none_or(|before| !before.done.contains(task))).collect();
        let driver = match connect(arguments, spec).await {
            Ok(driver) => {
                facts.insert(spec.name.clone(), driver.facts().clone());
                Some(driver)
            }
            Err(error) if todo.is_empty() => {
                notes.push(format!("{}: only its recorded exchanges are used: {error:#}", spec.name));
                None
            }
            Err(error) => return Err(error),
        };
        let logprobs_mode = CompareArguments::of(&arguments.engine_logprobs_mode, &spec.name).map(|mode| mode.0);
        seats.push(Seat { name: spec.name.clone(), kind: spec.kind, logprobs_mode, driver, todo });
    }
    for (name, before) in recorded {
        if !seats.iter().any(|seat| seat.name == *name) {
            let (kind, missing) = (before.kind, plan.tasks().count() - before.done.len());
            if missing > 0 {
                notes.push(format!("{name}: {missing} completions are missing, and it was not given with --engine"));
            }
            facts.entry(name.clone()).or_insert_with(|| Map::from_iter([("engine".into(), json!(kind.as_str()))]));
            seats.push(Seat { name: name.clone(), kind, logprobs_mode: None, driver: None, todo: Vec::new() });
        }
    }
    ensure!(!seats.is_empty(), "{} holds no engine, and none was given with --engine", out.display());
    files::write_json(&path, &facts)?;
    Ok((seats, facts))
}

async fn connect(arguments: &CompareArguments, spec: &EngineSpec) -> anyhow::Result<Driver> {
    let key = CompareArguments::of(&arguments.engine_key, &spec.name);
    let endpoint = Endpoint {
        kind: spec.kind,
        url: spec.url.clone(),
        key: key.map(|source| source.read()).transpose()?,
        model: CompareArguments::of(&arguments.engine_model, &spec.name).cloned(),
    };
    let policy = HttpPolicy {
        request_timeout: Duration::from_secs(arguments.request_timeout),
        attempts: arguments.attempts,
        concurrency: arguments.concurrency,
        authorities: arguments.engine_ca.clone(),
        ..HttpPolicy::default()
    };
    Driver::connect(endpoint, policy).await.with_context(|| format!("engine {:?}", spec.name))
}
