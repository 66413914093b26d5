//! A floor that Hugging Face in bf16 shows, against what a real vLLM recorded: healthy in bf16, healthy in f32, and stale.
//!
//! `tests/fixtures/noise_floor/make_floors.py` wrote the floors and the entropies; engine and reference logprobs are those of
//! the recordings.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use plumbline_core::SkipCounts;
use plumbline_divergence::{
    DriftConfig, FloorHead, FloorSample, GroupView, Monitor, MonitorConfig, NoiseFloor, SequenceComparison,
    SequenceSummary, SufficientStatistics, TokenComparison, Verdict, VerdictLevels,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Files of the repository with recordings.
const FOLDERS: [&str; 2] = ["tests/fixtures/recordings", "crates/plumbline/assets/recordings"];

#[derive(Deserialize)]
struct Measured {
    floor: Vec<Sequence>,
    /// Entropies of each sequence of a recording.
    recordings: BTreeMap<String, BTreeMap<String, Vec<f64>>>,
}

#[derive(Deserialize)]
struct Sequence {
    entropy: Vec<f64>,
    bf16_head: Vec<f64>,
    f32_head: Vec<f64>,
}

#[derive(Deserialize)]
struct Recorded {
    id: String,
    logprobs: Vec<f64>,
}

#[derive(Deserialize)]
struct Referenced {
    id: String,
    f64: Vec<f64>,
}

fn read(folders: &[&str], file: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let found = folders.iter().map(|folder| root.join(folder).join(file)).find(|path| path.exists());
    std::fs::read_to_string(found.unwrap()).unwrap()
}

fn lines<T: DeserializeOwned>(file: &str) -> Vec<T> {
    read(&FOLDERS, file).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn measured(model: &str) -> (Measured, NoiseFloor) {
    let text = read(&["tests/fixtures/noise_floor"], &format!("{model}.json"));
    let measured: Measured = serde_json::from_str(&text).unwrap();
    let mut floor = NoiseFloor::default();
    for sequence in &measured.floor {
        for (head, deltas) in [(FloorHead::Bf16, &sequence.bf16_head), (FloorHead::F32, &sequence.f32_head)] {
            let pairs = sequence.entropy.iter().zip(deltas);
            let samples: Vec<_> = pairs.map(|(&entropy, &abs_delta)| FloorSample { entropy, abs_delta }).collect();
            assert_eq!(floor.observe_sequence(head, &samples), 0);
        }
    }
    (measured, floor)
}

fn comparisons(measured: &Measured, recording: &str) -> Vec<SequenceComparison> {
    let entropies = &measured.recordings[recording];
    let references: Vec<Referenced> = lines(&format!("{recording}.ref.jsonl"));
    let sequences: Vec<Recorded> = lines(&format!("{recording}.jsonl"));
    let compared = sequences.into_iter().zip(references).map(|(sequence, reference)| {
        assert_eq!(sequence.id, reference.id);
        let entropies = &entropies[&sequence.id];
        assert_eq!((sequence.logprobs.len(), reference.f64.len()), (entropies.len(), entropies.len()));
        let token = |index: usize| TokenComparison {
            token_id: 0,
            engine: Some(sequence.logprobs[index].min(0.0)),
            reference: Some(reference.f64[index]),
            entropy: Some(entropies[index]),
            rank: None,
            eos_probability: None,
            skipped: None,
        };
        let tokens = (0..entropies.len()).map(token).collect();
        SequenceComparison { id: sequence.id, tokens, skipped: SkipCounts::default(), eos_probability: None }
    });
    compared.collect()
}

struct Judged {
    statistics: SufficientStatistics,
    pooled: Verdict,
    /// Verdicts of the sequences with enough tokens, with their reasons.
    sequences: Vec<(Verdict, String)>,
    /// Root mean square of the sequences' excess over the floor in standard errors.
    scatter: f64,
}

fn judge(model: &str, recording: &str) -> Judged {
    let (measured, floor) = measured(model);
    let curve = floor.curve(FloorHead::USED).unwrap();
    let levels = VerdictLevels::default();
    let mut judged = Judged {
        statistics: SufficientStatistics::default(),
        pooled: Verdict::Insufficient,
        sequences: vec![],
        scatter: 0.0,
    };
    for comparison in comparisons(&measured, recording) {
        let mut own = SufficientStatistics::default();
        own.observe_sequence_with_floor(&comparison, Some(&curve));
        judged.statistics.merge(&own);
        if own.tokens >= levels.min_tokens {
            let judgement = levels.judge(&own);
            judged.sequences.push((judgement.verdict, format!("{}: {}", comparison.id, judgement.reason)));
            let error = own.noise_floor_standard_error().unwrap();
            judged.scatter += ((own.noise_floor_multiple().unwrap() - 1.0) / error).powi(2);
        }
    }
    judged.scatter = (judged.scatter / judged.sequences.len() as f64).sqrt();
    judged.pooled = levels.judge(&judged.statistics).verdict;
    judged
}

fn not(verdict: Verdict, judged: &Judged) -> Vec<&str> {
    judged.sequences.iter().filter(|(own, _)| *own != verdict).map(|(_, reason)| reason.as_str()).collect()
}

#[test]
fn the_floor_is_what_a_healthy_bf16_engine_shows() {
    for (model, recording) in [("tiny", "tiny-bf16-raw"), ("smollm2", "smollm2-bf16-raw")] {
        let judged = judge(model, recording);
        let multiple = judged.statistics.noise_floor_multiple().unwrap();
        assert!((0.75..1.25).contains(&multiple), "{recording}: {multiple}");
        assert_eq!(judged.pooled, Verdict::Consistent);
        assert!(judged.sequences.len() >= 20, "{}", judged.sequences.len());
        assert_eq!(not(Verdict::Consistent, &judged), Vec::<&str>::new());
        // Above 1, because prompts differ and the engine is not the one that was simulated; far below the 4 of the levels.
        assert!((0.5..2.5).contains(&judged.scatter), "{recording}: {} standard errors", judged.scatter);
    }
}

#[test]
fn f32_engines_are_a_hundredth_of_the_floor_at_most() {
    for (model, recording) in [("tiny", "tiny-f32-raw"), ("smollm2", "smollm2-f32-raw")] {
        let judged = judge(model, recording);
        let multiple = judged.statistics.noise_floor_multiple().unwrap();
        assert!(multiple <= 0.01, "{recording}: {multiple}");
        assert_eq!(judged.pooled, Verdict::Consistent);
        assert_eq!(not(Verdict::Consistent, &judged), Vec::<&str>::new());
    }
}

#[test]
fn stale_weights_are_far_above_it() {
    let judged = judge("tiny", "tiny-bf16-stale");
    assert!(judged.statistics.noise_floor_multiple().unwrap() > 10.0);
    assert_eq!(judged.pooled, Verdict::Divergent);
    assert_eq!(not(Verdict::Divergent, &judged), Vec::<&str>::new());
}

#[test]
fn an_f32_head_shows_less_noise() {
    for model in ["tiny", "smollm2"] {
        let (_, floor) = measured(model);
        let (bf16, f32) = (floor.mae(FloorHead::Bf16).unwrap(), floor.mae(FloorHead::F32).unwrap());
        assert!(f32 < bf16, "{model}: {f32} and {bf16}");
    }
}

/// The view of a run that posted these recordings one sequence a second, over and over.
fn run(recordings: &[(&str, usize)]) -> GroupView {
    let (measured, floor) = measured("tiny");
    let curve = floor.curve(FloorHead::USED).unwrap();
    let minute = Duration::from_secs(60);
    let drift = DriftConfig::default();
    let config = MonitorConfig { window: 5 * minute, slices: 60, max_groups: 4, idle_expiry: 60 * minute, drift };
    let mut monitor = Monitor::new(config).unwrap();
    let key = monitor.resolve(Duration::ZERO, "r", "vllm");
    let mut seconds = 0;
    for (version, (recording, times)) in recordings.iter().enumerate() {
        let comparisons = comparisons(&measured, recording);
        for comparison in comparisons.iter().cycle().take(times * comparisons.len()) {
            let mut statistics = SufficientStatistics::default();
            statistics.observe_sequence_with_floor(comparison, Some(&curve));
            let policy_version = Some(version.to_string());
            let summary = SequenceSummary { statistics, policy_version, ..SequenceSummary::default() };
            monitor.observe(Duration::from_secs(seconds), &key, &[summary]);
            seconds += 1;
        }
    }
    monitor.view(Duration::from_secs(seconds), "r").remove(0)
}

#[test]
fn a_run_that_goes_stale_has_one_event_at_that_version() {
    let healthy = run(&[("tiny-bf16-raw", 20)]);
    assert!(healthy.events.is_empty() && healthy.drift.unwrap().score < 0.5);
    let stale = run(&[("tiny-bf16-raw", 10), ("tiny-bf16-stale", 2)]);
    assert_eq!(stale.events.len(), 1, "{:?}", stale.events);
    let event = &stale.events[0].event;
    assert_eq!((event.policy_version.as_deref(), event.at_version_change), (Some("1"), true));
    assert!(event.size > 5.0 && event.seen_sequence - event.began_sequence < 30, "{event:?}");
    let multiple = |version: usize| stale.versions[version].sums.noise_floor_multiple().unwrap();
    assert!(multiple(0) < 1.25 && multiple(1) > 10.0);
}
