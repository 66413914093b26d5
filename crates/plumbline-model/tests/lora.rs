//! LoRA adapters in PEFT's format against Hugging Face in f64 with the adapter merged by PEFT, and what is refused.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "test code")]

#[path = "support/checkpoint.rs"]
mod checkpoint;
mod support;

use std::path::{Path, PathBuf};

use checkpoint::{copy, edit_json, edit_tensors, zeros};
use plumbline_core::{FloatType, ScoringSequence};
use plumbline_model::{CandleReference, LoadError, LoadOptions, ModelSource};
use serde_json::{Value, json};
use support::{floats, ids, max_difference, repository, score};

const FOLDER: &str = "tests/fixtures/lora";

#[test]
fn every_adapter_agrees_with_f64() {
    let mut problems = Vec::new();
    let adapters = adapters();
    assert!(adapters.len() >= 5, "fixtures are missing: {adapters:?}");
    for adapter in adapters {
        let expected: Value = serde_json::from_slice(&std::fs::read(adapter.join("expected.json")).unwrap()).unwrap();
        let base = repository("tests/fixtures/models").join(expected["base"].as_str().unwrap());
        let cases = expected["sequences"].as_array().unwrap();
        let sequences: Vec<_> = cases.iter().map(|case| ScoringSequence::all_tokens(ids(&case["token_ids"]))).collect();
        let mut differences = Vec::new();
        for (dtype, tolerance) in [(FloatType::F32, 1e-4), (FloatType::F64, 1e-9)] {
            let difference = score(&mut load(&base, &adapter, dtype).unwrap(), &sequences)
                .iter()
                .zip(cases)
                .map(|(scores, case)| max_difference(&scores.logprobs, &floats(&case["logprobs"])))
                .fold(0.0, f64::max);
            differences.push(difference);
            if difference.is_nan() || difference > tolerance {
                problems.push(format!("{}: {difference:.1e}", adapter.display()));
            }
        }
        let name = adapter.file_name().unwrap().display().to_string();
        println!("{name:26} f32 {:.1e} f64 {:.1e}", differences[0], differences[1]);
    }
    assert!(problems.is_empty(), "too far: {}", problems.join(", "));
}

#[test]
fn a_setting_that_is_not_supported_is_refused_by_name() {
    for (key, value, expected) in [
        ("peft_type", json!("IA3"), "`peft_type` = \"IA3\" is not supported; only LORA is"),
        ("use_dora", json!(true), "`use_dora` = true is not supported"),
        ("lora_bias", json!(true), "`lora_bias` = true is not supported"),
        ("bias", json!("lora_only"), "`bias` = \"lora_only\" is not supported"),
        ("layer_replication", json!([[0, 2], [1, 3]]), "`layer_replication` = [[0,2],[1,3]] is not supported"),
        ("init_lora_weights", json!("pissa"), "`init_lora_weights` = \"pissa\" changes the base model"),
        ("modules_to_save", json!(["lm_head"]), "`modules_to_save` names lm_head, of which the adapter has no tensor"),
        ("r", json!(8), "layers.0.mlp.down_proj.lora_A.weight is [4, 40], expected [8, 40]"),
    ] {
        let adapter = copy(&format!("{FOLDER}/llama-all-linear"), &format!("lora-setting-{key}"));
        edit_json(&adapter.join("adapter_config.json"), |config| config[key] = value);
        assert_refused("llama", &adapter, expected);
    }
}

