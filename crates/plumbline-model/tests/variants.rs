//! Variants of a model: against the same checkpoint loaded with another configuration, or without its adapter, to the last bit
//! in f32.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap in a test is a failed test")]

#[path = "support/checkpoint.rs"]
mod checkpoint;
mod support;

use std::path::Path;

use checkpoint::{copy, edit_json};
use plumbline_core::{
    FloatType, Kernels, ModelError, PackedBatch, Processing, ReferenceModel, ScoringSequence, Variant,
};
use plumbline_model::{CandleReference, LoadOptions, ModelSource};
use serde_json::{Value, json};
use support::{bits, repository};

/// Sequences longer than any window, of which two begin alike if that may be shared.
fn batch(model: &CandleReference) -> PackedBatch {
    let ids = |seed: u32, len: u32| (0..len).map(move |at| (at * at + seed * at) % 50);
    let all = |tokens: Vec<u32>| ScoringSequence {
        processing: Processing::at_temperature(1.3),
        ..ScoringSequence::all_tokens(tokens)
    };
    let sequences = [
        all(ids(1, 50).chain(ids(2, 140)).collect()),
        all(ids(1, 50).chain(ids(5, 40)).collect()),
        all(ids(7, 30).collect()),
    ];
    if model.shares_prefixes() { PackedBatch::pack_shared(&sequences) } else { PackedBatch::pack(&sequences) }
}

fn scored(model: &mut CandleReference, batch: &PackedBatch) -> Vec<Vec<u64>> {
    model.score(batch).unwrap().sequences.iter().map(bits).collect()
}

fn of_variant(model: &mut CandleReference, batch: &PackedBatch, variant: &Variant) -> Vec<Vec<u64>> {
    assert!(model.supports(variant), "{variant:?}");
    model.score_variant(batch, variant).unwrap().sequences.iter().map(bits).collect()
}

fn load(folder: &Path, adapter: Option<&Path>, (dtype, kernels): (FloatType, Kernels)) -> CandleReference {
    let adapter = adapter.map(Path::to_owned);
    let options = LoadOptions { adapter, dtype, head_dtype: dtype, kernels, ..LoadOptions::default() };
    ModelSource::from_path(folder.to_owned()).load(&options).unwrap()
}

const WAYS: [(FloatType, Kernels); 3] =
    [(FloatType::F32, Kernels::Auto), (FloatType::F32, Kernels::Generic), (FloatType::F64, Kernels::Generic)];

/// Compares a variant of a fixture with the fixture under the configuration that the variant stands for.
fn check(name: &str, variant: &Variant, edit: impl Fn(&mut Value)) {
    let fixture = format!("tests/fixtures/models/{name}");
    let altered = copy(&fixture, &format!("variant-{name}-{variant:?}").replace(['(', ')', '.'], "-"));
    edit_json(&altered.join("config.json"), |config| edit(config));
    for way in WAYS {
        let (mut resident, mut altered) = (load(&repository(&fixture), None, way), load(&altered, None, way));
        let batch = batch(&resident);
        let before = scored(&mut resident, &batch);
        let expected = scored(&mut altered, &batch);
        assert!(expected != before, "{name}: {variant:?} must change something");
        let found = of_variant(&mut resident, &batch, variant);
        if way.0 == FloatType::F64 {
            // What YaRN multiplied into a scale comes out of it to the last digit but one.
            let logprobs = |scores: &[Vec<u64>]| scores.concat().into_iter().map(f64::from_bits).collect::<Vec<_>>();
            let difference = support::max_difference(&logprobs(&found), &logprobs(&expected));
            assert!(difference < 1e-11, "{name}: {variant:?} in {way:?}: {difference:.1e}");
        } else {
            assert!(found == expected, "{name}: {variant:?} in {way:?}");
        }
        assert!(scored(&mut resident, &batch) == before, "{name}: {variant:?} left something behind");
    }
}

#[test]
fn another_rotary_base() {
    let plain = |theta: f64| json!({"rope_type": "default", "rope_theta": theta});
    for name in ["llama", "llama-yarn", "llama3-rope", "deepseek-v3-yarn", "qwen3"] {
        check(name, &Variant::RopeTheta(250_000.0), |config| config["rope_parameters"] = plain(250_000.0));
    }
    check("gemma3-text", &Variant::RopeTheta(30_000.0), |config| {
        config["rope_parameters"] = json!({"full_attention": plain(30_000.0), "sliding_attention": plain(30_000.0)});
    });
}

#[test]
fn positions_divided() {
    for name in ["llama", "qwen2-sliding"] {
        check(name, &Variant::RopeFactor(3.0), |config| {
            config["rope_parameters"] = json!({"rope_type": "linear", "factor": 3.0, "rope_theta": 10_000.0});
        });
    }
    check("llama-linear-rope", &Variant::RopeFactor(2.0), |config| {
        let factor = config["rope_parameters"]["factor"].as_f64().unwrap();
        config["rope_parameters"]["factor"] = json!(2.0 * factor);
    });
}

#[test]
fn no_rotary_scaling() {
    for name in
        ["llama-yarn", "llama3-rope", "llama-linear-rope", "llama-dynamic-rope", "phi3-longrope", "deepseek-v3-yarn"]
    {
        check(name, &Variant::RopeUnscaled, |config| {
            let theta = config["rope_parameters"]["rope_theta"].clone();
            let fraction = config["rope_parameters"].get("partial_rotary_factor").cloned().unwrap_or(json!(1.0));
            config["rope_parameters"] =
                json!({"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": fraction});
            config["max_position_embeddings"] = json!(512);
        });
    }
}

