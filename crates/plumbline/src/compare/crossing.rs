//! Asks engines for the logprobs of what others sampled, and compares.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::Context;
use plumbline_core::{LogprobsMode, TokenId};
use plumbline_engines::drivers::DriverError;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::cross::{Crossed, Samples, common_beginning, same_meaning};
use super::drive::Seat;
use super::files::Log;
use super::plan::{Plan, Task};
use super::scoring::{Interrupt, Progress, Sampled};

/// Name of the scores in the output folder.
const FILE: &str = "scores.jsonl";

/// One line of `scores.jsonl`: an engine's logprobs of what another sampled.
#[derive(Serialize, Deserialize)]
struct Score {
    scored_by: String,
    sampled_by: String,
    group: String,
    sample: usize,
    /// The tokens that were scored: a resumed run must not take them for others.
    completion_token_ids: Vec<TokenId>,
    /// Raw, at temperature 1, in nats.
    logprobs: Vec<f64>,
}

/// Scores by scorer, sampler and task.
type Known = BTreeMap<(String, String, Task), (Vec<TokenId>, Vec<f64>)>;

/// All engines against all others. `samples` are those of the seats, in their order.
pub(super) struct Crossing<'a> {
    pub(super) plan: &'a Plan,
    pub(super) seats: &'a [Arc<Seat>],
    pub(super) samples: &'a [Samples],
    pub(super) concurrency: usize,
    pub(super) interrupt: &'a Interrupt,
    pub(super) scored_tokens: Arc<AtomicU64>,
}

