//! A report of what is in this repository: a real vLLM with the current weights and the same one with stale weights, scored and
//! diagnosed with the embedded model and the version before it. `tests/report/check.sh` looks at what it writes.
//!
//! `recordings OUT`: report.json, report.html, report.xlsx, report.png and tokens.parquet.

use std::error::Error;
use std::path::{Path, PathBuf};

use plumbline_core::{
    LogprobsMode, PackedBatch, Processing, ReferenceModel, Rollout, ScoringSequence, TokenScores, Variant,
};
use plumbline_divergence::{
    ClusteredSums, Diagnosis, DiagnosisConfig, DiagnosisInput, FloorCurve, FloorHead, FloorSample, ModelFacts,
    NoiseFloor, ProbeError, Prober, RunDiagnosis, RunSequence, SequenceComparison, SufficientStatistics,
    SuspectSequence, VerdictLevels, compare, diagnose,
};
use plumbline_model::{CandleReference, LoadOptions, ModelSource, Tokenizer};
use plumbline_report::{
    Collector, CollectorLimits, CrossComparison, EngineFacts, Facts, Observed, TableFacts, TokenTable, TokenText,
};
use serde_json::{Value, json};

/// Label, recording, worker.
const ENGINES: [(&str, &str); 2] = [("vllm 0.32 bf16", "tiny-bf16-raw"), ("vllm 0.32 bf16, stale", "tiny-bf16-stale")];
const WORKERS: [&str; 3] = ["w0", "w1", "w2"];
const BF16: Variant = Variant::Bf16 { head: true };
const BATCH: usize = 8;
const TIME: &str = "2026-01-01T00:00:00Z";

#[derive(Debug)]
struct Text(Tokenizer);

impl TokenText for Text {
    fn pieces(&self, token_ids: &[u32]) -> Vec<String> {
        self.0.pieces(token_ids).into_iter().map(|piece| piece.text).collect()
    }
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn rollouts(name: &str) -> Result<Vec<(Rollout, String)>, Box<dyn Error>> {
    let text = std::fs::read_to_string(repository(&format!("crates/plumbline/assets/recordings/{name}.jsonl")))?;
    let rollout = |line: &str| -> Result<_, Box<dyn Error>> {
        let line: Value = serde_json::from_str(line)?;
        let rollout = Rollout {
            id: serde_json::from_value(line["id"].clone())?,
            prompt_token_ids: serde_json::from_value(line["prompt_token_ids"].clone())?,
            completion_token_ids: serde_json::from_value(line["completion_token_ids"].clone())?,
            logprobs: serde_json::from_value(line["logprobs"].clone())?,
            loss_mask: None,
            sampling: serde_json::from_value(line["sampling"].clone())?,
            logprobs_mode: LogprobsMode::Raw,
            finish_reason: serde_json::from_value(line["finish_reason"].clone())?,
            policy_version: Some("2".into()),
            weight_versions: Vec::new(),
        };
        Ok((rollout, serde_json::from_value(line["group"].clone())?))
    };
    text.lines().map(rollout).collect()
}

fn scoring(rollout: &Rollout) -> ScoringSequence {
    let token_ids = [&rollout.prompt_token_ids[..], &rollout.completion_token_ids].concat();
    ScoringSequence {
        scored: rollout.first_scorable()..token_ids.len(),
        token_ids,
        prompt_tokens: rollout.prompt_token_ids.len(),
        processing: Processing::at_temperature(1.0),
        policy_version: None,
    }
}

/// Both versions of the policy, the older one first; the newer one is the reference.
struct Versions([CandleReference; 2]);

impl Versions {
    fn of(&mut self, version: Option<&str>) -> &mut CandleReference {
        &mut self.0[usize::from(version != Some("1"))]
    }

    fn answer(&mut self, all: &[ScoringSequence], variant: Option<&Variant>) -> Result<Vec<TokenScores>, ProbeError> {
        let mut scores = Vec::with_capacity(all.len());
        for sequence in all {
            let batch = PackedBatch::pack([sequence]);
            let model = self.of(sequence.policy_version.as_deref());
            scores.extend(match variant {
                None => model.score(&batch)?.sequences,
                Some(variant) => model.score_variant(&batch, variant)?.sequences,
            });
        }
        Ok(scores)
    }
}

impl Prober for Versions {
    fn rescore(&mut self, sequences: &[ScoringSequence]) -> Result<Vec<TokenScores>, ProbeError> {
        self.answer(sequences, None)
    }

