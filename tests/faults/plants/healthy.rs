//! Healthy engines: nothing may be named.

use plumbline_core::{LogprobsMode, Sampling};

use super::scene::{Format, Scene, rollouts};
use super::{Plant, Posted, Reference, recorded};
use crate::engine::Report;
use crate::world::World;

/// Faithful engines in every format and mode.
pub(crate) fn healthy() -> Vec<Plant> {
    let mut plants: Vec<Plant> = [Format::Bf16, Format::Bf16WithF32Head, Format::F32]
        .into_iter()
        .map(|format| {
            Plant::new(&[], format!("{format:?}"), move |world, seed| {
                rollouts(&format.engine(world), &Scene::mixed(world, seed))
            })
        })
        .collect();
    plants.push(Plant::new(&[], "Bf16, raw at other temperatures", |world, seed| {
        sampled(world, seed, Report::Raw, &[0.6, 0.8, 1.2])
    }));
    plants.push(Plant::new(&[], "Bf16, at its temperature", |world, seed| {
        sampled(world, seed, Report::Temperature, &[0.6, 0.8, 1.2])
    }));
    plants.push(Plant::new(&[], "Bf16, raw with top-p, top-k and penalties", |world, seed| {
        let mut engine = Format::Bf16.engine(world);
        engine.sampling = *Scene::mixed(world, seed).rng().pick(&[
            Sampling { top_p: 0.9, ..Sampling::default() },
            Sampling { top_k: 20, temperature: 0.8, ..Sampling::default() },
            Sampling { min_p: 0.05, ..Sampling::default() },
            Sampling { repetition_penalty: 1.2, ..Sampling::default() },
            Sampling { presence_penalty: 0.5, frequency_penalty: 0.3, ..Sampling::default() },
            Sampling { temperature: 0.0, ..Sampling::default() },
        ]);
        rollouts(&engine, &Scene::mixed(world, seed))
    }));
    plants.push(Plant::new(&[], "Bf16, processed with top-p, top-k and penalties", |world, seed| {
        let mut engine = Format::Bf16.engine(world);
        engine.sampling = *Scene::mixed(world, seed).rng().pick(&[
            Sampling { temperature: 0.8, top_p: 0.9, ..Sampling::default() },
            Sampling { top_k: 20, temperature: 0.8, ..Sampling::default() },
            Sampling { min_p: 0.05, ..Sampling::default() },
            Sampling { repetition_penalty: 1.2, ..Sampling::default() },
            Sampling { presence_penalty: 0.5, frequency_penalty: 0.3, ..Sampling::default() },
        ]);
        engine.report = Report::Processed;
        rollouts(&engine, &Scene::mixed(world, seed))
    }));
    plants.push(Plant::new(&[], "Bf16, two policy versions, each as posted", |world, seed| {
        let mut engine = Format::Bf16.engine(world);
        let scene = Scene::mixed(world, seed);
        let mut posted = rollouts(&engine, &scene);
        engine.network = world.previous.clone();
        let earlier = rollouts(&engine, &scene);
        let half = posted.len() / 2;
        posted[..half].clone_from_slice(&earlier[..half]);
        for posted in &mut posted[..half] {
            posted.rollout.policy_version = Some(crate::world::PREVIOUS.into());
        }
        posted
    }));
    plants.push(
        Plant::new(&[], "Bf16, with the adapter", |world, seed| {
            let mut engine = Format::Bf16.engine(world);
            engine.network = world.adapted.clone();
            rollouts(&engine, &Scene::mixed(world, seed))
        })
        .against(Reference::Adapted),
    );
    plants.extend(recorded::healthy());
    plants
}

fn sampled(world: &World, seed: u64, report: Report, temperatures: &[f64]) -> Vec<Posted> {
    let scene = Scene::mixed(world, seed);
    let mut engine = Format::Bf16.engine(world);
    engine.sampling.temperature = *scene.rng().pick(temperatures);
    engine.report = report;
    let mut posted = rollouts(&engine, &scene);
    let mode = if report == Report::Raw { LogprobsMode::Raw } else { LogprobsMode::Temperature };
    posted.iter_mut().for_each(|posted| posted.rollout.logprobs_mode = mode);
    posted
}
