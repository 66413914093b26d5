//! Numbers that belong to other tokens.

use super::scene::{Scene, rewritten};
use super::{Plant, Posted};
use crate::world::World;

pub(super) fn plants() -> Vec<Plant> {
    let mut plants: Vec<Plant> = [-2isize, -1, 1, 2]
        .into_iter()
        .map(|shift| {
            Plant::new(&["shifted_logprobs"], format!("shifted by {shift}"), move |world, seed| {
                rewritten(world, &Scene::mixed(world, seed), |_, values, _| rotate(values, shift))
            })
        })
        .collect();
    plants.push(Plant::new(&["shifted_logprobs"], "shifted by another lag in each sequence", |world, seed| {
        rewritten(world, &Scene::mixed(world, seed), |_, values, rng| rotate(values, *rng.pick(&[-2, -1, 1, 2])))
    }));
    plants.push(Plant::new(&["rows_swapped"], "the group's numbers in another order", |world, seed| {
        swapped(world, seed, usize::MAX)
    }));
    plants.push(Plant::new(&["rows_swapped"], "two sequences of each group exchanged", |world, seed| {
        swapped(world, seed, 2)
    }));
    plants.push(Plant::new(&["terminal_token"], "0.0 for the last token", |world, seed| {
        rewritten(world, &Scene::mixed(world, seed), |_, values, _| {
            let last = values.len() - 1;
            values[last] = Some(0.0);
        })
    }));
    plants.push(Plant::new(
        &["terminal_token"],
        "an end that was not sampled, as if it were certain",
        |world, seed| {
            let mut posted = world.healthy(&Scene::mixed(world, seed));
            for rollout in posted.iter_mut().map(|posted| &mut posted.rollout) {
                if rollout.completion_token_ids.last() != Some(&world.eos) {
                    *rollout.completion_token_ids.last_mut().unwrap() = world.eos;
                    *rollout.logprobs.last_mut().unwrap() = Some(-1e-4);
                    rollout.finish_reason = Some("stop".into());
                }
            }
            posted
        },
    ));
    plants
}

/// The value of token `t` is that of token `t - shift`; what has none gets the ones that fell out.
fn rotate(values: &mut [Option<f64>], shift: isize) {
    let len = values.len();
    values.rotate_right(shift.rem_euclid(len as isize) as usize);
}

/// Within each group, sequences of the same length get each other's numbers.
fn swapped(world: &World, seed: u64, at_most: usize) -> Vec<Posted> {
    let mut scene = Scene::mixed(world, seed);
    // Most sequences of a group reach a low limit, and have the same length.
    scene.max_tokens = *scene.rng().pick(&[24, 32, 48]);
    scene.samples = 6;
    let mut posted = world.healthy(&scene);
    for group in posted.chunk_by_mut(|a, b| a.group == b.group) {
        let length = |posted: &Posted| posted.rollout.completion_token_ids.len();
        let longest = group.iter().map(length).max().unwrap();
        let equal: Vec<usize> =
            (0..group.len()).filter(|index| length(&group[*index]) == longest).take(at_most).collect();
        let values: Vec<_> = equal.iter().map(|index| group[*index].rollout.logprobs.clone()).collect();
        for (place, index) in equal.iter().enumerate() {
            group[*index].rollout.logprobs = values[(place + 1) % values.len()].clone();
        }
    }
    posted
}
