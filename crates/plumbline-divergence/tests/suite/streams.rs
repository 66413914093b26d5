//! Simulated engines: streams of sequences with the mean `|d|` that each would show.

use std::time::Duration;

use plumbline_divergence::{DriftDetector, DriftSample, DriftUpdate};

use crate::random::Random;

/// How `|d|` is distributed in a stream whose mean is 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Engine {
    /// Shortest and longest sequence; lengths are log-uniform.
    pub(crate) lengths: (u64, u64),
    /// Standard deviation over mean of a token's `|d|`. Recordings of vLLM in bf16 show 0.9 to 1.1.
    pub(crate) spread: f64,
    /// Part of the tokens on which a router flips; there `|d|` is ten times as large or more, Pareto with exponent 1.5 (its
    /// variance is infinite).
    pub(crate) flips: f64,
    /// Standard deviation of the logarithm of a prompt's level. Prompts come as groups of 8 sequences.
    pub(crate) prompts: f64,
    /// Standard deviation of the logarithm of a level that wanders, forgetting over 100 sequences.
    pub(crate) wander: f64,
}

/// A dense model in bf16.
pub(crate) const DENSE: Engine = Engine { lengths: (8, 4000), spread: 1.0, flips: 0.0, prompts: 0.0, wander: 0.0 };
/// Short answers of a noisier model.
pub(crate) const SHORT: Engine = Engine { lengths: (8, 40), spread: 1.5, ..DENSE };
/// A mixture of experts.
pub(crate) const EXPERTS: Engine = Engine { flips: 2e-3, ..DENSE };
/// Groups of 8 samples of a prompt, prompts that differ.
pub(crate) const GROUPS: Engine = Engine { prompts: 0.25, ..DENSE };
/// Everything at once, and a level that wanders.
pub(crate) const WANDERING: Engine = Engine { lengths: (8, 400), spread: 1.3, flips: 1e-3, prompts: 0.15, wander: 0.1 };

/// All of them with their names.
pub(crate) const ENGINES: [(&str, Engine); 5] =
    [("dense", DENSE), ("short", SHORT), ("experts", EXPERTS), ("groups", GROUPS), ("wandering", WANDERING)];

/// An engine at work.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    engine: Engine,
    pub(crate) random: Random,
    sequence: u64,
    prompt: f64,
    wander: f64,
}

impl Stream {
    pub(crate) fn new(engine: Engine, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let wander = engine.wander * random.normal();
        Self { engine, random, sequence: 0, prompt: 0.0, wander }
    }

    /// Tokens of the next sequence and its mean `|d|`; its expectation is 1.
    pub(crate) fn next(&mut self) -> (u64, f64) {
        let Engine { lengths, spread, flips, prompts, wander } = self.engine;
        if self.sequence.is_multiple_of(8) {
            self.prompt = prompts * self.random.normal();
        }
        self.sequence += 1;
        let kept = 0.99f64;
        self.wander = kept * self.wander + (1.0 - kept * kept).sqrt() * wander * self.random.normal();
        let tokens = self.random.length(lengths.0, lengths.1);
        let count = tokens as f64;
        let shape = count / (spread * spread);
        let mut sum = count * self.random.gamma(shape) / shape;
        for _ in 0..self.random.poisson(flips * count) {
            sum += 10.0 * self.random.uniform().powf(-1.0 / 1.5);
        }
        // Means: a Pareto variable with exponent 1.5 has 3 times its least value, exp of a normal one exp(variance / 2).
        let effects = self.prompt + self.wander - (prompts * prompts + wander * wander) / 2.0;
        (tokens, sum / count * effects.exp() / (1.0 + 30.0 * flips))
    }
}

/// Healthy level of the simulated engines in nats.
pub(crate) const LEVEL: f64 = 0.01;

/// Feeds sequences `from..to` to a detector, a second apart, at the multiple that `multiple` gives by number, with the
/// policy version that `version` gives. Stops at the first update.
pub(crate) fn feed(
    detector: &mut DriftDetector,
    stream: &mut Stream,
    sequences: std::ops::Range<u64>,
    multiple: impl Fn(u64) -> f64,
    version: impl Fn(u64) -> u64,
) -> Option<(u64, DriftUpdate)> {
    for sequence in sequences {
        let (tokens, mean) = stream.next();
        let version = version(sequence).to_string();
        let level = LEVEL * mean * multiple(sequence);
        let sample = DriftSample::new(Duration::from_secs(sequence), Some(&version), tokens, level, None).unwrap();
        if let Some(update) = detector.observe(&sample) {
            return Some((sequence, update));
        }
    }
    None
}