#[test]
fn a_tensor_that_does_not_fit_is_refused_by_name() {
    const QUERY: &str = "base_model.model.model.layers.1.self_attn.q_proj";
    let damaged = |name: &str, edit: &dyn Fn(&mut checkpoint::Tensors)| {
        let adapter = copy(&format!("{FOLDER}/llama-all-linear"), name);
        edit_tensors(&adapter.join("adapter_model.safetensors"), edit);
        adapter
    };
    let elsewhere = damaged("lora-elsewhere", &|tensors| {
        for half in ["lora_A", "lora_B"] {
            let tensor = tensors.remove(&format!("{QUERY}.{half}.weight")).unwrap();
            tensors.insert(format!("base_model.model.model.layers.7.self_attn.q_proj.{half}.weight"), tensor);
        }
    });
    assert_refused(
        "llama",
        &elsewhere,
        "base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight: the model has no \
         model.layers.7.self_attn.q_proj.weight",
    );
    let half = damaged("lora-half", &|tensors| {
        tensors.remove(&format!("{QUERY}.lora_B.weight")).unwrap();
    });
    assert_refused("llama", &half, &format!("{QUERY}.lora_A.weight has no lora_B beside it"));
    let shape = damaged("lora-shape", &|tensors| {
        tensors.insert(format!("{QUERY}.lora_B.weight"), zeros(&[47, 4]));
    });
    assert_refused("llama", &shape, &format!("{QUERY}.lora_B.weight is [47, 4], expected [48, 4]"));
    let magnitude = damaged("lora-magnitude", &|tensors| {
        tensors.insert(format!("{QUERY}.lora_magnitude_vector"), zeros(&[48]));
    });
    assert_refused("llama", &magnitude, &format!("{QUERY}.lora_magnitude_vector: the model has no "));
    let unwrapped = damaged("lora-unwrapped", &|tensors| {
        tensors.insert("model.norm.weight".into(), zeros(&[48]));
    });
    assert_refused("llama", &unwrapped, "model.norm.weight does not begin with base_model.model.");
    let infinite = damaged("lora-infinite", &|tensors| {
        let (_, _, data) = tensors.get_mut(&format!("{QUERY}.lora_A.weight")).unwrap();
        data[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    });
    assert_refused("llama", &infinite, "not finite: model.layers.1.self_attn.q_proj.weight");
}

#[test]
fn a_change_that_would_be_lost_is_refused() {
    // A tied checkpoint may hold a copy of its head, which nobody loads.
    let base = copy("tests/fixtures/models/llama-tied", "lora-tied-copy");
    edit_tensors(&base.join("model.safetensors"), |tensors| {
        let embedding = tensors["model.embed_tokens.weight"].clone();
        tensors.insert("lm_head.weight".into(), embedding);
    });
    let adapter = copy(&format!("{FOLDER}/llama-all-linear"), "lora-of-tied-head");
    edit_tensors(&adapter.join("adapter_model.safetensors"), |tensors| {
        tensors.insert("base_model.model.lm_head.weight".into(), zeros(&[163, 48]));
    });
    assert_refused_at(&base, &adapter, "unused: adapter of lm_head.weight");

    edit_tensors(&adapter.join("adapter_model.safetensors"), |tensors| {
        let head = tensors.remove("base_model.model.lm_head.weight").unwrap();
        tensors.insert("base_model.model.model.embed_tokens.weight".into(), head);
    });
    assert_refused_at(&base, &adapter, "model.embed_tokens.weight is the lm_head too");
}

#[test]
fn a_folder_without_an_adapter_is_refused() {
    let adapter = copy(&format!("{FOLDER}/llama-all-linear"), "lora-without-tensors");
    std::fs::remove_file(adapter.join("adapter_model.safetensors")).unwrap();
    assert_refused("llama", &adapter, "adapter_model.safetensors");
    std::fs::remove_file(adapter.join("adapter_config.json")).unwrap();
    assert_refused("llama", &adapter, "adapter_config.json");
}

fn load(base: &Path, adapter: &Path, dtype: FloatType) -> Result<CandleReference, LoadError> {
    let adapter = Some(adapter.to_owned());
    let options = LoadOptions { adapter, dtype, head_dtype: dtype, ..LoadOptions::default() };
    ModelSource::Directory(base.to_owned()).load(&options)
}

fn assert_refused(base: &str, adapter: &Path, expected: &str) {
    assert_refused_at(&repository("tests/fixtures/models").join(base), adapter, expected);
}

fn assert_refused_at(base: &Path, adapter: &Path, expected: &str) {
    let error = load(base, adapter, FloatType::F32).unwrap_err().to_string();
    assert!(error.contains(expected), "{expected:?} is not in {error:?}");
}

/// Every adapter of the folder.
fn adapters() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(repository(FOLDER)).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    paths.sort();
    paths
}
