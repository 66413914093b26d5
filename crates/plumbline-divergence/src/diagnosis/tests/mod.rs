//! Whole diagnoses over a synthetic model.

mod engine;

use plumbline_core::{LogprobsMode, Rollout, Sampling, TokenId};

use self::engine::{
    Engine, FLOOR, HEALTHY, Model, Report, VOCABULARY, cause, changed, diagnosed, diagnosed_with, log_softmax, logits,
    raw,
};
use super::testing::Noise;
use super::*;

#[test]
fn healthy_numbers_have_no_cause_and_cost_no_forward_but_for_rows() {
    for seed in 0..20 {
        let (diagnosis, forwards) = diagnosed_with(&HEALTHY.rollouts(4, 40, seed), None, &DiagnosisConfig::default());
        assert!(diagnosis.request.is_empty(), "{diagnosis:#?}");
        assert!(diagnosis.sequences.iter().all(|sequence| sequence.findings.is_empty()));
        assert!(forwards <= 4, "{forwards}");
    }
}

#[test]
fn numbers_that_are_no_logprobs_are_named() {
    let some = |value: f64| {
        changed(HEALTHY.rollouts(3, 40, 1), move |numbers| {
            numbers.iter_mut().step_by(7).for_each(|number| *number = Some(value))
        })
    };
    assert_eq!(cause(&some(-9999.0)), Some(Cause::SentinelValues));
    assert_eq!(cause(&some(-100.0)), Some(Cause::SentinelValues));
    assert_eq!(cause(&some(f64::NAN)), Some(Cause::NonFinite));
    assert_eq!(cause(&some(0.0)), Some(Cause::PlaceholderZeros));
    let flipped = changed(HEALTHY.rollouts(3, 40, 1), |numbers| {
        numbers.iter_mut().for_each(|number| *number = number.map(|value| -value));
    });
    let diagnosis = diagnosed(&flipped);
    assert_eq!(diagnosis.request[0].cause, Cause::PositiveLogprobs);
    assert!(diagnosis.request[0].evidence.contains("sign flipped"), "{:?}", diagnosis.request);
}

#[test]
fn numbers_of_other_tokens_and_sequences_are_named() {
    for shift in [1usize, 2, 38, 39] {
        let shifted = changed(HEALTHY.rollouts(3, 40, 2), |numbers| numbers.rotate_right(shift));
        assert_eq!(cause(&shifted), Some(Cause::ShiftedLogprobs), "{shift}");
    }
    let mut swapped = HEALTHY.rollouts(4, 40, 3);
    let first = swapped[0].logprobs.clone();
    swapped[0].logprobs = std::mem::replace(&mut swapped[2].logprobs, first);
    assert_eq!(cause(&swapped), Some(Cause::RowsSwapped));
    let ends = changed(HEALTHY.rollouts(4, 40, 4), |numbers| numbers[39] = Some(-9.0));
    assert_eq!(cause(&ends), Some(Cause::TerminalToken));
}

#[test]
fn sampling_transforms_are_named() {
    let neutral = Sampling::default();
    let hot = |sampling: Sampling, mode, report: Report<'_>| {
        cause(&Engine { sampling, mode, report, ..HEALTHY }.rollouts(4, 40, 5))
    };
    let at = |temperature: f64| move |row: &[f32], _: &[f64], token: usize| log_softmax(row, temperature)[token];
    let sampling = Sampling { temperature: 0.7, ..neutral };
    assert_eq!(hot(sampling, LogprobsMode::Temperature, &raw), Some(Cause::TemperatureNotApplied));
    assert_eq!(hot(sampling, LogprobsMode::Temperature, &at(0.49)), Some(Cause::TemperatureApplied));
    assert_eq!(hot(sampling, LogprobsMode::Raw, &at(0.7)), Some(Cause::TemperatureApplied));
    assert_eq!(hot(neutral, LogprobsMode::Raw, &at(1.4)), Some(Cause::TemperatureApplied));
    let after = |_: &[f32], logprobs: &[f64], token: usize| logprobs[token] / 0.8;
    assert_eq!(hot(neutral, LogprobsMode::Raw, &after), Some(Cause::TemperatureAfterSoftmax));
    assert_eq!(hot(sampling, LogprobsMode::Temperature, &at(0.7)), None);
}

