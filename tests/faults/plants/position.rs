//! Positions that mean something else to the engine.

use super::Plant;
use super::scene::{Format, Scene, rollouts};

pub(super) fn plants() -> Vec<Plant> {
    let mut plants = Vec::new();
    for theta in [20_000.0, 100_000.0, 1_000_000.0] {
        plants.push(Plant::new(&["rope_mismatch"], format!("RoPE base {theta}"), move |world, seed| {
            let mut engine = Format::Bf16.engine(world);
            engine.positions.rope_theta = theta;
            rollouts(&engine, &Scene::mixed(world, seed))
        }));
    }
    for factor in [2.0, 4.0] {
        plants.push(Plant::new(&["rope_mismatch"], format!("positions divided by {factor}"), move |world, seed| {
            let mut engine = Format::Bf16.engine(world);
            engine.positions.rope_factor = factor;
            rollouts(&engine, &Scene::mixed(world, seed))
        }));
    }
    for window in [16, 32, 64] {
        let name = format!("a window of {window} tokens in every layer");
        plants.push(Plant::new(&["sliding_window_mismatch"], name, move |world, seed| {
            let mut engine = Format::Bf16.engine(world);
            engine.positions.window = Some(window);
            rollouts(&engine, &Scene::long(world, seed, 2 * window))
        }));
    }
    plants
}
