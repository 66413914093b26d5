//! Traffic: prompts, groups, lengths, and what a worker posts of it.

use plumbline_core::{LogprobsMode, Rollout, TokenId};

use super::Posted;
use crate::engine::{Answer, Engine, Precision, Report, Request};
use crate::prompts;
use crate::rng::Rng;
use crate::world::{CURRENT, World};

/// Number format of a faithful engine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Format {
    /// bf16 with a bf16 head.
    Bf16,
    /// bf16 with an f32 head.
    Bf16WithF32Head,
    /// f32 everywhere.
    F32,
}

impl Format {
    pub(crate) fn engine(self, world: &World) -> Engine {
        let mut engine = Engine::healthy(world.current.clone(), world.eos);
        if self != Self::Bf16 {
            engine.head.mantissa = None;
        }
        if self == Self::F32 {
            engine.precision = Precision::F32;
        }
        engine
    }
}

/// Prompts and lengths of a run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scene {
    /// What the worker posts as prompts, one per group.
    pub(crate) prompts: Vec<Vec<TokenId>>,
    pub(crate) samples: usize,
    pub(crate) max_tokens: usize,
    pub(crate) seed: u64,
}

impl Scene {
    /// Some groups with prompts of one kind; few long sequences or many short ones.
    pub(crate) fn of(seed: u64, mut prompt: impl FnMut(&mut Rng) -> Vec<TokenId>) -> Self {
        let mut rng = Rng::new(seed);
        let (groups, samples, max_tokens) =
            *rng.pick(&[(6, 4, 32), (4, 4, 64), (3, 4, 64), (4, 4, 96), (3, 4, 128), (2, 4, 200), (2, 3, 300)]);
        let prompts = (0..groups).map(|_| prompt(&mut rng)).collect();
        Self { prompts, samples, max_tokens, seed }
    }

    /// Groups with prompts of all kinds.
    pub(crate) fn mixed(world: &World, seed: u64) -> Self {
        Self::of(seed, |rng| prompts::any(world, rng))
    }

    /// As [`Scene::mixed`], with sequences of at least `tokens` tokens unless they end.
    pub(crate) fn long(world: &World, seed: u64, tokens: usize) -> Self {
        let mut scene = Self::mixed(world, seed);
        scene.max_tokens = scene.max_tokens.max(tokens);
        scene
    }

    pub(crate) fn rng(&self) -> Rng {
        Rng::new(self.seed ^ 0x00FA_0175)
    }
}

/// What the worker posts when the engine answers it; `seen` is the prompt that the engine really saw.
pub(crate) fn rollouts_seeing(
    engine: &Engine,
    scene: &Scene,
    mut seen: impl FnMut(usize, &[TokenId]) -> Vec<TokenId>,
) -> Vec<Posted> {
    let seen: Vec<Vec<TokenId>> = scene.prompts.iter().enumerate().map(|(group, prompt)| seen(group, prompt)).collect();
    let of_group =
        |prompt: &Vec<TokenId>| Request { prompt: prompt.clone(), max_tokens: scene.max_tokens, forced: None };
    let requests: Vec<Request> =
        seen.iter().flat_map(|prompt| std::iter::repeat_n(of_group(prompt), scene.samples)).collect();
    let answers = engine.generate(&requests, scene.seed);
    let posted = answers.into_iter().enumerate();
    posted.map(|(index, answer)| post(engine, scene, index, answer)).collect()
}

fn post(engine: &Engine, scene: &Scene, index: usize, answer: Answer) -> Posted {
    let group = index / scene.samples;
    let rollout = Rollout {
        id: format!("{group}-{}", index % scene.samples),
        prompt_token_ids: scene.prompts[group].clone(),
        completion_token_ids: answer.completion,
        logprobs: answer.logprobs.into_iter().map(Some).collect(),
        loss_mask: None,
        sampling: engine.sampling,
        logprobs_mode: match engine.report {
            Report::Raw => LogprobsMode::Raw,
            Report::Processed => LogprobsMode::Processed,
            Report::Temperature | Report::RawOverTemperature | Report::TemperatureTwice => LogprobsMode::Temperature,
        },
        finish_reason: Some(if answer.finished { "stop" } else { "length" }.into()),
        policy_version: Some(CURRENT.into()),
        weight_versions: Vec::new(),
    };
    Posted { rollout, group, worker: 0, cached_tokens: None }
}

/// What the worker posts of an engine that saw the prompts it was sent.
pub(crate) fn rollouts(engine: &Engine, scene: &Scene) -> Vec<Posted> {
    rollouts_seeing(engine, scene, |_, prompt| prompt.to_vec())
}

/// A healthy engine's rollouts with its numbers overwritten.
pub(crate) fn rewritten(
    world: &World,
    scene: &Scene,
    mut rewrite: impl FnMut(usize, &mut Vec<Option<f64>>, &mut Rng),
) -> Vec<Posted> {
    let mut rng = scene.rng();
    let mut posted = world.healthy(scene);
    for (index, posted) in posted.iter_mut().enumerate() {
        rewrite(index, &mut posted.rollout.logprobs, &mut rng);
    }
    posted
}
