//! The causes of a run: votes of its sequences, and what its workers, versions and cached prompts have in common.

use std::collections::BTreeMap;

use super::cause::Cause;
use super::finding::Finding;

/// One compared sequence of a run, healthy or not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RunSequence<'a> {
    /// Which worker sampled it.
    pub worker: Option<&'a str>,
    /// Version of the weights it was posted with.
    pub policy_version: Option<&'a str>,
    /// Prompt tokens that came from the engine's prefix cache, if it said so.
    pub cached_tokens: Option<usize>,
    /// Compared tokens.
    pub tokens: usize,
    /// Mean `|d|` in nats.
    pub mae: f64,
    /// What the floor expects of it, in nats.
    pub floor_mae: f64,
}

/// Sums of one part of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Part {
    sequences: u64,
    /// Sequences above [`LOUD`] floors.
    loud: u64,
    tokens: f64,
    deltas: f64,
    floors: f64,
}

/// Mean `|d|` in floors from which a sequence counts as different.
const LOUD: f64 = 1.7;
/// Labels that are kept; more share one part.
const MOST_LABELS: usize = 256;
/// Sequences on either side of a split.
const LEAST_SEQUENCES: u64 = 3;
/// A part is different at this multiple of the floor; the others are not below this one.
const DIFFERENT: f64 = 1.7;
const ALIKE: f64 = 1.4;
/// Share of the diagnosed sequences that must vote for a cause that is named.
const LEAST_VOTES: f64 = 0.1;
/// Causes that are named at most.
const MOST_FINDINGS: usize = 4;

/// Votes and splits of one run, over requests. Bounded: labels beyond the 256th share one part.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunDiagnosis {
    all: Part,
    workers: BTreeMap<String, Part>,
    cached: [Part; 2],
    versions: BTreeMap<String, Part>,
    votes: BTreeMap<Cause, Votes>,
    voters: f64,
}

/// Votes for one cause.
#[derive(Clone, Debug, Default, PartialEq)]
struct Votes {
    weight: f64,
    explained: f64,
    residual: f64,
    measured: f64,
    evidence: String,
    strongest: f64,
}

impl Votes {
    fn merge(&mut self, other: &Self) {
        self.weight += other.weight;
        self.explained += other.explained;
        self.residual += other.residual;
        self.measured += other.measured;
        if self.evidence.is_empty() || other.strongest > self.strongest {
            self.strongest = other.strongest;
            self.evidence.clone_from(&other.evidence);
        }
    }
}

impl Part {
    fn add(&mut self, sequence: &RunSequence<'_>) {
        let tokens = sequence.tokens as f64;
        self.sequences += 1;
        self.loud += u64::from(sequence.mae > LOUD * sequence.floor_mae);
        self.tokens += tokens;
        self.deltas += tokens * sequence.mae;
        self.floors += tokens * sequence.floor_mae;
    }

    fn merge(&mut self, other: &Self) {
        self.sequences += other.sequences;
        self.loud += other.loud;
        self.tokens += other.tokens;
        self.deltas += other.deltas;
        self.floors += other.floors;
    }

    fn without(&self, part: &Self) -> Self {
        Self {
            sequences: self.sequences - part.sequences,
            loud: self.loud - part.loud,
            tokens: self.tokens - part.tokens,
            deltas: self.deltas - part.deltas,
            floors: self.floors - part.floors,
        }
    }

    fn multiple(&self) -> f64 {
        if self.floors > 0.0 { self.deltas / self.floors } else { 0.0 }
    }

    /// Whether it differs, and in most of its sequences, where the others do not.
    fn stands_out_of(&self, others: &Self) -> bool {
        self.sequences >= LEAST_SEQUENCES
            && others.sequences >= LEAST_SEQUENCES
            && self.multiple() > DIFFERENT
            && others.multiple() < ALIKE
            && 2 * self.loud > self.sequences
            && 5 * others.loud < others.sequences
    }
}

/// The part of a label, or the one that labels beyond the limit share.
fn part<'a>(parts: &'a mut BTreeMap<String, Part>, label: &str) -> &'a mut Part {
    let label = if parts.contains_key(label) || parts.len() < MOST_LABELS { label } else { "" };
    parts.entry(label.to_owned()).or_default()
}

impl RunDiagnosis {
    /// Adds one compared sequence, healthy or not.
    pub fn observe(&mut self, sequence: &RunSequence<'_>) {
        if sequence.tokens == 0 || !sequence.mae.is_finite() || !sequence.floor_mae.is_finite() {
            return;
        }
        self.all.add(sequence);
        if let Some(worker) = sequence.worker {
            part(&mut self.workers, worker).add(sequence);
        }
        if let Some(version) = sequence.policy_version {
            part(&mut self.versions, version).add(sequence);
        }
        if let Some(cached) = sequence.cached_tokens {
            self.cached[usize::from(cached > 0)].add(sequence);
        }
    }

