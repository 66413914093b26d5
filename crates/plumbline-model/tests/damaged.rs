//! Checkpoints damaged in one way at a time: each is refused, and the error names what is wrong.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

#[path = "support/checkpoint.rs"]
mod checkpoint;
mod support;

use std::path::Path;

use checkpoint::{Tensors, copy, edit_json, edit_tensors, zeros};
use plumbline_model::{LoadOptions, ModelSource};
use serde_json::{Value, json};

const LLAMA: &str = "tests/fixtures/models/llama";
const SHARDED: &str = "tests/fixtures/models/llama-sharded";
const GATE: &str = "model.layers.1.mlp.gate_proj.weight";

/// What happens to the tensors of a file.
type Damage = &'static dyn Fn(&mut Tensors);

#[test]
fn the_undamaged_copies_load() {
    for (fixture, name) in [(LLAMA, "intact"), (SHARDED, "intact-sharded")] {
        ModelSource::Directory(copy(fixture, name)).load(&LoadOptions::default()).unwrap();
    }
}

#[test]
fn truncated_files() {
    let original = std::fs::metadata(support::repository(LLAMA).join("model.safetensors")).unwrap().len();
    for (length, expected) in [
        (0, "model.safetensors is not usable: "),
        (7, "model.safetensors is not usable: "),
        (100, "model.safetensors is not usable: "),
        (original / 2, "model.safetensors is not usable: the file ends inside tensor `"),
        (original - 1, "model.safetensors is not usable: the file ends inside tensor `"),
    ] {
        let folder = copy(LLAMA, &format!("truncated-{length}"));
        let file = std::fs::OpenOptions::new().write(true).open(folder.join("model.safetensors")).unwrap();
        file.set_len(length).unwrap();
        assert_refused(&folder, expected);
    }
    let folder = copy(LLAMA, "too-long");
    let path = folder.join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.push(0);
    std::fs::write(&path, bytes).unwrap();
    assert_refused(&folder, "model.safetensors is not usable: the file has 1 bytes after its last tensor");
}

#[test]
fn tensors_that_do_not_fit() {
    let cases: [(&str, Damage, &str); 9] = [
        (
            "missing",
            &|tensors| drop(tensors.remove(GATE).unwrap()),
            "missing: model.layers.1.mlp.gate_proj.weight [40, 48]",
        ),
        (
            "extra",
            &|tensors| drop(tensors.insert("model.layers.1.mlp.gate_proj.bias".into(), zeros(&[40]))),
            "unexpected: model.layers.1.mlp.gate_proj.bias",
        ),
        (
            "extra-layer",
            &|tensors| drop(tensors.insert("model.layers.3.input_layernorm.weight".into(), zeros(&[48]))),
            "unexpected: model.layers.3.input_layernorm.weight",
        ),
        (
            "shape",
            &|tensors| drop(tensors.insert(GATE.into(), zeros(&[41, 48]))),
            "wrong shape: model.layers.1.mlp.gate_proj.weight is [41, 48], the configuration asks for [40, 48]",
        ),
        (
            "transposed",
            &|tensors| drop(tensors.insert(GATE.into(), zeros(&[48, 40]))),
            "wrong shape: model.layers.1.mlp.gate_proj.weight is [48, 40], the configuration asks for [40, 48]",
        ),
        ("nan", &|tensors| poison(tensors, GATE, f32::NAN), "not finite: model.layers.1.mlp.gate_proj.weight"),
        ("infinite", &|tensors| poison(tensors, "lm_head.weight", f32::NEG_INFINITY), "not finite: lm_head.weight"),
        (
            "infinite-norm",
            &|tensors| poison(tensors, "model.norm.weight", f32::INFINITY),
            "not finite: model.norm.weight",
        ),
        (
            "quantised",
            &|tensors| drop(tensors.insert(GATE.into(), (safetensors::Dtype::I8, vec![40, 48], vec![1; 40 * 48]))),
            "cannot load tensor model.layers.1.mlp.gate_proj.weight: stored as I8; supported are F64, F32, F16 and BF16",
        ),
    ];
    for (name, damage, expected) in cases {
        let folder = copy(LLAMA, &format!("tensors-{name}"));
        edit_tensors(&folder.join("model.safetensors"), damage);
        assert_refused(&folder, expected);
    }
}

#[test]
fn every_problem_is_listed() {
    let folder = copy(LLAMA, "several");
    edit_tensors(&folder.join("model.safetensors"), |tensors| {
        tensors.remove(GATE).unwrap();
        tensors.insert("surplus".into(), zeros(&[1]));
        poison(tensors, "model.norm.weight", f32::NAN);
    });
    for expected in
        ["missing: model.layers.1.mlp.gate_proj.weight", "not finite: model.norm.weight", "unexpected: surplus"]
    {
        assert_refused(&folder, expected);
    }
}