    fn variant(&mut self, sequences: &[ScoringSequence], variant: &Variant) -> Result<Vec<TokenScores>, ProbeError> {
        self.answer(sequences, Some(variant))
    }

    fn logits(
        &mut self,
        sequence: &ScoringSequence,
        places: &[usize],
        visit: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), ProbeError> {
        Ok(self.of(sequence.policy_version.as_deref()).logits(sequence, places, visit)?)
    }

    fn supports(&self, variant: &Variant) -> bool {
        self.0[1].supports(variant)
    }

    fn versions(&self) -> Vec<String> {
        vec!["1".into(), "2".into()]
    }
}

fn scores(
    model: &mut CandleReference,
    all: &[ScoringSequence],
    variant: Option<&Variant>,
) -> Result<Vec<TokenScores>, Box<dyn Error>> {
    let mut scores = Vec::with_capacity(all.len());
    for batch in all.chunks(BATCH) {
        let batch = PackedBatch::pack_shared(batch);
        scores.extend(match variant {
            None => model.score(&batch)?.sequences,
            Some(variant) => model.score_variant(&batch, variant)?.sequences,
        });
    }
    Ok(scores)
}

/// How far a simulated bf16 engine is from the reference on these sequences.
fn floor(model: &mut CandleReference, all: &[ScoringSequence]) -> Result<NoiseFloor, Box<dyn Error>> {
    let mut floor = NoiseFloor::default();
    let (exact, rounded) = (scores(model, all, None)?, scores(model, all, Some(&BF16))?);
    for (exact, rounded) in exact.iter().zip(&rounded) {
        let pairs = exact.logprobs.iter().zip(&rounded.logprobs).zip(&exact.entropy);
        let sample =
            |((a, b), entropy): ((&f64, &f64), &f64)| FloorSample { entropy: *entropy, abs_delta: (a - b).abs() };
        floor.observe_sequence(FloorHead::USED, &pairs.map(sample).collect::<Vec<_>>());
    }
    Ok(floor)
}

/// One recording, scored and diagnosed.
struct Scored {
    rollouts: Vec<(Rollout, String)>,
    comparisons: Vec<SequenceComparison>,
    statistics: Vec<SufficientStatistics>,
    diagnosis: Diagnosis,
    run: RunDiagnosis,
}

fn scored(name: &str, models: &mut Versions, curve: &FloorCurve) -> Result<Scored, Box<dyn Error>> {
    let rollouts = rollouts(name)?;
    let sequences: Vec<_> = rollouts.iter().map(|(rollout, _)| scoring(rollout)).collect();
    let scores = scores(&mut models.0[1], &sequences, None)?;
    let info = models.0[1].info().clone();
    let (mut comparisons, mut all, mut run) = (Vec::new(), Vec::new(), RunDiagnosis::default());
    for (index, ((rollout, _), scores)) in rollouts.iter().zip(&scores).enumerate() {
        let comparison = compare(rollout, scores, &info.eos_token_ids)?;
        let mut statistics = SufficientStatistics::default();
        statistics.observe_sequence_with_floor(&comparison, Some(curve));
        run.observe(&RunSequence {
            worker: Some(WORKERS[index % WORKERS.len()]),
            policy_version: Some("2"),
            cached_tokens: None,
            tokens: statistics.tokens as usize,
            mae: statistics.mae().unwrap_or_default(),
            floor_mae: statistics.noise_floor().unwrap_or_default(),
        });
        comparisons.push(comparison);
        all.push(statistics);
    }
    let suspects = rollouts.iter().zip(&scores).zip(&comparisons);
    let suspects: Vec<_> = suspects
        .map(|(((rollout, _), scores), comparison)| SuspectSequence {
            rollout,
            scores,
            comparison,
            cached_tokens: None,
        })
        .collect();
    let facts =
        ModelFacts { eos_token_ids: info.eos_token_ids, vocab_size: info.limits.vocab_size, ..ModelFacts::default() };
    let input = DiagnosisInput { sequences: &suspects, model: &facts, floor: curve };
    let diagnosis = diagnose(&input, models, &DiagnosisConfig::default());
    diagnosis.sequences.iter().for_each(|sequence| run.vote(&sequence.findings));
    Ok(Scored { comparisons, statistics: all, diagnosis, run, rollouts })
}

/// What a stale engine would say of another one's samples: a simulated bf16 engine with the older weights.
fn cross(models: &mut Versions) -> Result<CrossComparison, Box<dyn Error>> {
    let rollouts = rollouts(ENGINES[0].1)?;
    let sequences: Vec<_> = rollouts.iter().map(|(rollout, _)| scoring(rollout)).collect();
    let scores = scores(&mut models.0[0], &sequences, Some(&BF16))?;
    let (mut statistics, mut clusters) = (SufficientStatistics::default(), ClusteredSums::default());
    for ((rollout, _), scores) in rollouts.iter().zip(&scores) {
        let comparison = compare(rollout, scores, &[])?;
        statistics.observe_sequence(&comparison);
        clusters.observe_sequence(&comparison);
    }
    Ok(CrossComparison {
        sampled_by: ENGINES[0].0.into(),
        scored_by: ENGINES[1].0.into(),
        statistics,
        clusters,
        note: Some("scored by a simulated bf16 engine with the same weights".into()),
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(std::env::args().nth(1).ok_or("usage: recordings OUT")?);
    std::fs::create_dir_all(&out)?;
    let folder = repository("crates/plumbline/assets/tiny/policy-2");
    let text = Tokenizer::from_folder(&folder)?.map(Text);
    let text = text.as_ref().map(|text| text as &dyn TokenText);
    let load = |folder: PathBuf, version: &str| {
        ModelSource::Directory(folder).load(&LoadOptions { policy_version: version.into(), ..LoadOptions::default() })
    };
    let mut models = Versions([load(repository("tests/fixtures/tiny/policy-1"), "1")?, load(folder, "2")?]);
    let mut reference = models.0[1].info().clone();
    reference.model = "tiny".into();

    let sequences: Vec<_> = rollouts(ENGINES[0].1)?.iter().map(|(rollout, _)| scoring(rollout)).collect();
    let floor = floor(&mut models.0[1], &sequences)?;
    let curve = floor.curve(FloorHead::USED).ok_or("too few tokens for a floor")?;
    let mut facts = Facts::new("vLLM with current and with stale weights", TIME, reference);
    let table_facts =
        TableFacts { run: Some("recordings".into()), model: Some("tiny".into()), created_at: TIME.into() };
    let mut table = TokenTable::create(&out.join("tokens.parquet"), &table_facts)?;
    let mut collector = Collector::new(CollectorLimits::default());
    for ((engine, name), weights) in ENGINES.into_iter().zip(["policy-2", "policy-1"]) {
        let scored = scored(name, &mut models, &curve)?;
        for (index, (rollout, group)) in scored.rollouts.iter().enumerate() {
            let observed = Observed {
                engine,
                worker: Some(WORKERS[index % WORKERS.len()]),
                policy_version: Some("2"),
                group: Some(group),
                rollout: Some(rollout),
                comparison: &scored.comparisons[index],
                statistics: &scored.statistics[index],
                judgement: &VerdictLevels::default().judge(&scored.statistics[index]),
                findings: &scored.diagnosis.sequences[index].findings,
                stored_id: None,
            };
            collector.observe(&observed);
            table.append(&observed, text)?;
        }
        let own = json!({"version": "0.32.0", "dtype": "bfloat16", "served weights": weights, "enforce_eager": true});
        let engine_facts = EngineFacts {
            facts: own.as_object().cloned().unwrap_or_default(),
            diagnosis: scored.run.findings(),
            ..EngineFacts::default()
        };
        facts.engines.insert(engine.into(), engine_facts);
    }
    table.finish()?;
    facts.floor = Some(floor);
    facts.cross.push(cross(&mut models)?);
    facts.command = Some("cargo run --example recordings -- OUT".into());
    for path in collector.finish(facts, text).write_to(&out)? {
        eprintln!("{}", path.display());
    }
    Ok(())
}
