//! Other weights than the version that is posted.

use super::scene::{Format, Scene, rollouts};
use super::{Plant, Posted, Reference};
use crate::engine::Swap;
use crate::rng::Rng;
use crate::world::World;

pub(super) fn plants() -> Vec<Plant> {
    let mut plants = vec![
        Plant::new(&["stale_weights"], "the policy before, in bf16", |world, seed| stale(world, seed, Format::Bf16)),
        Plant::new(&["stale_weights"], "the policy before, in f32", |world, seed| stale(world, seed, Format::F32)),
        Plant::new(&["adapter_missing"], "the base model without its adapter", |world, seed| {
            rollouts(&Format::Bf16.engine(world), &Scene::mixed(world, seed))
        })
        .against(Reference::Adapted),
    ];
    for recompute in [true, false] {
        let kept = if recompute { "computed anew" } else { "kept" };
        let name = format!("new weights in mid-sequence, keys and values {kept}");
        plants.push(Plant::new(&["mid_sequence_weight_swap"], name, move |world, seed| {
            let mut engine = Format::Bf16.engine(world);
            engine.network = world.previous.clone();
            engine.swap = Some(Swap { to: world.current.clone(), at: 16..40, recompute });
            rollouts(&engine, &Scene::long(world, seed, 96))
        }));
    }
    for share in [0.05, 0.1] {
        let name = format!("every weight moved by {} % of the matrix's size", share * 100.0);
        plants.push(Plant::new(&["different_weights"], name, move |world, seed| {
            let mut engine = Format::Bf16.engine(world);
            engine.network = world.network(&world.checkpoint.noised(share, &mut Rng::new(seed)));
            rollouts(&engine, &Scene::mixed(world, seed))
        }));
    }
    plants.push(Plant::new(&["different_weights"], "weights in 4 bits, groups of 32", |world, seed| {
        let mut engine = Format::Bf16.engine(world);
        engine.network = world.network(&world.checkpoint.quantised(4, 32));
        rollouts(&engine, &Scene::mixed(world, seed))
    }));
    plants
}

fn stale(world: &World, seed: u64, format: Format) -> Vec<Posted> {
    let mut engine = format.engine(world);
    engine.network = world.previous.clone();
    rollouts(&engine, &Scene::mixed(world, seed))
}
