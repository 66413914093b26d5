//! The engine saw another context than the one that is posted.

use plumbline_core::TokenId;

use super::scene::{Format, Scene, rollouts_seeing};
use super::{Plant, Posted};
use crate::prompts::{self, BOS, Conversation};
use crate::rng::Rng;
use crate::world::World;

pub(super) fn plants() -> Vec<Plant> {
    vec![
        Plant::new(&["bos_missing"], "the engine saw no BOS", |world, seed| {
            let scene = Scene::of(seed, |rng| [vec![BOS], prompts::any(world, rng)].concat());
            rollouts_seeing(&Format::Bf16.engine(world), &scene, |_, posted| posted[1..].to_vec())
        }),
        Plant::new(&["bos_extra"], "the engine saw a BOS in front", |world, seed| {
            let scene = Scene::mixed(world, seed);
            rollouts_seeing(&Format::Bf16.engine(world), &scene, |_, posted| [&[BOS], posted].concat())
        }),
        Plant::new(&["bos_extra"], "the engine saw two BOS, one is posted", |world, seed| {
            let scene = Scene::of(seed, |rng| [vec![BOS], prompts::any(world, rng)].concat());
            rollouts_seeing(&Format::Bf16.engine(world), &scene, |_, posted| [&[BOS], posted].concat())
        }),
        Plant::new(&["prompt_prefix_differs"], "the engine saw no system prompt", |world, seed| {
            conversations(
                world,
                seed,
                |rng| Conversation::draw(rng).with_system(rng),
                |conversation| Conversation { system: None, ..conversation.clone() }.ids(world, true),
            )
        }),
        Plant::new(&["prompt_prefix_differs"], "the engine saw only the last of three turns", |world, seed| {
            conversations(
                world,
                seed,
                |rng| Conversation::draw(rng).with_more_turns(rng),
                |conversation| Conversation { system: None, turns: conversation.turns[2..].to_vec() }.ids(world, true),
            )
        }),
        Plant::new(&["generation_prompt_differs"], "the engine saw no generation prompt", |world, seed| {
            conversations(world, seed, Conversation::draw, |conversation| conversation.ids(world, false))
        }),
        Plant::new(
            &["generation_prompt_differs"],
            "no generation prompt is posted, the engine saw one",
            |world, seed| {
                let mut rng = Rng::new(seed);
                let drawn: Vec<Conversation> = (0..4).map(|_| Conversation::draw(&mut rng)).collect();
                let mut scene = Scene::mixed(world, seed);
                scene.prompts = drawn.iter().map(|conversation| conversation.ids(world, false)).collect();
                rollouts_seeing(&Format::Bf16.engine(world), &scene, |group, _| drawn[group].ids(world, true))
            },
        ),
        Plant::new(&["token_altered"], "one of the last six tokens of every prompt is another", |world, seed| {
            let scene = Scene::mixed(world, seed);
            let mut rng = scene.rng();
            let back = 1 + rng.below(6);
            rollouts_seeing(&Format::Bf16.engine(world), &scene, |_, posted| {
                let mut seen = posted.to_vec();
                let place = seen.len().saturating_sub(back);
                seen[place] = other_token(&mut rng);
                seen
            })
        }),
        // The token is altered, and the context differs from it.
        Plant::new(
            &["token_altered", "context_differs_from_token"],
            "one completion token is posted as another",
            |world, seed| {
                let mut posted = world.healthy(&Scene::long(world, seed, 64));
                let mut rng = Rng::new(seed);
                for rollout in posted.iter_mut().map(|posted| &mut posted.rollout) {
                    let ids = &mut rollout.completion_token_ids;
                    let index = ids.len() / 4 + rng.below(ids.len() / 3 + 1);
                    ids[index] = other_token(&mut rng);
                }
                posted
            },
        ),
        Plant::new(&["context_differs_from_token"], "from a token on another sample's text is posted", spliced),
        Plant::new(&["retokenised"], "the completion's text was encoded anew", retokenised),
    ]
}

/// A token that no text of the prompts has: an ordinary word.
fn other_token(rng: &mut Rng) -> TokenId {
    300 + rng.below(1700) as TokenId
}

/// Posts conversations, of which the engine saw something else.
fn conversations(
    world: &World,
    seed: u64,
    draw: impl Fn(&mut Rng) -> Conversation,
    seen: impl Fn(&Conversation) -> Vec<TokenId>,
) -> Vec<Posted> {
    let mut drawn = Vec::new();
    let scene = Scene::of(seed, |rng| {
        drawn.push(draw(rng));
        drawn[drawn.len() - 1].ids(world, true)
    });
    rollouts_seeing(&Format::Bf16.engine(world), &scene, |group, _| seen(&drawn[group]))
}

/// Ids from one sample up to a token and from the next sample after it, with the first sample's numbers.
fn spliced(world: &World, seed: u64) -> Vec<Posted> {
    let mut posted = world.healthy(&Scene::long(world, seed, 64));
    let ids: Vec<Vec<TokenId>> = posted.iter().map(|posted| posted.rollout.completion_token_ids.clone()).collect();
    for (index, rollout) in posted.iter_mut().map(|posted| &mut posted.rollout).enumerate() {
        let other = &ids[(index + 1) % ids.len()];
        let len = rollout.completion_token_ids.len();
        for at in (len / 2..len).filter(|at| *at < other.len()) {
            rollout.completion_token_ids[at] = other[at];
        }
    }
    posted
}

/// Sequences whose text encodes to other ids than the engine sampled, posted with the new ids. Where those are fewer, the
/// last numbers are cut off; sequences that encode to the same ids, or to more of them, stay as they are.
fn retokenised(world: &World, seed: u64) -> Vec<Posted> {
    let mut scene = Scene::mixed(world, seed);
    scene.max_tokens = 128;
    scene.samples = 10;
    let mut posted = world.healthy(&scene);
    posted.retain_mut(|posted| {
        let rollout = &mut posted.rollout;
        let text = world.tokenizer.decode(&rollout.completion_token_ids).unwrap();
        let encoded = world.tokenizer.encode(&text, false).unwrap();
        let changed = encoded != rollout.completion_token_ids && encoded.len() <= rollout.logprobs.len();
        if changed {
            rollout.logprobs.truncate(encoded.len());
            rollout.completion_token_ids = encoded;
        }
        changed
    });
    posted
}
