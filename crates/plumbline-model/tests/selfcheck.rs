//! candle-transformers' own models against ours on the fixtures; and what must not go unnoticed.

#![cfg(feature = "selfcheck")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap in a test is a failed test")]

#[path = "support/checkpoint.rs"]
mod checkpoint;
mod support;

use std::path::{Path, PathBuf};

use plumbline_core::FloatType;
use plumbline_model::{Extent, LoadOptions, ModelSource, Outcome, SelfCheck};
use serde_json::json;
use support::repository;

/// Fixtures without a second opinion, and a part of the reason.
const NOT_POSSIBLE: &[(&str, &str)] = &[
    ("cohere", "no implementation"),
    ("cohere-qk-norm", "no implementation"),
    ("deepseek-v2-groups", "indices of experts"),
    ("deepseek-v3", "sigmoid"),
    ("deepseek-v3-yarn", "sigmoid"),
    ("gemma2", "query_pre_attn_scalar"),
    ("gemma3-text", "query_pre_attn_scalar"),
    ("gemma3-text-legacy", "linear RoPE scaling"),
    ("gpt-neox", "no implementation"),
    ("gpt2", "no implementation"),
    ("granite", "embedding_multiplier"),
    ("llama-linear-rope", "linear RoPE scaling"),
    ("llama-linear-rope-legacy", "linear RoPE scaling"),
    ("llama-yarn", "YaRN"),
    ("olmoe", "no implementation"),
    ("phi3-longrope", "multiplies"),
    ("phi3-longrope-legacy", "multiplies"),
    ("stablelm-parallel", "use_parallel_residual"),
];

fn options(dtype: FloatType) -> LoadOptions {
    LoadOptions { policy_version: "test".into(), dtype, head_dtype: dtype, ..LoadOptions::default() }
}

fn self_check(folder: &Path, dtype: FloatType, extent: Extent) -> SelfCheck {
    let (source, options) = (ModelSource::Directory(folder.into()), options(dtype));
    let mut reference = source.load(&options).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    source.self_check(&mut reference, &options, extent).unwrap()
}

/// The check of `reference` against the second opinion on another checkpoint.
fn cross_check(reference: &Path, opinion: &Path) -> SelfCheck {
    let options = options(FloatType::F32);
    let mut reference = ModelSource::Directory(reference.into()).load(&options).unwrap();
    ModelSource::Directory(opinion.into()).self_check(&mut reference, &options, Extent::Quick).unwrap()
}

fn difference(check: &SelfCheck) -> f64 {
    match &check.outcome {
        Outcome::Agrees(comparison) => comparison.max_abs_diff_nats,
        other => panic!("{}: {other:?}", check.model),
    }
}

fn disagreement(check: &SelfCheck) -> f64 {
    match &check.outcome {
        Outcome::Disagrees(comparison) => comparison.max_abs_diff_nats,
        other => panic!("{}: {other:?}", check.model),
    }
}

fn fixture(name: &str) -> PathBuf {
    repository(&format!("tests/fixtures/models/{name}"))
}

/// A copy of a fixture with other values in its `config.json`.
fn edited(name: &str, copy: &str, keys: serde_json::Value) -> PathBuf {
    let folder = checkpoint::copy(&format!("tests/fixtures/models/{name}"), &format!("selfcheck-{copy}"));
    let serde_json::Value::Object(keys) = keys else { panic!("not keys: {keys}") };
    checkpoint::edit_json(&folder.join("config.json"), |config| {
        config.as_object_mut().unwrap().extend(keys);
    });
    folder
}

