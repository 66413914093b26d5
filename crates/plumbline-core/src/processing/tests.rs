//! The processing against a slow twin that does what the engines' sources do, step by step, on sorted rows.

use proptest::prelude::*;

use super::*;

/// The whole processed distribution, by full sorts.
fn slow(processing: &Processing, logits: &[f32], prompt: &[TokenId], sampled: &[TokenId]) -> Vec<f64> {
    let count = |ids: &[TokenId], id: usize| ids.iter().filter(|seen| **seen as usize == id).count() as f64;
    let sglang = processing.order == ProcessingOrder::Sglang;
    let mut scaled: Vec<f64> = Vec::new();
    for (id, logit) in logits.iter().enumerate() {
        let mut value = f64::from(*logit);
        let times = count(sampled, id);
        let subtract =
            |value: f64| value - (processing.presence_penalty * times.min(1.0) + processing.frequency_penalty * times);
        let repeat = |value: f64, seen: bool| match (seen, value > 0.0) {
            (false, _) => value,
            (true, true) => value / processing.repetition_penalty,
            (true, false) => value * processing.repetition_penalty,
        };
        value = if sglang {
            repeat(subtract(value), times > 0.0)
        } else {
            subtract(repeat(value, times > 0.0 || count(prompt, id) > 0.0))
        };
        scaled.push(f64::from(value as f32) / processing.temperature);
    }
    let mut kept = vec![true; scaled.len()];
    let probabilities = |scaled: &[f64], kept: &[bool]| -> Vec<f64> {
        let max = scaled.iter().zip(kept).filter(|(_, kept)| **kept).map(|(z, _)| *z).fold(f64::MIN, f64::max);
        let weights: Vec<f64> =
            scaled.iter().zip(kept).map(|(z, kept)| if *kept { (z - max).exp() } else { 0.0 }).collect();
        let sum: f64 = weights.iter().sum();
        weights.into_iter().map(|weight| weight / sum).collect()
    };
    let full = probabilities(&scaled, &kept);
    let mut order: Vec<usize> = (0..scaled.len()).collect();
    order.sort_by(|a, b| scaled[*a].total_cmp(&scaled[*b]));
    let top = full.iter().copied().fold(0.0, f64::max);
    if processing.min_p > 0.0 {
        for (kept, probability) in kept.iter_mut().zip(&full) {
            *kept &= *probability >= processing.min_p * top * (1.0 - 1e-12);
        }
    }
    if processing.top_k > 0 {
        let survivors: Vec<usize> = order.iter().copied().filter(|id| sglang || kept[*id]).collect();
        if survivors.len() > processing.top_k {
            let lowest = scaled[survivors[survivors.len() - processing.top_k]];
            kept.iter_mut().zip(&scaled).for_each(|(kept, z)| *kept &= *z >= lowest);
        }
    }
    if processing.top_p < 1.0 {
        let of = if sglang { full } else { probabilities(&scaled, &kept) };
        for (id, kept) in kept.iter_mut().enumerate() {
            // The mass of what stands above this token.
            let above: f64 = if sglang {
                (0..of.len()).filter(|other| scaled[*other] > scaled[id]).map(|other| of[other]).sum()
            } else {
                order.iter().rev().take_while(|other| **other != id).map(|other| of[*other]).sum()
            };
            *kept &= above < processing.top_p;
        }
    }
    probabilities(&scaled, &kept).into_iter().map(f64::ln).collect()
}

fn processing() -> impl Strategy<Value = Processing> {
    (
        prop::sample::select(vec![0.3, 0.7, 1.0, 1.6]),
        prop::sample::select(vec![0usize, 1, 2, 5, 20, 1000]),
        // No round shares of a few equal tokens: there the twin's own rounding decides.
        prop::sample::select(vec![1.0, 0.9137, 0.5471, 0.0213, 0.9991]),
        prop::sample::select(vec![0.0, 0.0517, 0.3319, 0.9973]),
        prop::sample::select(vec![1.0, 1.3, 0.8]),
        prop::sample::select(vec![0.0, 0.8, -0.5]),
        prop::sample::select(vec![0.0, 0.4]),
        prop::sample::select(vec![ProcessingOrder::Vllm, ProcessingOrder::Sglang, ProcessingOrder::Tgi]),
    )
        .prop_map(
            |(temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty, order)| {
                Processing {
                    temperature,
                    top_k,
                    top_p,
                    min_p,
                    repetition_penalty,
                    presence_penalty,
                    frequency_penalty,
                    order,
                }
            },
        )
}

