//! Numbers of another distribution than the one that is stated.

use plumbline_core::{LogprobsMode, Sampling};

use super::scene::{Format, Scene, rollouts};
use super::{Plant, Posted};
use crate::engine::Report;
use crate::world::World;

pub(super) fn plants() -> Vec<Plant> {
    let mut plants = temperatures();
    let neutral = Sampling::default();
    for top_k in [5, 20, 50] {
        let sampling = Sampling { top_k, ..neutral };
        plants.push(processed(&["top_k_renormalised"], &format!("top-k {top_k}"), sampling));
    }
    for top_p in [0.8, 0.9, 0.95] {
        let sampling = Sampling { top_p, ..neutral };
        plants.push(processed(&["top_p_renormalised"], &format!("top-p {top_p}"), sampling));
    }
    for min_p in [0.05, 0.1] {
        let sampling = Sampling { min_p, ..neutral };
        plants.push(processed(&["min_p_renormalised"], &format!("min-p {min_p}"), sampling));
    }
    for repetition_penalty in [1.1, 1.3] {
        let sampling = Sampling { repetition_penalty, ..neutral };
        plants.push(processed(&["penalties_applied"], &format!("repetition penalty {repetition_penalty}"), sampling));
    }
    for penalty in [0.5, 1.0] {
        let sampling = Sampling { presence_penalty: penalty, ..neutral };
        plants.push(processed(&["penalties_applied"], &format!("presence penalty {penalty}"), sampling));
        let sampling = Sampling { frequency_penalty: penalty, ..neutral };
        plants.push(processed(&["penalties_applied"], &format!("frequency penalty {penalty}"), sampling));
    }
    for (name, sampling) in [
        ("T 0.7 and top-p 0.9", Sampling { temperature: 0.7, top_p: 0.9, ..neutral }),
        ("repetition penalty 1.2", Sampling { repetition_penalty: 1.2, ..neutral }),
        ("top-k 20", Sampling { top_k: 20, ..neutral }),
    ] {
        let name = format!("{name}, stated as processed, raw reported");
        plants.push(Plant::new(&["processing_not_applied"], name, move |world, seed| {
            sampled(world, seed, sampling, Report::Raw, LogprobsMode::Processed)
        }));
    }
    // The engine's own defaults, of which the worker knows nothing.
    plants.push(unknown(&["top_p_renormalised"], "top-p 0.9", Sampling { top_p: 0.9, ..neutral }));
    plants.push(unknown(&["top_k_renormalised"], "top-k 20", Sampling { top_k: 20, ..neutral }));
    plants.push(unknown(&["temperature_applied"], "temperature 0.7", Sampling { temperature: 0.7, ..neutral }));
    plants
}

/// Stated as raw, but reported after processing with the posted parameters.
fn processed(expected: &'static [&'static str], name: &str, sampling: Sampling) -> Plant {
    Plant::new(expected, format!("{name} in the numbers, stated as raw"), move |world, seed| {
        sampled(world, seed, sampling, Report::Processed, LogprobsMode::Raw)
    })
}

/// As [`processed`], with neutral parameters posted.
fn unknown(expected: &'static [&'static str], name: &str, sampling: Sampling) -> Plant {
    Plant::new(expected, format!("{name} in the numbers, not posted"), move |world, seed| {
        let mut posted = sampled(world, seed, sampling, Report::Processed, LogprobsMode::Raw);
        posted.iter_mut().for_each(|posted| posted.rollout.sampling = Sampling::default());
        posted
    })
}

fn temperatures() -> Vec<Plant> {
    let mut plants = Vec::new();
    for temperature in [0.6, 0.7, 1.3] {
        let sampling = Sampling { temperature, ..Sampling::default() };
        let mut plant = |expected: &'static [&'static str], name: &str, report, mode| {
            plants.push(Plant::new(expected, format!("T {temperature} {name}"), move |world, seed| {
                sampled(world, seed, sampling, report, mode)
            }));
        };
        let (raw, at_temperature) = (LogprobsMode::Raw, LogprobsMode::Temperature);
        plant(&["temperature_not_applied"], "stated, raw reported", Report::Raw, at_temperature);
        plant(&["temperature_applied"], "in the numbers, stated as raw", Report::Temperature, raw);
        plant(&["temperature_applied"], "applied twice", Report::TemperatureTwice, at_temperature);
        plant(
            &["temperature_after_softmax"],
            "divides the logprob, stated as at temperature",
            Report::RawOverTemperature,
            at_temperature,
        );
    }
    plants
}

fn sampled(world: &World, seed: u64, sampling: Sampling, report: Report, mode: LogprobsMode) -> Vec<Posted> {
    let mut engine = Format::Bf16.engine(world);
    engine.sampling = sampling;
    engine.report = report;
    let mut posted = rollouts(&engine, &Scene::mixed(world, seed));
    posted.iter_mut().for_each(|posted| posted.rollout.logprobs_mode = mode);
    posted
}