#[test]
fn shards_and_their_index() {
    let index = "model.safetensors.index.json";
    let first =
        |json: &Value| json["weight_map"].as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned();

    let folder = copy(SHARDED, "shard-missing");
    let mut shard = String::new();
    edit_json(&folder.join(index), |json| shard = first(json));
    std::fs::remove_file(folder.join(&shard)).unwrap();
    assert_refused(&folder, &format!("cannot read {}", folder.join(&shard).display()));

    for outside in ["../model.safetensors", "/etc/passwd", "sub/../../model.safetensors", "..", ""] {
        let folder = copy(SHARDED, "shard-outside");
        edit_json(&folder.join(index), |json| json["weight_map"][GATE] = outside.into());
        assert_refused(&folder, &format!("shard name `{outside}` is not a plain file name"));
    }

    let folder = copy(SHARDED, "shard-of-nothing");
    edit_json(&folder.join(index), |json| {
        json["weight_map"]["model.layers.9.mlp.gate_proj.weight"] = first(json).into()
    });
    assert_refused(&folder, "no shard has the tensor `model.layers.9.mlp.gate_proj.weight`");

    let folder = copy(SHARDED, "shard-index-torn");
    std::fs::write(folder.join(index), b"{\"weight_map\": {\"a\"").unwrap();
    assert_refused(&folder, &format!("{index} is not usable: "));
}

#[test]
fn configurations_that_cannot_be_followed() {
    for (name, key, value, expected) in [
        (
            "rope",
            "rope_parameters",
            json!({"rope_type": "spiral", "rope_theta": 1e4}),
            "`rope_parameters.rope_type` = spiral is not supported",
        ),
        (
            "rope-key",
            "rope_parameters",
            json!({"rope_type": "default", "rope_theta": 1e4, "twist": 2}),
            "`rope_parameters.twist` = 2",
        ),
        ("activation", "hidden_act", json!("mish"), "`hidden_act` = mish is not supported"),
        (
            "quantisation",
            "quantization_config",
            json!({"quant_method": "gptq", "bits": 4}),
            "`quantization_config` = {",
        ),
        ("family", "model_type", json!("mamba"), "model_type `mamba` is not supported; supported: "),
        ("no-family", "model_type", Value::Null, "config.json lacks `model_type`"),
        ("unknown-key", "attention_temperature", json!(2.0), "`attention_temperature` = 2.0"),
        ("heads", "num_key_value_heads", json!(4), "`num_key_value_heads` = 4: must divide num_attention_heads"),
        ("type", "hidden_size", json!("48"), "`hidden_size` = \"48\": must be a positive integer"),
        ("end", "eos_token_id", json!(163), "eos_token_id 163 is not below vocab_size 163"),
        (
            "absurd-width",
            "hidden_size",
            json!(1_u64 << 40),
            "wrong shape: model.embed_tokens.weight is [163, 48], the configuration asks for [163, 1099511627776]",
        ),
        (
            "absurd-vocabulary",
            "vocab_size",
            json!(1_u64 << 40),
            "wrong shape: model.embed_tokens.weight is [163, 48], the configuration asks for [1099511627776, 48]",
        ),
    ] {
        let folder = copy(LLAMA, &format!("config-{name}"));
        edit_json(&folder.join("config.json"), |config| config[key] = value);
        assert_refused(&folder, expected);
    }
    let folder = copy(LLAMA, "config-torn");
    std::fs::write(folder.join("config.json"), b"{\"model_type\": ").unwrap();
    assert_refused(&folder, "config.json is not a JSON object");
}

#[test]
fn folders_that_hold_no_model() {
    let folder = copy(LLAMA, "without-weights");
    std::fs::remove_file(folder.join("model.safetensors")).unwrap();
    assert_refused(&folder, "has neither model.safetensors nor model.safetensors.index.json");
    std::fs::remove_file(folder.join("config.json")).unwrap();
    std::fs::remove_file(folder.join("expected.json")).unwrap();
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    assert_refused(&folder, "config.json");
    assert_refused(&folder.join("nowhere"), "config.json");
}

/// Puts one value into the middle of a tensor of f32.
fn poison(tensors: &mut Tensors, name: &str, value: f32) {
    let (_, _, data) = tensors.get_mut(name).unwrap();
    let middle = data.len() / 8 * 4;
    data[middle..middle + 4].copy_from_slice(&value.to_le_bytes());
}

fn assert_refused(folder: &Path, expected: &str) {
    let error = ModelSource::Directory(folder.to_owned()).load(&LoadOptions::default()).unwrap_err().to_string();
    assert!(error.contains(expected), "{}: {expected:?} is not in {error:?}", folder.display());
}
