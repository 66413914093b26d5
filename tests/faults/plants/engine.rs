//! What the engine does with its cache, its workers and its number formats.

use super::scene::{Format, Scene, rewritten, rollouts};
use super::{Plant, Posted, Reference};
use crate::engine::{KvFormat, LowCache, Precision};
use crate::prompts;
use crate::rng::Rng;
use crate::world::World;

pub(super) fn plants() -> Vec<Plant> {
    let mut plants =
        vec![Plant::new(&["stale_prefix_cache"], "blocks of the prompt cached by old weights", |world, seed| {
            let mut engine = Format::Bf16.engine(world);
            engine.cached_prefix = Some(world.previous.clone());
            rollouts(&engine, &Scene::of(seed, |rng| prompts::long(world, rng)))
        })];
    let named = "blocks of the prompt cached by old weights, and posted as cached";
    plants.push(Plant::new(&["stale_prefix_cache"], named, |world, seed| {
        let mut engine = Format::Bf16.engine(world);
        engine.cached_prefix = Some(world.previous.clone());
        let mut posted = rollouts(&engine, &Scene::of(seed, |rng| prompts::long(world, rng)));
        for posted in &mut posted {
            // All but the block that holds the last token.
            posted.cached_tokens = Some((posted.rollout.prompt_token_ids.len() - 1) / 16 * 16);
        }
        posted
    }));
    for from in [16, 32, 48] {
        let name = format!("keys and values in fp8 (e5m2) from completion token {from}");
        plants.push(Plant::new(&["kv_cache_precision"], name, move |world, seed| {
            let mut engine = Format::Bf16.engine(world);
            engine.kv_cache = Some(LowCache { format: KvFormat::E5m2, from: Some(from) });
            rollouts(&engine, &Scene::long(world, seed, 3 * from))
        }));
    }
    for format in [KvFormat::E4m3, KvFormat::E5m2] {
        let name = format!("keys and values in fp8 ({format:?}) after the prefill");
        plants.push(Plant::new(&["kv_cache_precision", "numerical_noise"], name, move |world, seed| {
            let mut engine = Format::Bf16.engine(world);
            engine.kv_cache = Some(LowCache { format, from: None });
            rollouts(&engine, &Scene::mixed(world, seed))
        }));
    }
    for bits in [5, 4] {
        let name = format!("intermediate results with {bits} mantissa bits");
        plants.push(Plant::new(&["numerical_noise"], name, move |world, seed| {
            let mut engine = Format::Bf16.engine(world);
            engine.precision = Precision::Mantissa(bits);
            rollouts(&engine, &Scene::mixed(world, seed))
        }));
    }
    plants.push(Plant::new(&["worker_specific"], "one of four workers has other weights", |world, seed| {
        let mut engine = Format::Bf16.engine(world);
        engine.network = world.network(&world.checkpoint.noised(0.1, &mut Rng::new(seed)));
        one_worker(world, seed, rollouts(&engine, &several_workers(world, seed)))
    }));
    plants.push(Plant::new(&["worker_specific"], "one of four workers rounds to 4 bits", |world, seed| {
        let mut engine = Format::Bf16.engine(world);
        engine.precision = Precision::Mantissa(4);
        one_worker(world, seed, rollouts(&engine, &several_workers(world, seed)))
    }));
    for (share, size) in [(0.03, 0.8), (0.08, 0.5)] {
        let name = format!("{} % of the tokens off by {size} on average, the others healthy", share * 100.0);
        let routed = Plant::new(&["moe_routing"], name, move |world, seed| {
            rewritten(world, &Scene::mixed(world, seed), |_, values, rng| {
                for value in values.iter_mut().flatten() {
                    let moved = -size * (1.0 - rng.uniform()).ln();
                    let signed = if rng.below(2) == 0 { moved } else { -moved };
                    if rng.uniform() < share {
                        *value = (*value + signed).min(-1e-6);
                    }
                }
            })
        });
        plants.push(routed.against(Reference::TakenForExperts));
    }
    plants
}

/// Workers that sample side by side.
const WORKERS: usize = 4;

fn several_workers(world: &World, seed: u64) -> Scene {
    let mut scene = Scene::mixed(world, seed);
    scene.samples = 2 * WORKERS;
    scene
}

/// Healthy rollouts, but those of one worker from `faulty`.
fn one_worker(world: &World, seed: u64, faulty: Vec<Posted>) -> Vec<Posted> {
    let healthy = rollouts(&Format::Bf16.engine(world), &several_workers(world, seed));
    let chosen = Rng::new(seed).below(WORKERS);
    let posted = healthy.into_iter().zip(faulty).enumerate();
    let of_worker = posted.map(|(index, (healthy, faulty))| {
        let worker = index % WORKERS;
        Posted { worker, ..if worker == chosen { faulty } else { healthy } }
    });
    of_worker.collect()
}