#[test]
fn stated_and_unstated_truncations_are_named() {
    let kept = |row: &[f64], token: usize, keep: &dyn Fn(usize, f64, f64) -> bool| -> f64 {
        let mut sorted: Vec<f64> = row.to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let (mut mass, mut before) = (0.0, 0.0f64);
        for (rank, logprob) in sorted.iter().enumerate() {
            if !keep(rank, before, logprob - sorted[0]) {
                break;
            }
            before += logprob.exp();
            mass = before;
        }
        // Tokens that would be cut off have their number all the same: the engine here samples from all of them.
        row[token] - f64::max(mass, 1e-9).ln()
    };
    let named = |keep: &'static (dyn Fn(usize, f64, f64) -> bool + Sync), seed| {
        let report = |_: &[f32], logprobs: &[f64], token: usize| kept(logprobs, token, keep);
        let rollouts = Engine { report: &report, ..HEALTHY }.rollouts(6, 60, seed);
        // Sequences as the truncated engine samples them: tokens that are cut off are masked.
        let masked: Vec<Rollout> = rollouts
            .into_iter()
            .map(|rollout| {
                let scores = Model::default().score_one(&rollout.scoring_sequences().unwrap()[0]);
                let prompt = rollout.prompt_token_ids.len();
                let ids = [&rollout.prompt_token_ids[..], &rollout.completion_token_ids].concat();
                let mask = (0..rollout.completion_token_ids.len()).map(|at| {
                    let mut row = log_softmax(&logits("b", &ids[..prompt + at]), 1.0);
                    row.sort_by(|a, b| b.total_cmp(a));
                    let rank = scores.rank[at] as usize;
                    let before: f64 = row[..rank].iter().map(|value| value.exp()).sum();
                    keep(rank, before, scores.logprobs[at] - row[0])
                });
                Rollout { loss_mask: Some(mask.collect()), ..rollout }
            })
            .collect();
        cause(&masked)
    };
    assert_eq!(named(&|rank, _, _| rank < 12, 6), Some(Cause::TopKRenormalised));
    assert_eq!(named(&|_, before, _| before < 0.8, 7), Some(Cause::TopPRenormalised));
    assert_eq!(named(&|_, _, below| below > 0.08f64.ln(), 8), Some(Cause::MinPRenormalised));
}

#[test]
fn other_weights_and_contexts_are_named() {
    let stale = Engine { version: &|_| "a", ..HEALTHY };
    assert_eq!(cause(&stale.rollouts(3, 40, 9)), Some(Cause::StaleWeights));
    let swap = Engine { version: &|at| if at < 20 { "a" } else { "b" }, ..HEALTHY };
    assert_eq!(cause(&swap.rollouts(3, 60, 10)), Some(Cause::MidSequenceWeightSwap));
    let missing = Engine { seen: &|prompt| prompt[1..].to_vec(), ..HEALTHY };
    assert_eq!(cause(&missing.rollouts(3, 40, 11)), Some(Cause::BosMissing));
    let unrelated = Engine { version: &|_| "z", ..HEALTHY };
    assert_eq!(cause(&unrelated.rollouts(3, 60, 12)), Some(Cause::DifferentWeights));
}

#[test]
fn a_token_that_was_another_is_found() {
    let mut rollouts = HEALTHY.rollouts(1, 60, 13);
    let posted = rollouts[0].completion_token_ids[25];
    rollouts[0].completion_token_ids[25] = (posted + 40) % VOCABULARY as TokenId;
    let diagnosis = diagnosed(&rollouts);
    assert_eq!(diagnosis.request[0].cause, Cause::TokenAltered, "{diagnosis:#?}");
    let words = format!("completion token 25 was {posted}");
    assert!(diagnosis.request[0].evidence.contains(&words), "{}", diagnosis.request[0].evidence);
    let mut spliced = HEALTHY.rollouts(2, 60, 14);
    let other = spliced[1].completion_token_ids.clone();
    spliced[0].completion_token_ids[30..].copy_from_slice(&other[30..]);
    assert_eq!(cause(&spliced[..1]), Some(Cause::ContextDiffersFromToken));
}

#[test]
fn ids_that_are_fewer_than_sampled_are_retokenised() {
    let mut rollouts = HEALTHY.rollouts(3, 60, 15);
    for rollout in &mut rollouts {
        // As if two ids had become one: one id fewer, the numbers cut off at the end.
        rollout.completion_token_ids.remove(20);
        rollout.logprobs.truncate(59);
    }
    assert_eq!(cause(&rollouts), Some(Cause::Retokenised));
}