    /// Adds the findings of one diagnosed sequence, or of a whole request; empty ones are no vote.
    pub fn vote(&mut self, findings: &[Finding]) {
        if findings.is_empty() {
            return;
        }
        self.voters += 1.0;
        for (rank, finding) in findings.iter().enumerate() {
            let weight = 0.5f64.powi(rank as i32);
            let votes = self.votes.entry(finding.cause).or_default();
            votes.weight += weight;
            let strength = weight * finding.explained.unwrap_or(0.0);
            if votes.evidence.is_empty() || strength > votes.strongest {
                votes.strongest = strength;
                votes.evidence.clone_from(&finding.evidence);
            }
            if let (Some(explained), Some(residual)) = (finding.explained, finding.residual_floor_multiple) {
                votes.measured += weight;
                votes.explained += weight * explained;
                votes.residual += weight * residual;
            }
        }
    }

    /// Adds what another one saw of the same run.
    pub fn merge(&mut self, other: &Self) {
        self.all.merge(&other.all);
        for (own, others) in [(&mut self.workers, &other.workers), (&mut self.versions, &other.versions)] {
            others.iter().for_each(|(label, of_label)| part(own, label).merge(of_label));
        }
        self.cached.iter_mut().zip(&other.cached).for_each(|(own, other)| own.merge(other));
        self.voters += other.voters;
        for (cause, others) in &other.votes {
            self.votes.entry(*cause).or_default().merge(others);
        }
    }

    /// Sequences that were observed.
    #[must_use]
    pub fn sequences(&self) -> u64 {
        self.all.sequences
    }

    /// Ranked causes of the run; empty = nothing beyond noise.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = self.splits();
        let mut votes: Vec<(&Cause, &Votes)> =
            self.votes.iter().filter(|(_, votes)| votes.weight >= LEAST_VOTES * self.voters).collect();
        votes.sort_by(|a, b| b.1.weight.total_cmp(&a.1.weight));
        for (cause, votes) in votes {
            if findings.len() == MOST_FINDINGS {
                break;
            }
            if findings.iter().all(|finding| finding.cause != *cause) {
                let mean = |sum: f64| (votes.measured > 0.0).then(|| sum / votes.measured);
                findings.push(Finding {
                    cause: *cause,
                    explained: mean(votes.explained),
                    residual_floor_multiple: mean(votes.residual),
                    evidence: format!(
                        "{:.0} of {:.0} diagnoses name it; {}",
                        votes.weight, self.voters, votes.evidence
                    ),
                });
            }
        }
        if let (Some(first), Some(words)) = (findings.first_mut(), self.version_words()) {
            first.evidence.push_str(&words);
        }
        findings
    }

    /// Words for the one policy version that differs, if there is one.
    fn version_words(&self) -> Option<String> {
        let mut named = self.versions.iter().filter(|(version, _)| !version.is_empty());
        let (version, part) = named.find(|(_, part)| part.stands_out_of(&self.all.without(part)))?;
        let others = self.all.without(part).multiple();
        Some(format!(
            "; of all policy versions only {version} differs, {:.1} times the floor against {others:.1}",
            part.multiple()
        ))
    }

    /// What a worker, or cached prompts, have that the others have not.
    fn splits(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let finding = |cause, part: &Part, others: &Part, what: String| Finding {
            cause,
            explained: None,
            residual_floor_multiple: None,
            evidence: format!(
                "{what}: {:.1} times the floor over {} sequences, where the {} others are at {:.1}",
                part.multiple(),
                part.sequences,
                others.sequences,
                others.multiple()
            ),
        };
        // A cause that lies in the numbers themselves needs no worker to explain it, but which worker has it is worth saying.
        for (worker, part) in self.workers.iter().filter(|(worker, _)| !worker.is_empty()) {
            let others = self.all.without(part);
            if part.stands_out_of(&others) {
                findings.push(finding(
                    Cause::WorkerSpecific,
                    part,
                    &others,
                    format!("only the worker {worker} differs"),
                ));
            }
        }
        let [fresh, cached] = &self.cached;
        if cached.stands_out_of(fresh) {
            let what = "only sequences whose prompt came from the prefix cache differ".to_owned();
            findings.push(finding(Cause::StalePrefixCache, cached, fresh, what));
        }
        findings
    }

    /// Mean `|d|` in multiples of the floor by policy version, in the order of their names.
    #[must_use]
    pub fn by_version(&self) -> Vec<(&str, f64)> {
        self.versions.iter().map(|(version, part)| (version.as_str(), part.multiple())).collect()
    }
}

#[cfg(test)]
mod tests;
