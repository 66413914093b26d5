//! The tables of `docs/drift.md`: false alarms on healthy streams, detection delays, and how kinds are recognised.
//!
//!     cargo run --release -p plumbline-divergence --example drift_curves [delays | kinds | edge | false_alarms]...
//!
//! Everything is simulated with fixed seeds: the output is the same on every run.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a simulation that fails should stop")]
#![allow(unreachable_pub, reason = "modules shared with the tests")]

#[path = "../tests/suite/random.rs"]
mod random;
#[path = "../tests/suite/streams.rs"]
mod streams;

use std::collections::BTreeMap;

use plumbline_divergence::{DriftConfig, DriftDetector, DriftDirection, DriftKind, DriftUpdate};
use streams::{ENGINES, Stream, feed};

/// Sequences of a policy version in these simulations.
const VERSION: u64 = 64;
const TRIALS: u64 = 2000;

fn detector(config: DriftConfig) -> DriftDetector {
    DriftDetector::new(config).unwrap()
}

fn version(sequence: u64) -> u64 {
    sequence / VERSION
}

/// Healthy streams of 100,000 sequences, each with a level of its own learning.
fn false_alarms() {
    println!("\nfalse alarms on healthy streams, 200 x 100,000 sequences\n");
    println!("| stream | sequences | alarms | highest score |\n|---|---|---|---|");
    for (name, engine) in ENGINES {
        let (mut alarms, mut sequences, mut highest) = (0u64, 0u64, 0f64);
        for trial in 0..200 {
            let mut stream = Stream::new(engine, 1_000_000 + trial);
            let mut detector = detector(DriftConfig::default());
            for sequence in 0..100_000 {
                alarms +=
                    u64::from(feed(&mut detector, &mut stream, sequence..sequence + 1, |_| 1.0, version).is_some());
                highest = highest.max(detector.state().score);
            }
            sequences += 100_000;
        }
        println!("| {name} | {sequences:e} | {alarms} | {highest:.2} |");
    }
}

/// Mean run length at the edge of the guarantee, for run lengths short enough to be measured: the level moves to the
/// tolerance itself.
fn edge() {
    println!(
        "\nmean sequences to an alarm at a level of exactly the tolerance, 300 trials, at most 50 times the guarantee\n"
    );
    println!("| stream | guaranteed 100 | guaranteed 1000 |\n|---|---|---|");
    for (name, engine) in ENGINES {
        let mut row = Vec::new();
        for guaranteed in [100.0, 1000.0] {
            let config =
                |mean_run_length| DriftConfig { mean_run_length, baseline_sequences: 20_000, ..DriftConfig::default() };
            let limit = 50 * guaranteed as u64;
            let (mut total, mut trials) = (0, 0);
            for trial in 0..300 {
                let mut stream = Stream::new(engine, 2_000_000 + trial);
                // The level is learned undisturbed, and long enough to be exact and not to be refined on the way.
                let mut detector = detector(config(1e12));
                if feed(&mut detector, &mut stream, 0..20_000, |_| 1.0, version).is_some() {
                    continue;
                }
                let config = DriftConfig { baseline_sequences: 100_000, ..config(guaranteed) };
                let mut detector = DriftDetector::restore(config, detector.memory().clone()).unwrap();
                let seen = feed(&mut detector, &mut stream, 20_000..20_000 + limit, |_| config.tolerance, version);
                total += seen.map_or(limit, |(sequence, _)| sequence - 19_999);
                trials += 1;
            }
            row.push(format!("{:.0}", total as f64 / f64::from(trials)));
        }
        println!("| {name} | {} |", row.join(" | "));
    }
}

/// The update at a change of the level after a healthy stretch of random length, with the sequence at which it began.
fn change(
    engine: streams::Engine,
    seed: u64,
    limit: u64,
    shape: impl Fn(u64) -> f64,
) -> (u64, Option<(u64, DriftUpdate)>) {
    let mut stream = Stream::new(engine, seed);
    let mut detector = detector(DriftConfig::default());
    let start = 200 + stream.random.length(1, 1000);
    let multiple = |sequence: u64| if sequence < start { 1.0 } else { shape(sequence - start) };
    (start, feed(&mut detector, &mut stream, 0..start + limit, multiple, version))
}

fn quantile(sorted: &[u64], part: f64) -> String {
    let index = (part * (sorted.len() - 1) as f64).round() as usize;
    sorted.get(index).map_or_else(|| "-".into(), ToString::to_string)
}