impl Crossing<'_> {
    /// Every ordered pair of engines.
    pub(super) async fn run(&self, out: &Path) -> anyhow::Result<Vec<Crossed>> {
        let mut log = Log::<Score>::open(&out.join(FILE))?;
        let mut known = Known::new();
        for score in log.read()? {
            let Score { scored_by, sampled_by, group, sample, completion_token_ids, logprobs } = score?;
            if let Some(task) = self.plan.task(&group, sample) {
                known.insert((scored_by, sampled_by, task), (completion_token_ids, logprobs));
            }
        }
        let mut crossed = Vec::new();
        for sampler in 0..self.seats.len() {
            for scorer in (0..self.seats.len()).filter(|scorer| *scorer != sampler) {
                crossed.push(self.pair(sampler, scorer, &mut log, &mut known).await?);
            }
        }
        Ok(crossed)
    }

    async fn pair(
        &self,
        sampler: usize,
        scorer: usize,
        log: &mut Log<Score>,
        known: &mut Known,
    ) -> anyhow::Result<Crossed> {
        let (by, other) = (&self.seats[sampler], &self.seats[scorer]);
        let mut crossed = Crossed::new(&by.name, &other.name);
        let key = |task: Task| (other.name.clone(), by.name.clone(), task);
        let alike = |task: &Task, sampled: &Sampled| {
            let theirs = self.samples[scorer].get(task)?;
            same_meaning(sampled.mode, theirs.mode, &self.plan.sampling).then_some(theirs)
        };
        let unknown: Vec<Task> = self.samples[sampler]
            .iter()
            .filter(|(task, sampled)| {
                let same = alike(task, sampled).is_some_and(|theirs| theirs.completion == sampled.completion);
                let scored = known.get(&key(**task)).is_some_and(|(tokens, _)| *tokens == sampled.completion);
                !same && !scored && self.is_raw(sampled)
            })
            .map(|(task, _)| *task)
            .collect();
        let reason = self.ask(sampler, scorer, unknown, log, known).await?;
        for (task, sampled) in &self.samples[sampler] {
            let id = format!("{}/{}", self.plan.prompts[task.prompt].id, task.sample);
            let theirs = alike(task, sampled);
            if let Some(theirs) = theirs.filter(|theirs| theirs.completion == sampled.completion) {
                crossed.same += 1;
                crossed.observe(&id, sampled, &theirs.logprobs);
            } else if let Some((tokens, scores)) = known.get(&key(*task))
                && *tokens == sampled.completion
                && self.is_raw(sampled)
            {
                crossed.asked += 1;
                crossed.observe(&id, sampled, &scores.iter().copied().map(Some).collect::<Vec<_>>());
            } else if let Some(theirs) = theirs
                && common_beginning(sampled, theirs) > 0
            {
                crossed.beginnings += 1;
                crossed.observe(&id, sampled, &theirs.logprobs[..common_beginning(sampled, theirs)]);
            }
        }
        crossed.explain(reason.as_deref());
        Ok(crossed)
    }

    /// What engines say of given tokens is raw: it can be laid beside raw logprobs only.
    fn is_raw(&self, sampled: &Sampled) -> bool {
        same_meaning(sampled.mode, LogprobsMode::Raw, &self.plan.sampling)
    }

    /// Asks for what is unknown yet. Says why something was not asked or not answered, if so.
    async fn ask(
        &self,
        sampler: usize,
        scorer: usize,
        tasks: Vec<Task>,
        log: &mut Log<Score>,
        known: &mut Known,
    ) -> anyhow::Result<Option<String>> {
        let (by, seat) = (&self.seats[sampler], &self.seats[scorer]);
        if tasks.is_empty() {
            return Ok(None);
        }
        match &seat.driver {
            None => return Ok(Some(format!("{} is only there as a recording and cannot be asked", seat.name))),
            Some(driver) if !driver.can_score() => {
                let reason = driver.score(&[0], &[0]).await.err();
                return Ok(reason.map(|reason| reason.to_string()));
            }
            Some(_) => {}
        }
        let done = Arc::<AtomicU64>::default();
        let progress = Progress::count(tasks.len() as u64, Arc::clone(&done), Arc::clone(&self.scored_tokens));
        progress.say(&format!("{} scores what {} sampled", seat.name, by.name));
        let mut todo = tasks.into_iter();
        let mut running: JoinSet<(Task, Result<Vec<f64>, DriverError>)> = JoinSet::new();
        let (mut failed, mut first_error) = (0_usize, None);
        loop {
            while running.len() < self.concurrency && first_error.is_none() && !self.interrupt.is_asked() {
                let Some(task) = todo.next() else { break };
                let (seat, prompt) = (Arc::clone(seat), self.plan.prompts[task.prompt].token_ids.clone());
                let completion = self.samples[sampler][&task].completion.clone();
                running.spawn(async move {
                    match &seat.driver {
                        Some(driver) => (task, driver.score(&prompt, &completion).await),
                        None => (task, Err(DriverError::NotSupported("a recording cannot be asked"))),
                    }
                });
            }
            let joined = tokio::select! {
                joined = running.join_next() => joined,
                () = self.interrupt.asked() => break,
            };
            let Some(joined) = joined else { break };
            let (task, answered) = joined.context("a request ended unexpectedly")?;
            match answered {
                Ok(logprobs) => {
                    let completion = self.samples[sampler][&task].completion.clone();
                    let score = Score {
                        scored_by: seat.name.clone(),
                        sampled_by: by.name.clone(),
                        group: self.plan.prompts[task.prompt].id.clone(),
                        sample: task.sample,
                        completion_token_ids: completion.clone(),
                        logprobs: logprobs.clone(),
                    };
                    log.append(&score)?;
                    known.insert((seat.name.clone(), by.name.clone(), task), (completion, logprobs));
                }
                Err(error) => {
                    failed += 1;
                    first_error.get_or_insert(error.to_string());
                }
            }
            done.fetch_add(1, Relaxed);
        }
        let left = todo.count() + running.len() + failed;
        Ok(match first_error {
            Some(error) => Some(format!("{left} sequences are not scored: {error}")),
            None if left > 0 => Some(format!("{left} sequences are not scored: interrupted")),
            None => None,
        })
    }
}
