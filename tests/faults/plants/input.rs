//! Numbers that are no logprobs.

use super::Plant;
use super::scene::{Scene, rewritten};
use crate::rng::Rng;

type Rewrite = fn(usize, &mut Vec<Option<f64>>, &mut Rng);

pub(super) fn plants() -> Vec<Plant> {
    const FAULTS: [(&str, &[&str], Rewrite); 11] = [
        ("-9999 for one token in twenty", &["sentinel_values"], |_, values, rng| some(values, 0.05, rng, |_| -9999.0)),
        ("the lowest f32 for the first token", &["sentinel_values"], |_, values, _| {
            values[0] = Some(f64::from(f32::MIN))
        }),
        ("-9999 for every fourth sequence", &["sentinel_values"], |index, values, _| {
            if index % 4 == 1 {
                values.fill(Some(-9999.0));
            }
        }),
        ("0.0 in runs of eight", &["placeholder_zeros"], |_, values, rng| {
            let start = rng.below(values.len());
            values.iter_mut().skip(start).take(8).for_each(|value| *value = Some(0.0));
        }),
        ("0.0 for one token in five", &["placeholder_zeros"], |_, values, rng| some(values, 0.2, rng, |_| 0.0)),
        ("0.0 for every other sequence", &["placeholder_zeros"], |index, values, _| {
            if index % 2 == 1 {
                values.fill(Some(0.0));
            }
        }),
        ("every sign flipped", &["positive_logprobs"], |_, values, rng| some(values, 1.0, rng, |value| -value)),
        ("probabilities instead of logarithms", &["positive_logprobs"], |_, values, rng| {
            some(values, 1.0, rng, f64::exp)
        }),
        ("one sign in twenty flipped", &["positive_logprobs"], |_, values, rng| {
            some(values, 0.05, rng, |value| -value)
        }),
        ("NaN for one token in thirty", &["non_finite"], |_, values, rng| some(values, 0.033, rng, |_| f64::NAN)),
        ("minus infinity for the last token", &["non_finite"], |_, values, _| {
            let last = values.len() - 1;
            values[last] = Some(f64::NEG_INFINITY);
        }),
    ];
    let plant = |(name, expected, rewrite): (&str, &'static [&'static str], Rewrite)| {
        Plant::new(expected, name, move |world, seed| rewritten(world, &Scene::mixed(world, seed), rewrite))
    };
    FAULTS.into_iter().map(plant).collect()
}

/// Changes a share of the values, at least one.
fn some(values: &mut [Option<f64>], share: f64, rng: &mut Rng, change: impl Fn(f64) -> f64) {
    let always = rng.below(values.len());
    for (index, value) in values.iter_mut().enumerate() {
        if index == always || rng.uniform() < share {
            *value = value.map(&change);
        }
    }
}