/// Rows with ties (logits on a coarse lattice) and without.
fn logits() -> impl Strategy<Value = Vec<f32>> {
    prop_oneof![
        prop::collection::vec(-12.0f32..8.0, 30..90),
        prop::collection::vec((-12i32..8).prop_map(|step| step as f32 / 2.0), 30..90),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_is_what_the_slow_twin_says(
        processing in processing(),
        logits in logits(),
        prompt in prop::collection::vec(0u32..30, 0..8),
        sampled in prop::collection::vec(0u32..30, 0..12),
    ) {
        let expected = slow(&processing, &logits, &prompt, &sampled);
        let seen = TokenCounts::new(&prompt, &sampled);
        let mut scratch = ProcessingScratch::default();
        let mut mass = 0.0;
        for (token, expected) in expected.iter().enumerate() {
            match processing.logprob(&logits, token as u32, &seen, &mut scratch) {
                Processed::Logprob(found) => {
                    prop_assert!((found - expected).abs() < 1e-9, "token {token}: {found} is not {expected}");
                    mass += found.exp();
                }
                Processed::OutsideSupport => prop_assert_eq!(*expected, f64::NEG_INFINITY, "token {}", token),
            }
        }
        prop_assert!((mass - 1.0).abs() < 1e-9, "the kept tokens have all the probability, not {mass}");
    }
}

fn logprob(processing: &Processing, logits: &[f32], token: u32) -> Processed {
    processing.logprob(logits, token, &TokenCounts::default(), &mut ProcessingScratch::default())
}

#[test]
fn the_orders_differ_where_a_nucleus_meets_top_k() {
    // Probabilities 0.4, 0.3, 0.2, 0.1. Of the top three the first two have 7/9, of all 0.7.
    let logits = [0.4f32, 0.3, 0.2, 0.1].map(f32::ln);
    let both = Processing { top_k: 3, top_p: 0.75, ..Processing::default() };
    assert_eq!(logprob(&both, &logits, 2), Processed::OutsideSupport, "vLLM takes the nucleus of the top k");
    let sglang = Processing { order: ProcessingOrder::Sglang, ..both };
    let Processed::Logprob(found) = logprob(&sglang, &logits, 2) else { panic!("SGLang takes it of all") };
    assert!((found - (0.2f64 / 0.9).ln()).abs() < 1e-6);
}

#[test]
fn ties_at_the_end_follow_the_engines_sorts() {
    let logits = [0.0f32; 4];
    // vLLM drops from the low end of a stable ascending sort: of equal logits the last ids stay.
    let nucleus = Processing { top_p: 0.3, ..Processing::default() };
    let kept: Vec<_> = (0..4).filter(|token| logprob(&nucleus, &logits, *token) != Processed::OutsideSupport).collect();
    assert_eq!(kept, [2, 3]);
    // Top-k compares logits, and so do SGLang's kernels.
    for all in
        [Processing { top_k: 2, ..Processing::default() }, Processing { order: ProcessingOrder::Sglang, ..nucleus }]
    {
        assert!((0..4).all(|token| logprob(&all, &logits, token) == Processed::Logprob(-(4f64.ln()))), "{all:?}");
    }
}

#[test]
fn the_prompt_is_repetition_in_vllm_and_not_in_sglang() {
    let logits = [1.0f32, 1.0];
    let seen = TokenCounts::new(&[0], &[]);
    let of = |order| {
        let processing = Processing { repetition_penalty: 2.0, presence_penalty: 5.0, order, ..Processing::default() };
        match processing.logprob(&logits, 0, &seen, &mut ProcessingScratch::default()) {
            Processed::Logprob(logprob) => logprob,
            Processed::OutsideSupport => panic!("nothing is truncated"),
        }
    };
    assert_eq!(of(ProcessingOrder::Sglang), -(2f64.ln()));
    assert!((of(ProcessingOrder::Vllm) + (1.0 + 0.5f64.exp()).ln()).abs() < 1e-12, "and presence is of samples only");
}

#[test]
fn impossible_tokens_have_no_logprob_and_broken_rows_end() {
    let logits = [0.0f32, f32::NEG_INFINITY, 1.0];
    assert_eq!(logprob(&Processing { top_k: 3, ..Processing::default() }, &logits, 1), Processed::OutsideSupport);
    let nucleus = Processing { top_p: 0.9999, ..Processing::default() };
    assert_eq!(logprob(&nucleus, &logits, 1), Processed::OutsideSupport);
    for broken in [[f32::NAN; 3], [f32::INFINITY, 0.0, 1.0], [f32::NEG_INFINITY; 3]] {
        match logprob(&nucleus, &broken, 0) {
            Processed::Logprob(value) => assert!(value.is_nan(), "{broken:?} {value}"),
            Processed::OutsideSupport => assert!(!broken[0].is_finite(), "{broken:?}"),
        }
    }
}

fn sampling(json: &str) -> Sampling {
    serde_json::from_str(json).unwrap()
}

#[test]
fn the_mode_and_the_order_decide_what_is_reproduced() {
    let of = |mode, json: &str| Processing::of(mode, &sampling(json)).unwrap();
    use LogprobsMode::{Processed, Raw, Temperature};
    let nucleus = r#"{"temperature":0.7,"top_p":0.9,"top_k":-1}"#;
    assert_eq!(of(Raw, nucleus), Processing::default());
    assert_eq!(of(Temperature, nucleus), Processing::at_temperature(0.7));
    assert_eq!(of(Processed, nucleus), Processing { top_p: 0.9, ..Processing::at_temperature(0.7) });
    assert_eq!(of(Processed, r#"{"temperature":0.001}"#), Processing::at_temperature(0.01), "as vLLM raises it");
    // Penalties are in every number that SGLang reports.
    let order = ProcessingOrder::Sglang;
    let penalised = r#"{"temperature":0.7,"top_k":5,"presence_penalty":0.5,"order":"sglang"}"#;
    assert_eq!(of(Raw, penalised), Processing { presence_penalty: 0.5, order, ..Processing::default() });
    assert_eq!(
        of(Temperature, penalised),
        Processing { presence_penalty: 0.5, order, ..Processing::at_temperature(0.7) }
    );
    let all = Processing { presence_penalty: 0.5, top_k: 5, order, ..Processing::at_temperature(0.7) };
    assert_eq!(of(Processed, penalised), all);
    assert!(all.needs_whole_row() && !Processing::at_temperature(0.7).needs_whole_row());
}

#[test]
fn greedy_sampling_has_penalties_only() {
    let greedy = sampling(r#"{"temperature":0,"top_p":0.5,"min_p":0.1,"repetition_penalty":1.2}"#);
    for mode in [LogprobsMode::Raw, LogprobsMode::Temperature] {
        assert_eq!(Processing::of(mode, &greedy), Ok(Processing::default()));
    }
    let expected = Processing { repetition_penalty: 1.2, ..Processing::default() };
    assert_eq!(Processing::of(LogprobsMode::Processed, &greedy), Ok(expected));
}

#[test]
fn what_has_no_known_meaning_is_named() {
    let tgi = sampling(r#"{"top_p":0.9,"min_p":0.1,"frequency_penalty":0.5,"order":"tgi"}"#);
    let error = Processing::of(LogprobsMode::Processed, &tgi).unwrap_err();
    assert_eq!(error.parameters, ["min_p", "frequency_penalty"]);
    let text = "processed logprobs with min_p, frequency_penalty in the order of tgi cannot be reproduced";
    assert_eq!(error.to_string(), text);
    assert_eq!(Processing::of(LogprobsMode::Raw, &tgi).map(|processing| processing.needs_whole_row()), Ok(false));
}

#[test]
fn engines_have_their_order_or_none() {
    for order in [ProcessingOrder::Vllm, ProcessingOrder::Sglang, ProcessingOrder::Tgi] {
        assert_eq!(ProcessingOrder::of_engine(&order.as_str().to_uppercase()), Some(order));
        assert!(!ProcessingOrder::is_none_of_these(order.as_str()));
        assert_eq!(serde_json::to_value(order).unwrap(), order.as_str());
    }
    assert_eq!(ProcessingOrder::of_engine("mine"), None);
    assert!(ProcessingOrder::is_none_of_these("llama.cpp") && !ProcessingOrder::is_none_of_these("mine"));
}