fn variants() -> Vec<String> {
    let entries = std::fs::read_dir(repository("tests/fixtures/models")).unwrap().map(|entry| entry.unwrap());
    let mut names: Vec<String> = entries
        .filter(|entry| entry.path().join("config.json").is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn every_fixture_agrees_or_says_why_it_cannot_be_checked() {
    let names = variants();
    assert!(names.len() >= 30, "fixtures are missing: {names:?}");
    let mut problems = Vec::new();
    for name in &names {
        let check = self_check(&fixture(name), FloatType::F32, Extent::Full);
        let expected = NOT_POSSIBLE.iter().find(|(variant, _)| variant == name).map(|(_, reason)| *reason);
        match (&check.outcome, expected) {
            (Outcome::Agrees(comparison), None) => {
                let longest = comparison.sequence_tokens.iter().max().unwrap();
                let diff = comparison.max_abs_diff_nats;
                eprintln!(
                    "{name:24} {diff:.1e} {} up to {longest} tokens {:?}",
                    comparison.implementation, check.notes
                );
                assert!(comparison.logprobs >= 48 * comparison.sequence_tokens.len());
            }
            (Outcome::NotPossible { reason }, Some(expected)) if reason.contains(expected) => {
                eprintln!("{name:24} not possible: {reason}");
            }
            (outcome, expected) => problems.push(format!("{name}: {outcome:?}, expected {expected:?}")),
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// The fixtures go to the edge of what Hugging Face has; these are nearer to what people train.
#[test]
fn configurations_that_the_fixtures_do_not_have_agree() {
    let all_windowed = vec!["sliding_attention"; 3];
    let plain_rope = json!({"rope_theta": 10000.0, "rope_type": "default"});
    let cases = [
        edited("gemma2", "gemma2", json!({"query_pre_attn_scalar": 16})),
        edited("phi3-longrope", "phi3", json!({"rope_parameters": plain_rope})),
        edited("phi3-longrope", "phi3-window", json!({"rope_parameters": plain_rope, "sliding_window": 50})),
        edited(
            "granite",
            "granite",
            json!({"embedding_multiplier": 1.0, "residual_multiplier": 1.0, "logits_scaling": 1.0,
                "attention_multiplier": 0.125_f64.sqrt()}),
        ),
        edited("mixtral", "mixtral", json!({"sliding_window": 20})),
        edited("qwen2-sliding", "qwen2", json!({"layer_types": all_windowed})),
        edited(
            "qwen3",
            "qwen3",
            json!({"use_sliding_window": true, "sliding_window": 40, "layer_types": all_windowed}),
        ),
        edited("starcoder2", "starcoder2", json!({"sliding_window": 24})),
        edited(
            "llama-tied",
            "mistral",
            json!({"model_type": "mistral", "sliding_window": null, "mlp_bias": null, "pretraining_tp": null}),
        ),
    ];
    for folder in cases {
        let check = self_check(&folder, FloatType::F32, Extent::Quick);
        eprintln!("{:24} {:.1e} {:?}", check.model, difference(&check), check.notes);
    }
}

#[test]
fn deepseek_v2_agrees() {
    let folder = edited(
        "deepseek-v3-yarn",
        "deepseek-v2",
        json!({"model_type": "deepseek_v2", "topk_method": "greedy", "norm_topk_prob": false, "rope_interleave": null}),
    );
    checkpoint::edit_tensors(&folder.join("model.safetensors"), |tensors| {
        tensors.retain(|name, _| !name.ends_with("e_score_correction_bias"));
    });
    let check = self_check(&folder, FloatType::F32, Extent::Quick);
    eprintln!("{:.1e} {:?}", difference(&check), check.notes);
}

/// candle-transformers' gemma3 takes one key/value head only.
#[test]
fn gemma3_with_one_key_value_head_agrees() {
    let keys = json!({"query_pre_attn_scalar": 16, "num_key_value_heads": 1});
    let folder = edited("gemma3-text", "gemma3", keys);
    checkpoint::edit_tensors(&folder.join("model.safetensors"), |tensors| {
        for (name, (_, shape, bytes)) in tensors {
            if name.ends_with("k_proj.weight") || name.ends_with("v_proj.weight") {
                shape[0] /= 2;
                bytes.truncate(bytes.len() / 2);
            }
        }
    });
    let check = self_check(&folder, FloatType::F32, Extent::Full);
    eprintln!("gemma3 {:.1e} {:?}", difference(&check), check.notes);
    let two_heads = edited("gemma3-text", "gemma3-heads", json!({"query_pre_attn_scalar": 16}));
    let check = self_check(&two_heads, FloatType::F32, Extent::Quick);
    assert!(
        matches!(&check.outcome, Outcome::NotPossible { reason } if reason.contains("key/value head")),
        "{check:?}"
    );
}

#[test]
fn the_embedded_model_and_gguf_files_agree() {
    let tiny = repository("crates/plumbline/assets/tiny/policy-2");
    eprintln!("tiny {:.1e}", difference(&self_check(&tiny, FloatType::F32, Extent::Full)));
    for name in ["llama", "llama-tied-q8_0", "qwen2-q5_0", "qwen3-bf16", "gemma-f16", "gemma2-f16"] {
        let source = ModelSource::Gguf(repository(&format!("tests/fixtures/gguf/{name}.gguf")));
        let mut reference = source.load(&options(FloatType::F32)).unwrap();
        let check = source.self_check(&mut reference, &options(FloatType::F32), Extent::Quick).unwrap();
        eprintln!("{name}.gguf {:.1e}", difference(&check));
    }
}

#[test]
fn an_adapter_is_merged_on_both_sides() {
    let source = ModelSource::Directory(fixture("llama"));
    let plain = options(FloatType::F32);
    let adapter = repository("tests/fixtures/lora/llama-all-linear");
    let merged = LoadOptions { adapter: Some(adapter), ..plain.clone() };
    let mut reference = source.load(&merged).unwrap();
    difference(&source.self_check(&mut reference, &merged, Extent::Quick).unwrap());
    let lost = source.self_check(&mut reference, &plain, Extent::Quick).unwrap();
    assert!(disagreement(&lost) > 0.1);
}

/// What a reference that scores wrong looks like: each time one side is made to differ.
#[test]
fn gross_and_subtle_errors_are_disagreements() {
    let rope = |theta: f64| json!({"rope_parameters": {"rope_theta": theta, "rope_type": "default"}});
    let swapped = edited("llama", "swapped", json!({}));
    checkpoint::edit_tensors(&swapped.join("model.safetensors"), |tensors| {
        let (gate, up) = ("model.layers.1.mlp.gate_proj.weight", "model.layers.1.mlp.up_proj.weight");
        let (gate_value, up_value) = (tensors[gate].clone(), tensors[up].clone());
        tensors.insert(gate.into(), up_value);
        tensors.insert(up.into(), gate_value);
    });
    let cases = [
        ("other weights", "llama", fixture("llama-sharded")),
        ("rope theta", "llama", edited("llama", "theta", rope(10500.0))),
        ("rope scaling", "llama3-rope", edited("llama3-rope", "scaling", rope(500_000.0))),
        ("gate and up swapped", "llama", swapped),
        ("epsilon", "llama", edited("llama", "epsilon", json!({"rms_norm_eps": 1e-3}))),
        ("window off by one", "mistral", edited("mistral", "window", json!({"sliding_window": 31}))),
        ("activation", "qwen2", edited("qwen2", "activation", json!({"hidden_act": "gelu"}))),
        ("normalised experts", "qwen2-moe", edited("qwen2-moe", "experts", json!({"norm_topk_prob": true}))),
        ("layers without rope", "smollm3", edited("smollm3", "nope", json!({"no_rope_layers": [1, 1, 1]}))),
        (
            "partial rotation",
            "glm4",
            edited(
                "glm4",
                "partial",
                json!({"rope_parameters": {"partial_rotary_factor": 1.0, "rope_theta": 10000.0}}),
            ),
        ),
    ];
    for (what, reference, opinion) in cases {
        let check = cross_check(&fixture(reference), &opinion);
        let found = disagreement(&check);
        eprintln!("{what:20} {found:.1e}");
        assert!(found > 1e-2, "{what}: {found}");
    }
}

#[test]
fn random_weights_have_no_second_opinion() {
    let source = ModelSource::RandomInit(fixture("llama"));
    let mut reference = source.load(&options(FloatType::F32)).unwrap();
    let check = source.self_check(&mut reference, &options(FloatType::F32), Extent::Quick).unwrap();
    assert!(matches!(&check.outcome, Outcome::NotPossible { reason } if reason.contains("random")), "{check:?}");
}

#[test]
fn half_precision_stays_within_its_tolerance() {
    for dtype in [FloatType::Bf16, FloatType::F16] {
        let mut largest = 0.0_f64;
        for name in variants().iter().filter(|name| NOT_POSSIBLE.iter().all(|(variant, _)| variant != name)) {
            largest = largest.max(difference(&self_check(&fixture(name), dtype, Extent::Quick)));
        }
        eprintln!("{dtype:?} {largest:.1e}");
    }
}