fn delays() {
    println!("\ndelay in sequences of a step, {TRIALS} trials\n");
    println!(
        "| stream | size | median | 90 % | 99 % | most | within 200 | before the step | median size estimate | beginning: median error, 90 % |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for (name, engine) in ENGINES {
        for size in [1.4, 1.5, 2.0, 5.0, 20.0, 0.5, 0.1] {
            let (mut delays, mut early, mut sizes, mut errors) = (Vec::new(), 0, Vec::new(), Vec::new());
            for trial in 0..TRIALS {
                let (start, seen) = change(engine, 3_000_000 + trial, 20_000, |_| size);
                let Some((sequence, DriftUpdate::Began(event))) = seen else { continue };
                if sequence < start {
                    early += 1;
                    continue;
                }
                assert_eq!(event.direction == DriftDirection::Up, size > 1.0);
                delays.push(sequence - start + 1);
                sizes.push(event.size);
                errors.push(event.began_sequence.abs_diff(start));
            }
            delays.sort_unstable();
            errors.sort_unstable();
            sizes.sort_unstable_by(f64::total_cmp);
            let within = delays.iter().filter(|delay| **delay <= 200).count();
            println!(
                "| {name} | {size} | {} | {} | {} | {} | {:.2} % | {early} | {:.2} | {}, {} |",
                quantile(&delays, 0.5),
                quantile(&delays, 0.9),
                quantile(&delays, 0.99),
                if delays.len() as u64 + early == TRIALS { quantile(&delays, 1.0) } else { "not all seen".into() },
                100.0 * within as f64 / TRIALS as f64,
                sizes[sizes.len() / 2],
                quantile(&errors, 0.5),
                quantile(&errors, 0.9),
            );
        }
    }
}

/// Multiples of the level by sequences since the change.
type Shape = (&'static str, fn(u64) -> f64);

fn shapes() -> Vec<Shape> {
    fn phase(sequence: u64) -> u64 {
        sequence % VERSION
    }
    vec![
        ("ramp, twice the level after 500 sequences", |n| 1.0 + n as f64 / 500.0),
        ("ramp, twice the level after 5000 sequences", |n| 1.0 + n as f64 / 5000.0),
        ("ramp, twice the level after 50,000 sequences", |n| 1.0 + n as f64 / 50_000.0),
        ("sawtooth: 3 times in the first half of a version", |n| if phase(n) < VERSION / 2 { 3.0 } else { 1.0 }),
        ("sawtooth: 5 times in the first quarter of a version", |n| if phase(n) < VERSION / 4 { 5.0 } else { 1.0 }),
        ("sawtooth: up to 3 times within a version, then back", |n| 1.0 + 2.0 * phase(n) as f64 / VERSION as f64),
        ("stale cache: 10 % more with every version", |n| 1.0 + 0.1 * (n / VERSION) as f64),
        ("step of 2", |_| 2.0),
        ("step of 1.5", |_| 1.5),
        ("step of 5", |_| 5.0),
    ]
}

/// Changes that begin with a policy version, watched for 2000 sequences after the alarm, so that the kind can settle.
fn kinds() {
    println!("\nkinds, 300 trials, changes that begin with a version of {VERSION} sequences\n");
    println!("| stream | change | median delay | 99 % | step | version steps | creep | at a version change |");
    println!("|---|---|---|---|---|---|---|---|");
    for (name, engine) in [ENGINES[0], ENGINES[2], ENGINES[4]] {
        for (shape_name, shape) in shapes() {
            let (mut delays, mut kinds, mut at_change) = (Vec::new(), BTreeMap::new(), 0);
            for trial in 0..300 {
                let mut stream = Stream::new(engine, 4_000_000 + trial);
                let mut detector = detector(DriftConfig::default());
                let start = VERSION * (4 + stream.random.length(1, 20));
                let multiple = |sequence: u64| if sequence < start { 1.0 } else { shape(sequence - start) };
                let Some((seen, DriftUpdate::Began(event))) =
                    feed(&mut detector, &mut stream, 0..start + 100_000, multiple, version)
                else {
                    continue;
                };
                if seen < start {
                    continue;
                }
                delays.push(seen - start + 1);
                at_change += usize::from(event.at_version_change && event.began_sequence == start);
                let mut kind = event.kind;
                for sequence in seen + 1..seen + 2000 {
                    let _update = feed(&mut detector, &mut stream, sequence..sequence + 1, multiple, version);
                    match detector.state().alarm {
                        Some(alarm) if alarm.seen_sequence == seen => kind = alarm.kind,
                        _ => break,
                    }
                }
                *kinds.entry(format!("{kind:?}")).or_insert(0) += 1;
            }
            delays.sort_unstable();
            let share = |kind: DriftKind| kinds.get(&format!("{kind:?}")).copied().unwrap_or(0);
            println!(
                "| {name} | {shape_name} | {} | {} | {} | {} | {} | {at_change} |",
                quantile(&delays, 0.5),
                quantile(&delays, 0.99),
                share(DriftKind::Step),
                share(DriftKind::VersionSteps),
                share(DriftKind::Creep),
            );
        }
    }
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let parts: [(&str, fn()); 4] =
        [("delays", delays), ("kinds", kinds), ("edge", edge), ("false_alarms", false_alarms)];
    for (name, part) in parts {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            part();
        }
    }
}
