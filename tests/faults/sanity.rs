//! The simulator itself: without a fault its engine is as near to the reference as a real one is, and a plant is explained by
//! its own fault and by nothing less.

use std::sync::{Arc, LazyLock};

use plumbline_core::{LogprobsMode, PackedBatch, ReferenceModel, Rollout};
use plumbline_model::CandleReference;

use crate::engine::{Engine, KvFormat, LowCache, Precision, Report, Request, Swap};
use crate::plants::{Format, Posted, Scene, rollouts};
use crate::prompts;
use crate::world::{CURRENT, PREVIOUS, World};

static WORLD: LazyLock<World> = LazyLock::new(World::load);

/// MAE of vLLM's bf16 recording of the same model against the f64 reference, in nats.
const RECORDED_FLOOR: f64 = 9.7e-3;

/// `|d_t|` of the tokens with a number, in the posted mode.
fn differences(posted: &[Posted], reference: &mut CandleReference) -> Vec<f64> {
    let of_rollout = |rollout: &Rollout| rollout.scoring_sequences().unwrap();
    let sequences: Vec<_> = posted.iter().flat_map(|posted| of_rollout(&posted.rollout)).collect();
    let scores = reference.score(&PackedBatch::pack_shared(&sequences)).unwrap().sequences;
    let of_sequence = posted.iter().zip(scores);
    let differences = of_sequence.flat_map(|(posted, scores)| {
        let values = posted.rollout.logprobs.iter().zip(scores.logprobs_in_mode);
        values.filter_map(|(engine, reference)| engine.map(|engine| (reference - engine).abs())).collect::<Vec<_>>()
    });
    differences.collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[test]
fn an_f32_engine_agrees_with_the_reference() {
    for (network, version, adapted) in
        [(&WORLD.current, CURRENT, false), (&WORLD.previous, PREVIOUS, false), (&WORLD.adapted, CURRENT, true)]
    {
        let mut engine = Format::F32.engine(&WORLD);
        engine.network = network.clone();
        let found = differences(&rollouts(&engine, &Scene::mixed(&WORLD, 1)), &mut WORLD.reference(version, adapted));
        let largest = found.iter().fold(0f64, |largest, value| largest.max(*value));
        assert!(
            mean(&found) < 3e-6 && largest < 1e-4,
            "{version} {adapted}: mean {:.1e} max {largest:.1e}",
            mean(&found)
        );
    }
}

#[test]
fn a_bf16_engine_is_as_noisy_as_vllm() {
    let mut reference = WORLD.reference(CURRENT, false);
    let found: Vec<f64> = (0..6)
        .flat_map(|seed| {
            differences(&rollouts(&Format::Bf16.engine(&WORLD), &Scene::mixed(&WORLD, seed)), &mut reference)
        })
        .collect();
    let multiple = mean(&found) / RECORDED_FLOOR;
    assert!((0.7..1.3).contains(&multiple), "{multiple} of the recorded floor");
}

/// Engines with one fault each.
fn faulty(fault: usize) -> Option<Engine> {
    let mut engine = Format::Bf16.engine(&WORLD);
    match fault {
        0 => engine.positions.rope_theta = 100_000.0,
        1 => engine.positions.rope_factor = 4.0,
        2 => engine.positions.window = Some(16),
        3 => engine.head.softcap = Some(10.0),
        4 => engine.head.padded_rows = 512,
        5 => engine.head.bias = Some(Arc::new((0..2048).map(|id| if id % 7 == 0 { 1.0 } else { 0.0 }).collect())),
        6 => engine.network = WORLD.previous.clone(),
        7 => engine.cached_prefix = Some(WORLD.previous.clone()),
        8 => engine.swap = Some(Swap { to: WORLD.previous.clone(), at: 4..30, recompute: true }),
        9 => engine.swap = Some(Swap { to: WORLD.previous.clone(), at: 4..30, recompute: false }),
        10 => engine.kv_cache = Some(LowCache { format: KvFormat::E5m2, from: Some(8) }),
        11 => engine.kv_cache = Some(LowCache { format: KvFormat::E4m3, from: None }),
        12 => (engine.sampling.temperature, engine.report) = (0.7, Report::Temperature),
        13 => (engine.sampling.repetition_penalty, engine.report) = (1.3, Report::Processed),
        14 => (engine.sampling.presence_penalty, engine.report) = (1.0, Report::Processed),
        _ => return None,
    }
    Some(engine)
}

#[test]
fn a_fault_is_explained_by_itself_down_to_the_floor_and_not_by_nothing() {
    let mut reference = WORLD.reference(CURRENT, false);
    let scene = Scene { max_tokens: 48, samples: 2, ..Scene::of(5, |rng| prompts::long(&WORLD, rng)) };
    for (fault, engine) in (0..).map_while(|fault| faulty(fault).map(|engine| (fault, engine))) {
        let mut posted = rollouts(&engine, &scene);
        let mut exact = engine.clone();
        exact.precision = Precision::F32;
        exact.head.mantissa = None;
        let requests: Vec<Request> = posted
            .iter()
            .map(|Posted { rollout, .. }| Request {
                prompt: rollout.prompt_token_ids.clone(),
                max_tokens: rollout.completion_token_ids.len(),
                forced: Some(rollout.completion_token_ids.clone()),
            })
            .collect();
        let answers = exact.generate(&requests, scene.seed);
        let explained = posted.iter().zip(&answers).flat_map(|(posted, exact)| {
            assert_eq!(posted.rollout.completion_token_ids, exact.completion);
            let values = posted.rollout.logprobs.iter().flatten().zip(&exact.logprobs);
            values.map(|(engine, exact)| (engine - exact).abs()).collect::<Vec<_>>()
        });
        let residual = mean(&explained.collect::<Vec<_>>()) / RECORDED_FLOOR;
        posted.iter_mut().for_each(|posted| posted.rollout.logprobs_mode = LogprobsMode::Raw);
        let unexplained = mean(&differences(&posted, &mut reference)) / RECORDED_FLOOR;
        // A low-precision cache rounds to the other side where its input differs by rounding.
        let noisier = if engine.kv_cache.is_some() { 1.5 } else { 1.0 };
        assert!((0.4..1.5 * noisier).contains(&residual), "fault {fault}: {residual} of the floor remain");
        assert!(unexplained > 1.4 * residual, "fault {fault}: {unexplained} of the floor, {residual} remain");
    }
}
