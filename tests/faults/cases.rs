//! One case: a plant's rollouts scored, compared and diagnosed as the service does it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use plumbline_divergence::{
    Cause, Diagnosis, DiagnosisConfig, DiagnosisInput, Finding, Floor, RunDiagnosis, RunSequence, SequenceComparison,
    SuspectSequence, compare, diagnose,
};

use crate::floor::MeasuredFloor;
use crate::matrix::line;
use crate::plants::{Plant, Posted, Reference};
use crate::references::References;
use crate::world::World;

pub(crate) static WORLD: LazyLock<World> = LazyLock::new(World::load);

/// A plant and a seed, and what was named.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) plant: String,
    pub(crate) expected: &'static [&'static str],
    pub(crate) seed: u64,
    /// The run's first cause.
    pub(crate) run: Option<Cause>,
    /// The first cause of each request.
    pub(crate) requests: Vec<Option<Cause>>,
    /// The first cause of each sequence.
    pub(crate) sequences: Vec<Option<Cause>>,
    /// Mean `|d|` of the run in multiples of the floor.
    pub(crate) multiple: f64,
    /// Why the first cause of the first request that has one was named.
    pub(crate) evidence: String,
    pub(crate) probed_tokens: usize,
    /// Time of the engine, and of the reference and the diagnosis.
    pub(crate) took: [Duration; 2],
}

impl Outcome {
    /// What the case is said to be: the run's first cause.
    pub(crate) fn named(&self) -> &'static str {
        self.run.map_or("nothing", Cause::as_str)
    }

    pub(crate) fn is_right(&self) -> bool {
        if self.expected.is_empty() { self.run.is_none() } else { self.expected.contains(&self.named()) }
    }
}

/// Diagnoses every plant with every seed, on as many threads as there are cores.
pub(crate) fn outcomes(plants: &[Plant], seeds: std::ops::Range<u64>) -> Vec<Outcome> {
    // No two plants have the same seeds: prompts and lengths differ from case to case.
    let of_plant = |(index, plant)| seeds.clone().map(move |seed| (plant, 1000 * seed + index as u64));
    let cases: Vec<(&Plant, u64)> = plants.iter().enumerate().flat_map(of_plant).collect();
    let next = AtomicUsize::new(0);
    let found = Mutex::new(BTreeMap::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(cases.len());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut judges = [Reference::Plain, Reference::Adapted, Reference::TakenForExperts].map(Judge::new);
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some((plant, seed)) = cases.get(index) else { return };
                    let outcome = judges[plant.reference as usize].judge(plant, *seed);
                    println!("{}", line(&outcome));
                    found.lock().unwrap().insert(index, outcome);
                }
            });
        }
    });
    let found = found.into_inner().unwrap();
    assert_eq!(found.len(), cases.len(), "a case has no outcome");
    found.into_values().collect()
}

/// Seeds of the rollouts that the floor is measured on; no case has them.
const FLOOR_SEEDS: std::ops::Range<u64> = (1 << 40)..(1 << 40) + 4;

static FLOOR: LazyLock<MeasuredFloor> =
    LazyLock::new(|| MeasuredFloor::measure(&WORLD, &mut References::load(&WORLD, false), FLOOR_SEEDS));

/// Models and floor of one thread.
struct Judge {
    references: References<'static>,
}

impl Judge {
    fn new(reference: Reference) -> Self {
        let mut references = References::load(&WORLD, reference == Reference::Adapted);
        references.facts.mixture_of_experts = reference == Reference::TakenForExperts;
        Self { references }
    }

    fn judge(&mut self, plant: &Plant, seed: u64) -> Outcome {
        let started = Instant::now();
        let posted = plant.run(&WORLD, seed);
        let mut run = RunDiagnosis::default();
        let mut outcome = Outcome {
            plant: plant.name.clone(),
            expected: plant.expected,
            seed,
            run: None,
            requests: Vec::new(),
            sequences: Vec::new(),
            multiple: 0.0,
            evidence: String::new(),
            probed_tokens: 0,
            took: [started.elapsed(), Duration::ZERO],
        };
        let started = Instant::now();
        let (mut sum, mut expected) = (0.0, 0.0);
        let workers: std::collections::BTreeSet<usize> = posted.iter().map(|posted| posted.worker).collect();
        for worker in workers {
            let of_worker: Vec<&Posted> = posted.iter().filter(|posted| posted.worker == worker).collect();
            let (diagnosis, observed) = self.diagnose(&of_worker);
            let name = format!("w{worker}");
            for ((posted, sequence), diagnosed) in of_worker.iter().zip(&observed).zip(&diagnosis.sequences) {
                sum += sequence.mae * sequence.tokens as f64;
                expected += sequence.floor * sequence.tokens as f64;
                run.observe(&RunSequence {
                    worker: Some(&name),
                    policy_version: posted.rollout.policy_version.as_deref(),
                    cached_tokens: posted.cached_tokens,
                    tokens: sequence.tokens,
                    mae: sequence.mae,
                    floor_mae: sequence.floor,
                });
                run.vote(&diagnosed.findings);
                outcome.sequences.push(first(&diagnosed.findings));
            }
            outcome.requests.push(first(&diagnosis.request));
            outcome.probed_tokens += diagnosis.probed_tokens;
            if let Some(finding) = diagnosis.request.first().filter(|_| outcome.evidence.is_empty()) {
                outcome.evidence.clone_from(&finding.evidence);
            }
        }
        outcome.run = first(&run.findings());
        outcome.multiple = sum / expected;
        outcome.took[1] = started.elapsed();
        outcome
    }

    /// Diagnoses the rollouts of one request.
    fn diagnose(&mut self, posted: &[&Posted]) -> (Diagnosis, Vec<Level>) {
        let scores = self.references.score(posted.iter().map(|posted| &posted.rollout));
        let eos = self.references.facts.eos_token_ids.clone();
        let compared: Vec<SequenceComparison> = posted
            .iter()
            .zip(&scores)
            .map(|(posted, scores)| compare(&posted.rollout, scores, &eos).unwrap())
            .collect();
        let suspects: Vec<SuspectSequence<'_>> = posted
            .iter()
            .zip(scores.iter().zip(&compared))
            .map(|(posted, (scores, comparison))| SuspectSequence {
                rollout: &posted.rollout,
                scores,
                comparison,
                cached_tokens: posted.cached_tokens,
            })
            .collect();
        let facts = self.references.facts.clone();
        let input = DiagnosisInput { sequences: &suspects, model: &facts, floor: &*FLOOR };
        let diagnosis = diagnose(&input, &mut self.references, &DiagnosisConfig::default());
        (diagnosis, compared.iter().map(Level::of).collect())
    }
}

fn first(findings: &[Finding]) -> Option<Cause> {
    findings.first().map(|finding| finding.cause)
}

/// How far one sequence is off.
struct Level {
    tokens: usize,
    mae: f64,
    floor: f64,
}

impl Level {
    fn of(comparison: &SequenceComparison) -> Self {
        let tokens = comparison.tokens.iter().filter_map(|token| Some((token.compared()?, token.entropy?)));
        let mut level = Self { tokens: 0, mae: 0.0, floor: 0.0 };
        for ((engine, reference), entropy) in tokens {
            level.tokens += 1;
            level.mae += (reference - engine).abs();
            level.floor += FLOOR.token(entropy).mean_abs;
        }
        let count = level.tokens.max(1) as f64;
        Self { tokens: level.tokens, mae: level.mae / count, floor: level.floor / count }
    }
}