#[test]
fn a_head_in_bf16_behind_an_exact_body_is_named_although_it_is_within_the_floor() {
    let report = |row: &[f32], _: &[f64], token: usize| {
        let rounded: Vec<f32> = row.iter().map(|logit| super::row::to_bf16(*logit)).collect();
        log_softmax(&rounded, 1.0)[token]
    };
    let mut rollouts = Engine { report: &report, ..HEALTHY }.rollouts(3, 60, 16);
    for rollout in &mut rollouts {
        let ids = [&rollout.prompt_token_ids[..], &rollout.completion_token_ids].concat();
        let prompt = rollout.prompt_token_ids.len();
        for (at, number) in rollout.logprobs.iter_mut().enumerate() {
            *number = Some(report(&logits("b", &ids[..prompt + at]), &[], ids[prompt + at] as usize));
        }
    }
    assert_eq!(cause(&rollouts), Some(Cause::LowPrecisionHead));
}

#[test]
fn a_spent_budget_is_said_and_nothing_is_guessed() {
    let stale = Engine { version: &|_| "a", ..HEALTHY }.rollouts(3, 40, 9);
    let config = DiagnosisConfig { probe_tokens: 60, ..DiagnosisConfig::default() };
    let (diagnosis, _) = diagnosed_with(&stale, None, &config);
    assert!(diagnosis.exhausted && diagnosis.probed_tokens <= 60);
    assert!(diagnosis.request.iter().all(|finding| finding.cause != Cause::StaleWeights), "{diagnosis:#?}");
    assert!(diagnosis.request[0].evidence.contains("budget"), "{diagnosis:#?}");
}

/// Adds noise of so many floors to the numbers, by their place in the completion.
fn noisy(rollouts: Vec<Rollout>, floors: impl Fn(usize) -> f64) -> Vec<Rollout> {
    let mut noise = Noise(99);
    let mut rollouts = rollouts;
    for rollout in &mut rollouts {
        for (at, number) in rollout.logprobs.iter_mut().enumerate() {
            *number = number.map(|value| (value + floors(at) * FLOOR * noise.laplace()).min(0.0));
        }
    }
    rollouts
}

#[test]
fn noise_is_told_by_where_it_begins_and_where_it_ends() {
    let coarse = noisy(HEALTHY.rollouts(4, 60, 17), |at| if at < 20 { 0.0 } else { 7.0 });
    assert_eq!(cause(&coarse), Some(Cause::KvCachePrecision));
    let everywhere = noisy(HEALTHY.rollouts(6, 80, 18), |_| 5.0);
    assert_eq!(cause(&everywhere), Some(Cause::NumericalNoise));
    let fading = noisy(HEALTHY.rollouts(6, 60, 19), |at| 14.0 * (-(at as f64) / 25.0).exp());
    let (cached, _) = diagnosed_with(&fading, Some(16), &DiagnosisConfig::default());
    assert_eq!(cached.request[0].cause, Cause::StalePrefixCache, "{cached:#?}");
    let not_cached = diagnosed(&fading);
    assert_ne!(not_cached.request[0].cause, Cause::StalePrefixCache, "{not_cached:#?}");
}

#[test]
fn a_bias_of_some_ids_is_told_from_other_weights() {
    let biased = |id: usize| if id % 9 == 4 { 1.2 } else { 0.0 };
    let report = |row: &[f32], _: &[f64], token: usize| {
        let row: Vec<f32> = row.iter().enumerate().map(|(id, logit)| logit + biased(id) as f32).collect();
        log_softmax(&row, 1.0)[token]
    };
    let rollouts = Engine { report: &report, ..HEALTHY }.rollouts(8, 60, 20);
    let diagnosis = diagnosed(&rollouts);
    assert_eq!(diagnosis.request[0].cause, Cause::HeadBias, "{:#?}", diagnosis.request);
    assert!(diagnosis.request[0].explained.unwrap() > 0.5, "{:#?}", diagnosis.request);
}

#[test]
fn soft_caps_and_padded_rows_are_named_with_their_size() {
    let capped = |row: &[f32], _: &[f64], token: usize| {
        let row: Vec<f32> = row.iter().map(|logit| 8.0 * (logit / 8.0).tanh()).collect();
        log_softmax(&row, 1.0)[token]
    };
    let found = diagnosed(&Engine { report: &capped, ..HEALTHY }.rollouts(4, 60, 21)).request;
    assert_eq!(found[0].cause, Cause::SoftcapMismatch, "{found:#?}");
    assert!(found[0].evidence.contains("about 8.0") || found[0].evidence.contains("about 7.9"), "{found:#?}");
    let padded = |row: &[f32], _: &[f64], token: usize| {
        let row = [row, &[0.0; 64]].concat();
        log_softmax(&row, 1.0)[token]
    };
    let found = diagnosed(&Engine { report: &padded, ..HEALTHY }.rollouts(4, 60, 22)).request;
    assert_eq!(found[0].cause, Cause::PaddedVocabulary, "{found:#?}");
}
