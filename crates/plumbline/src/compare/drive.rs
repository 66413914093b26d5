//! Makes all engines answer, several requests at once each.

use std::sync::Arc;

use plumbline_core::LogprobsMode;
use plumbline_engines::drivers::{Answer, Driver, DriverError, DriverKind};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::plan::{Plan, Task};

/// Failures in a row after which an engine is not asked any more.
const FAILURES_IN_A_ROW: usize = 8;
/// Answers that may wait to be scored; then the engines wait.
const WAITING_ANSWERS: usize = 64;

/// An engine at the table.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) name: String,
    pub(super) kind: DriverKind,
    /// What its logprobs mean, if the command line says so.
    pub(super) logprobs_mode: Option<LogprobsMode>,
    /// `None`: only recorded exchanges are there.
    pub(super) driver: Option<Driver>,
    /// What it has not answered yet.
    pub(super) todo: Vec<Task>,
}

/// What happened.
#[derive(Debug)]
pub(super) enum Event {
    Answered {
        seat: usize,
        task: Task,
        answer: Answer,
    },
    Failed {
        seat: usize,
        task: Task,
        error: DriverError,
    },
    /// It is not asked any more; `left` tasks are not done.
    GaveUp {
        seat: usize,
        left: usize,
    },
}

/// Starts to ask every engine for what it has to do. The channel closes when all are done or `stop` becomes true; requests
/// under way are then dropped.
pub(super) fn start(
    seats: &[Arc<Seat>],
    plan: &Arc<Plan>,
    concurrency: usize,
    stop: &watch::Receiver<bool>,
) -> mpsc::Receiver<Event> {
    let (events, received) = mpsc::channel(WAITING_ANSWERS);
    for (index, seat) in seats.iter().enumerate() {
        let asked = Asked { index, seat: Arc::clone(seat), plan: Arc::clone(plan), events: events.clone() };
        tokio::spawn(asked.run(concurrency, stop.clone()));
    }
    received
}

struct Asked {
    index: usize,
    seat: Arc<Seat>,
    plan: Arc<Plan>,
    events: mpsc::Sender<Event>,
}

impl Asked {
    async fn run(self, concurrency: usize, mut stop: watch::Receiver<bool>) {
        let mut todo = self.seat.todo.iter().copied();
        let mut running = JoinSet::new();
        let (mut failures, mut gave_up) = (0, false);
        loop {
            while running.len() < concurrency && !gave_up {
                let Some(task) = todo.next() else { break };
                let (seat, ask) = (Arc::clone(&self.seat), self.plan.ask(task));
                running.spawn(async move {
                    match &seat.driver {
                        Some(driver) => (task, driver.generate(&ask).await),
                        None => (task, Err(DriverError::NotSupported("the engine is only there as a recording"))),
                    }
                });
            }
            let joined = tokio::select! {
                joined = running.join_next() => joined,
                () = stopped(&mut stop) => return,
            };
            let (task, result) = match joined {
                None => break,
                Some(Ok(done)) => done,
                Some(Err(error)) => {
                    // A defect: it must not look like an answer.
                    tracing::error!(engine = self.seat.name, %error, "a request ended unexpectedly");
                    gave_up = true;
                    continue;
                }
            };
            let event = match result {
                Ok(answer) => {
                    failures = 0;
                    Event::Answered { seat: self.index, task, answer }
                }
                Err(error) => {
                    failures += 1;
                    gave_up |= failures >= FAILURES_IN_A_ROW || is_hopeless(&error);
                    Event::Failed { seat: self.index, task, error }
                }
            };
            if self.events.send(event).await.is_err() {
                return;
            }
        }
        if gave_up {
            // Nobody listens any more only where the run has ended.
            let _ = self.events.send(Event::GaveUp { seat: self.index, left: todo.count() }).await;
        }
    }
}

/// Waits for the word to stop; a sender that is gone means that nobody waits any more.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _gone = stop.wait_for(|stop| *stop).await.is_err();
}

/// The next request would fail alike.
fn is_hopeless(error: &DriverError) -> bool {
    matches!(
        error,
        DriverError::Unreachable { .. }
            | DriverError::WaitTooLong { .. }
            | DriverError::MissingTokenIds(_)
            | DriverError::NotSupported(_)
    ) || matches!(error.status(), Some(401 | 403 | 404))
}
