//! What a faithful bf16 engine of the tiny model shows, by entropy: measured on other rollouts than the ones that are judged.

use plumbline_divergence::{Floor, TokenFloor};

use crate::plants::{Format, Scene, rollouts};
use crate::references::References;
use crate::world::World;

/// Mean `|d|` and `d^2` in buckets of entropy that hold equally many tokens.
#[derive(Clone, Debug)]
pub(crate) struct MeasuredFloor {
    /// Upper bound of the entropy in nats, and what is expected up to there.
    buckets: Vec<(f64, TokenFloor)>,
}

const BUCKETS: usize = 12;

impl MeasuredFloor {
    pub(crate) fn measure(world: &World, references: &mut References<'_>, seeds: std::ops::Range<u64>) -> Self {
        let mut tokens: Vec<(f64, f64)> = Vec::new();
        for seed in seeds {
            let posted = rollouts(&Format::Bf16.engine(world), &Scene::mixed(world, seed));
            let scores = references.score(posted.iter().map(|posted| &posted.rollout));
            for (posted, scores) in posted.iter().zip(scores) {
                let engine = posted.rollout.logprobs.iter().flatten();
                let differences = scores.logprobs.iter().zip(engine).map(|(reference, engine)| reference - engine);
                tokens.extend(scores.entropy.iter().copied().zip(differences));
            }
        }
        tokens.sort_by(|a, b| a.0.total_cmp(&b.0));
        let of_bucket = |tokens: &[(f64, f64)]| {
            let mean = |value: fn(f64) -> f64| tokens.iter().map(|(_, d)| value(*d)).sum::<f64>() / tokens.len() as f64;
            (tokens[tokens.len() - 1].0, TokenFloor { mean_abs: mean(f64::abs), mean_square: mean(|d| d * d) })
        };
        Self { buckets: tokens.chunks(tokens.len().div_ceil(BUCKETS)).map(of_bucket).collect() }
    }
}

impl Floor for MeasuredFloor {
    fn token(&self, entropy: f64) -> TokenFloor {
        let bucket = self.buckets.partition_point(|(upper, _)| *upper < entropy).min(self.buckets.len() - 1);
        self.buckets[bucket].1
    }
}