#[test]
fn another_sliding_window() {
    for name in ["mistral", "qwen2-sliding", "gemma2", "gemma3-text"] {
        for window in [1, 31, 33] {
            check(name, &Variant::SlidingWindow(Some(window)), |config| config["sliding_window"] = json!(window));
        }
        // Wider than any sequence is no window.
        check(name, &Variant::SlidingWindow(None), |config| config["sliding_window"] = json!(100_000));
    }
    // The other way round: a model without windows, against one that has them in every layer.
    let windowed = repository("tests/fixtures/models/mistral");
    let without = copy("tests/fixtures/models/mistral", "variant-mistral-without-windows");
    edit_json(&without.join("config.json"), |config| config["sliding_window"] = Value::Null);
    let (mut windowed, mut without) = (load(&windowed, None, WAYS[0]), load(&without, None, WAYS[0]));
    let batch = batch(&windowed);
    assert!(of_variant(&mut without, &batch, &Variant::SlidingWindow(Some(32))) == scored(&mut windowed, &batch));
}

#[test]
fn another_soft_cap() {
    for cap in [Some(7.5), None] {
        check("gemma2", &Variant::LogitSoftcap(cap), |config| config["final_logit_softcapping"] = json!(cap));
    }
    check("gemma3-text", &Variant::LogitSoftcap(Some(4.0)), |config| config["final_logit_softcapping"] = json!(4.0));
}

#[test]
fn a_variant_that_a_model_has_not_is_refused() {
    let mut model = support::load("tests/fixtures/models/gpt2");
    let batch = batch(&model);
    let before = scored(&mut model, &batch);
    for variant in [
        Variant::RopeTheta(5e5),
        Variant::RopeFactor(2.0),
        Variant::RopeUnscaled,
        Variant::SlidingWindow(None),
        Variant::LogitSoftcap(None),
        Variant::LogitSoftcap(Some(-1.0)),
        Variant::WithoutAdapter,
    ] {
        assert!(!model.supports(&variant), "{variant:?}");
        let refused = model.score_variant(&batch, &variant);
        assert!(matches!(refused, Err(ModelError::Unsupported(_))), "{variant:?}: {refused:?}");
    }
    assert!(scored(&mut model, &batch) == before);
}

/// A batch that cannot be scored cannot be scored as a variant either.
#[test]
fn a_variant_refuses_what_the_model_refuses() {
    let mut model = support::load("tests/fixtures/models/llama-dynamic-rope");
    let sequence = ScoringSequence::all_tokens((0..40).collect());
    let longer = ScoringSequence::all_tokens((0..50).collect());
    let shared = PackedBatch::pack_shared([&sequence, &longer]);
    let refused = model.score_variant(&shared, &Variant::RopeUnscaled);
    assert!(matches!(refused, Err(ModelError::InvalidInput(_))), "{refused:?}");
}

#[test]
fn the_base_model_of_an_adapter() {
    for (adapter, base) in [
        ("llama-all-linear", "llama"),
        ("llama-patterns", "llama"),
        ("qwen3-embedding-and-head", "qwen3-untied"),
        ("qwen3-rslora-bf16", "qwen3-untied"),
        ("gpt2-fan-in-fan-out", "gpt2"),
    ] {
        let (base, adapter) =
            (repository("tests/fixtures/models").join(base), repository("tests/fixtures/lora").join(adapter));
        for way in WAYS {
            let (mut plain, mut adapted) = (load(&base, None, way), load(&base, Some(&adapter), way));
            let batch = batch(&plain);
            let (expected, before) = (scored(&mut plain, &batch), scored(&mut adapted, &batch));
            assert!(expected != before);
            assert!(!plain.supports(&Variant::WithoutAdapter));
            assert!(of_variant(&mut adapted, &batch, &Variant::WithoutAdapter) == expected, "{}", adapter.display());
            assert!(scored(&mut adapted, &batch) == before);
        }
    }
}

#[test]
fn base_weights_that_changed_or_went_away_are_an_error() {
    let base = copy("tests/fixtures/models/llama", "variant-base-gone");
    let adapter = repository("tests/fixtures/lora/llama-all-linear");
    let mut model = load(&base, Some(&adapter), WAYS[0]);
    let batch = batch(&model);
    let before = scored(&mut model, &batch);
    let fails = |model: &mut CandleReference, expected: &str| {
        let error = model.score_variant(&batch, &Variant::WithoutAdapter).unwrap_err();
        assert!(matches!(&error, ModelError::Device(_)) && error.to_string().contains(expected), "{error}");
    };
    let weights = base.join("model.safetensors");
    checkpoint::edit_tensors(&weights, |tensors| {
        let name = "model.layers.1.self_attn.q_proj.weight";
        tensors.insert(name.into(), checkpoint::zeros(&[3, 3]));
    });
    fails(&mut model, "wrong shape: model.layers.1.self_attn.q_proj.weight");
    std::fs::remove_file(&weights).unwrap();
    fails(&mut model, "the base weights cannot be read again");
    assert!(scored(&mut model, &batch) == before);
}
