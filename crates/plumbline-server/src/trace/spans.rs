//! What is kept of a trace.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::context::TraceContext;

/// Stages of a trace that are kept: a body of ten thousand lines has more. What is beyond is counted.
const MAX_STAGES: usize = 512;

/// One stage of a request's way.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Its name.
    pub name: &'static str,
    /// When it began.
    pub started_at: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// What is said of it.
    pub attributes: Vec<(&'static str, Value)>,
}

/// What an attribute says.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number of things.
    Count(u64),
}

/// A trace that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct FinishedTrace {
    /// What it is known by.
    pub context: TraceContext,
    /// What it was: a method and a route, or a kind of work.
    pub name: String,
    /// When it began.
    pub started_at: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// What is said of it.
    pub attributes: Vec<(&'static str, Value)>,
    /// Its stages, in the order in which they ended.
    pub stages: Vec<Stage>,
    /// Stages that were not kept.
    pub stages_left_out: u64,
    /// Whether the server failed.
    pub failed: bool,
}

/// A request, or other work, under way.
#[derive(Debug)]
pub(crate) struct Trace {
    context: TraceContext,
    recorded: bool,
    started_at: SystemTime,
    started: Instant,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    attributes: Vec<(&'static str, Value)>,
    stages: Vec<Stage>,
    left_out: u64,
}

impl Trace {
    /// One that begins now. `recorded`: whether anything but its ids is kept.
    pub(crate) fn new(context: TraceContext, recorded: bool) -> Self {
        Self { context, recorded, started_at: SystemTime::now(), started: Instant::now(), kept: Mutex::default() }
    }

    pub(crate) fn context(&self) -> &TraceContext {
        &self.context
    }

    pub(super) fn is_recorded(&self) -> bool {
        self.recorded
    }

    pub(crate) fn add(&self, stage: Stage) {
        let mut kept = self.kept();
        if kept.stages.len() < MAX_STAGES {
            kept.stages.push(stage);
        } else {
            kept.left_out += 1;
        }
    }

    pub(crate) fn describe(&self, attributes: Vec<(&'static str, Value)>) {
        self.kept().attributes.extend(attributes);
    }

    pub(super) fn finish(&self, name: String, failed: bool) -> FinishedTrace {
        let Kept { attributes, stages, left_out } = std::mem::take(&mut *self.kept());
        FinishedTrace {
            context: self.context.clone(),
            name,
            started_at: self.started_at,
            took: self.started.elapsed(),
            attributes,
            stages,
            stages_left_out: left_out,
            failed,
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Pushing to lists leaves nothing half done.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_the_limit_is_counted() {
        let trace = Trace::new(TraceContext::new(true), true);
        let stage = Stage { name: "x", started_at: SystemTime::now(), took: Duration::ZERO, attributes: Vec::new() };
        (0..MAX_STAGES + 3).for_each(|_| trace.add(stage.clone()));
        let finished = trace.finish("x".into(), true);
        assert_eq!((finished.stages.len(), finished.stages_left_out, finished.failed), (MAX_STAGES, 3, true));
    }
}
