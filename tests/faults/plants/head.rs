//! Faults between the last hidden state and the logits.

use std::sync::Arc;

use super::scene::{Format, Scene, rollouts};
use super::{Plant, recorded};
use crate::engine::Report;
use crate::rng::Rng;
use crate::world::World;

pub(super) fn plants() -> Vec<Plant> {
    let mut plants =
        vec![Plant::new(&["low_precision_head"], "an f32 engine rounds its logits to bf16", |world, seed| {
            let mut engine = Format::F32.engine(world);
            engine.head.mantissa = Some(7);
            rollouts(&engine, &Scene::mixed(world, seed))
        })];
    plants.push(Plant::new(&["low_precision_head"], "the same, logprobs at T 0.7", |world, seed| {
        let mut engine = Format::F32.engine(world);
        engine.head.mantissa = Some(7);
        (engine.sampling.temperature, engine.report) = (0.7, Report::Temperature);
        rollouts(&engine, &Scene::mixed(world, seed))
    }));
    for cap in [10.0, 20.0, 30.0] {
        plants.push(Plant::new(&["softcap_mismatch"], format!("logits soft-capped at {cap}"), move |world, seed| {
            let mut engine = Format::Bf16.engine(world);
            engine.head.softcap = Some(cap);
            rollouts(&engine, &Scene::mixed(world, seed))
        }));
    }
    for rows in [128, 256, 512] {
        let name = format!("{rows} zero rows behind the vocabulary in the softmax");
        plants.push(Plant::new(&["padded_vocabulary"], name, move |world, seed| {
            let mut engine = Format::Bf16.engine(world);
            engine.head.padded_rows = rows;
            rollouts(&engine, &Scene::mixed(world, seed))
        }));
    }
    for (ids, size) in [(8, 1.0), (24, 0.7), (64, 1.0)] {
        let name = format!("a bias of +-{size} on {ids} of the hundred most frequent ids");
        plants.push(Plant::new(&["head_bias"], name, move |world, seed| {
            let mut engine = Format::Bf16.engine(world);
            engine.head.bias = Some(Arc::new(bias(world, ids, size, &mut Rng::new(seed))));
            rollouts(&engine, &Scene::mixed(world, seed))
        }));
    }
    plants.push(Plant::new(&["head_bias"], "a bias of +-1 on 24 ids, logprobs at T 0.7", |world, seed| {
        let mut engine = Format::Bf16.engine(world);
        engine.head.bias = Some(Arc::new(bias(world, 24, 1.0, &mut Rng::new(seed))));
        (engine.sampling.temperature, engine.report) = (0.7, Report::Temperature);
        rollouts(&engine, &Scene::mixed(world, seed))
    }));
    plants
}

/// A bias of either sign on some of the ids that the model samples most.
fn bias(world: &World, count: usize, size: f32, rng: &mut Rng) -> Vec<f32> {
    let mut bias = vec![0.0; world.checkpoint.0["model.embed_tokens.weight"].rows];
    let mut frequent = recorded::frequent_ids("tiny-bf16-raw", 100);
    for _ in 0..count {
        let id = frequent.swap_remove(rng.below(frequent.len()));
        bias[id as usize] = if rng.below(2) == 0 { size } else { -size };
    }
    bias
}
