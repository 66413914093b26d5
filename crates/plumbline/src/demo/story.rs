//! `plumbline demo --phase-seconds N`: traffic that goes on, for dashboards and alerts to watch. One run, as a training has one, whose
//! engine is healthy, misses a weight update, and recovers.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use plumbline_divergence::Verdict;
use reqwest::Client;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::recordings::{ENGINE, PHASES, Phase};
use super::replay::{self, Verdicts};
use super::say;

/// The `run` label of the whole story.
const RUN: &str = "demo";
/// Time between two groups: steady traffic that leaves a laptop usable.
const GROUP_INTERVAL: Duration = Duration::from_millis(500);

/// Plays the phases in turn, `phase` long each, ending healthy; again and again unless `once`.
///
/// # Errors
/// What the server refused, or a phase that did not look as it should.
pub(super) async fn tell(url: &str, phase: Duration, once: bool) -> anyhow::Result<()> {
    let client = Client::new();
    let reference = replay::wait_until_ready(&client, url).await?;
    say(&format!("Plumbline serves {reference} on {url}"))?;
    say(&format!("metrics of run=\"{RUN}\", engine=\"{ENGINE}\": {url}/metrics\n"))?;
    let [healthy, stale] = PHASES else { bail!("the story needs two phases") };
    let mut teller = Teller { client, endpoint: format!("{url}/v1/verifications"), posted: 0 };
    loop {
        for part in [healthy, stale, healthy] {
            say(&format!("{:14} for {} s: {}", part.title, phase.as_secs(), part.explanation))?;
            let verdicts = teller.play(part, phase).await?;
            let judged = Verdict::ALL.into_iter().filter(|verdict| *verdict != Verdict::Insufficient);
            let count = |verdict: Verdict| verdicts.get(verdict.as_str()).copied().unwrap_or(0);
            let most = judged.max_by_key(|verdict| count(*verdict)).unwrap_or(Verdict::Insufficient);
            let all = verdicts.values().sum::<u64>();
            say(&format!("{:14} {} ({} of {all} sequences)", part.title, most.as_str(), count(most)))?;
            ensure!(most == part.expected, "phase `{}` should be {}", part.title, part.expected.as_str());
        }
        if once {
            return Ok(());
        }
    }
}

struct Teller {
    client: Client,
    endpoint: String,
    /// Groups posted so far; makes the ids of sequences new, since a repeated sequence is answered from what is kept and counts nothing.
    posted: u64,
}

impl Teller {
    /// Posts the phase's groups, one at a time, until its time is over.
    async fn play(&mut self, phase: &Phase, length: Duration) -> anyhow::Result<Verdicts> {
        let groups = phase.groups()?;
        let mut verdicts = Verdicts::new();
        let began = Instant::now();
        let mut next = began;
        for group in groups.iter().cycle() {
            if began.elapsed() >= length {
                break;
            }
            let sequences = group.iter().map(|sequence| self.renamed(sequence)).collect::<anyhow::Result<Vec<_>>>()?;
            self.posted += 1;
            let body = json!({"run": RUN, "engine": ENGINE, "sequences": sequences});
            for verdict in replay::post(&self.client, &self.endpoint, &body).await? {
                *verdicts.entry(verdict).or_default() += 1;
            }
            next += GROUP_INTERVAL;
            sleep_until(next).await;
        }
        Ok(verdicts)
    }

    fn renamed(&self, sequence: &Value) -> anyhow::Result<Value> {
        let mut sequence = sequence.clone();
        let id = sequence["id"].as_str().context("a recorded sequence has no id")?;
        sequence["id"] = Value::String(format!("{id}#{}", self.posted));
        Ok(sequence)
    }
}
