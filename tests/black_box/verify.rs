//! `plumbline verify`: recorded rollouts, offline.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::{Server, floats, json_lines, plumbline, recording, reference, repository};

/// A folder of its own for a test, gone at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("plumbline-verify-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Runs `verify` with its output in this folder.
    fn verify(&self, files: &[&Path], arguments: &[&str]) -> Verified {
        let output =
            plumbline().arg("verify").args(files).arg("--out").arg(self.0.join("out")).args(arguments).output();
        Verified::new(output.unwrap(), &self.0.join("out"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a run left behind.
struct Verified {
    code: Option<i32>,
    stdout: String,
    stderr: String,
    report: Value,
}

impl Verified {
    fn new(output: Output, out: &Path) -> Self {
        let report = fs::read(out.join("report.json")).map(|bytes| serde_json::from_slice(&bytes).unwrap());
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
            report: report.unwrap_or_default(),
        }
    }

    fn engine(&self, name: &str) -> &Value {
        let engines = self.report["engines"].as_array().unwrap_or_else(|| panic!("{}{}", self.stdout, self.stderr));
        engines.iter().find(|engine| engine["engine"] == name).unwrap_or_else(|| panic!("no {name}: {}", self.stdout))
    }

    fn metric(&self, engine: &str, key: &str) -> f64 {
        self.engine(engine)["metrics"][key].as_f64().unwrap_or_else(|| panic!("no {key} of {engine}"))
    }
}

fn recorded(name: &str) -> PathBuf {
    let demo = repository(&format!("crates/plumbline/assets/recordings/{name}.jsonl"));
    if demo.is_file() { demo } else { repository(&format!("tests/fixtures/recordings/{name}.jsonl")) }
}

fn dump(name: &str) -> PathBuf {
    repository("tests/fixtures/dumps").join(name)
}

#[test]
fn healthy_recordings_pass_and_stale_ones_do_not() {
    for (name, code, verdict) in [("tiny-bf16-raw", 0, "consistent"), ("tiny-bf16-stale", 1, "divergent")] {
        let folder = Folder::new(name);
        let run = folder.verify(&[&recorded(name)], &["--engine", "vllm"]);
        assert_eq!(run.code, Some(code), "{}{}", run.stdout, run.stderr);
        assert_eq!(run.engine("vllm")["verdict"], verdict);
        assert!(run.stdout.lines().any(|line| line.starts_with("vllm") && line.ends_with(verdict)), "{}", run.stdout);
        for file in ["report.json", "report.html", "report.xlsx", "report.png", "tokens.parquet"] {
            let size = fs::metadata(folder.0.join("out").join(file)).map(|metadata| metadata.len());
            assert!(size.as_ref().is_ok_and(|size| *size > 0), "{file}: {size:?}");
            assert!(run.stdout.contains(file), "{}", run.stdout);
        }
        let left = fs::read_dir(folder.0.join("out")).unwrap().count();
        assert_eq!(left, 5, "nothing half-written stays");
    }
    let folder = Folder::new("other-reference");
    let model = repository("tests/fixtures/tiny/policy-1");
    let run = folder.verify(&[&recorded("tiny-bf16-stale")], &["--model", model.to_str().unwrap()]);
    assert_eq!(run.code, Some(0), "to its own weights the engine is faithful: {}{}", run.stdout, run.stderr);
}

#[tokio::test]
async fn numbers_are_those_of_the_service() {
    let server = Server::start(&[]).await;
    for name in ["tiny-bf16-raw", "tiny-bf16-processed"] {
        let answer = server.verify(name, &recording(name)).await;
        let folder = Folder::new(&format!("service-{name}"));
        let run = folder.verify(&[&recorded(name)], &["--engine", "vllm", "--no-diagnosis"]);
        let (own, theirs) =
            (run.engine("vllm")["metrics"].as_object().unwrap(), answer["metrics"].as_object().unwrap());
        assert!(theirs["tokens"].as_u64().unwrap() > 1000);
        for (key, value) in theirs {
            // The service measured its floor on text of its own, before this traffic.
            if key == "noise_floor_multiple" {
                assert!(own[key].as_f64().is_some());
                continue;
            }
            match (own[key].as_f64(), value.as_f64()) {
                (Some(own), Some(theirs)) => {
                    assert!(
                        (own - theirs).abs() <= 1e-9 * theirs.abs().max(1e-9),
                        "{name} {key}: {own} is not {theirs}"
                    );
                }
                (own, theirs) => assert_eq!(own, theirs, "{name} {key}"),
            }
        }
    }
}

/// The same sequences in every format: the same numbers, which are those of Hugging Face in f64.
#[test]
fn every_format_gives_the_same_numbers() {
    let lines = json_lines("tests/fixtures/dumps/plumbline.jsonl");
    let expected = reference("tiny-bf16-raw");
    let (mut log_ratios, mut of_trainer) = (Vec::new(), Vec::new());
    let f32s = json_lines("tests/fixtures/recordings/tiny-bf16-raw.ref.jsonl");
    for line in &lines {
        let (_, exact) = expected.iter().find(|(id, _)| line["id"] == *id).unwrap();
        log_ratios.extend(exact.iter().zip(floats(&line["logprobs"])).map(|(r, e)| r - e));
        let trainer = f32s.iter().find(|other| other["id"] == line["id"]).unwrap();
        of_trainer.extend(exact.iter().zip(floats(&trainer["f32"])).map(|(r, e)| r - e));
    }
    let mae = |values: &[f64]| values.iter().map(|d| d.abs()).sum::<f64>() / values.len() as f64;
    for (file, format, engine, trainer) in [
        ("plumbline.jsonl", "plumbline", "vllm", false),
        ("canonical.jsonl", "canonical", "vllm", false),
        ("requests.jsonl", "request", "vllm", false),
        ("engine_outputs.jsonl", "engine-outputs", "engine", false),
        ("nemo_rl/train_data_step12.jsonl", "nemo-rl", "vllm", true),
        ("prime_rl/token_exports", "prime-rl", "vllm", true),
        ("slime/rollout_7.json", "slime", "sglang", false),
    ] {
        let folder = Folder::new(&format!("format-{format}"));
        let run = folder.verify(&[&dump(file)], &["--no-diagnosis"]);
        assert_eq!(run.code, Some(0), "{file}: {}{}", run.stdout, run.stderr);
        assert!(run.stderr.contains(&format!("reading as {format}")), "{file}: {}", run.stderr);
        assert_eq!(run.metric(engine, "tokens"), log_ratios.len() as f64, "{file}");
        assert_eq!(run.metric(engine, "sequences"), lines.len() as f64, "{file}");
        assert!((run.metric(engine, "mae_logprob") - mae(&log_ratios)).abs() < 2e-5, "{file}");
        let engines = run.report["engines"].as_array().unwrap().len();
        assert_eq!(engines, if trainer { 2 } else { 1 }, "{file}");
        if trainer {
            assert_eq!(run.metric("trainer", "tokens"), log_ratios.len() as f64, "{file}");
            assert!(run.metric("trainer", "mae_logprob") < mae(&of_trainer) + 2e-5, "{file}: f32 is close to f64");
        }
        let again = folder.verify(&[&dump(file)], &["--no-diagnosis", "--format", format]);
        assert_eq!(again.metric(engine, "mae_logprob"), run.metric(engine, "mae_logprob"), "{file}");
    }
}

#[test]
fn saved_exchanges_give_the_numbers_of_their_sequences() {
    let folder = Folder::new("exchanges");
    let raw = repository("tests/fixtures/recordings/tiny-bf16-processed.raw.jsonl");
    let run = folder.verify(&[&raw], &["--no-diagnosis"]);
    assert_eq!(run.code, Some(0), "{}{}", run.stdout, run.stderr);
    let other = Folder::new("exchanges-normalised");
    let normalised = other.verify(&[&recorded("tiny-bf16-processed")], &["--engine", "vllm", "--no-diagnosis"]);
    for key in ["tokens", "sequences", "mae_logprob", "kl_k3", "pearson_prob", "entropy"] {
        assert_eq!(run.metric("vllm", key), normalised.metric("vllm", key), "{key}");
    }
}

#[test]
fn compressed_files_and_several_files_are_one_input() {
    let folder = Folder::new("compressed");
    let bytes = fs::read(recorded("tiny-bf16-raw")).unwrap();
    let plain = folder.write("a.jsonl", &bytes);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&bytes).unwrap();
    let packed = [("a.jsonl.gz", gzip.finish().unwrap()), ("a.jsonl.zst", zstd::encode_all(&bytes[..], 1).unwrap())];
    for (name, packed) in packed {
        let packed = folder.write(name, &packed);
        let run = folder.verify(&[&packed], &["--no-diagnosis"]);
        assert_eq!((run.code, run.metric("engine", "tokens")), (Some(0), 2546.0), "{name}: {}", run.stderr);
        let both = folder.verify(&[&packed, &plain], &["--no-diagnosis"]);
        assert_eq!(both.metric("engine", "tokens"), 2.0 * 2546.0);
        assert_eq!(both.report["inputs"].as_array().unwrap().len(), 2);
    }
}

#[test]
fn what_cannot_be_used_is_said_and_decides_the_exit_code() {
    let folder = Folder::new("garbage");
    let garbage = folder.write("garbage.jsonl", b"what is this\nnothing good\n");
    let run = folder.verify(&[&garbage], &[]);
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("garbage.jsonl, line 1: is no JSON"), "{}", run.stderr);
    let run = folder.verify(&[&garbage], &["--skip-bad-lines"]);
    assert_eq!(run.code, Some(2), "nothing at all is not enough for a verdict: {}", run.stdout);
    let run = folder.verify(&[&folder.0.join("none.jsonl")], &[]);
    assert_eq!(run.code, Some(2));
    assert!(run.stderr.contains("none.jsonl: cannot be opened"), "{}", run.stderr);

    let mut bytes = fs::read(recorded("tiny-bf16-raw")).unwrap();
    let mut wrong = recording("tiny-bf16-raw")[0].clone();
    wrong["completion_token_ids"][3] = json!(99999);
    bytes.extend_from_slice(format!("{wrong}\n{{\"prompt_token_ids\":[1],").as_bytes());
    let mixed = folder.write("mixed.jsonl", &bytes);
    let run = folder.verify(&[&mixed], &["--no-diagnosis"]);
    assert_eq!(run.code, Some(2), "{}", run.stdout);
    assert!(run.stderr.contains("completion_token_ids.3: id 99999"), "{}", run.stderr);
    assert!(run.stderr.contains("line 49: the record is cut off"), "{}", run.stderr);
    assert_eq!(run.metric("engine", "tokens"), 2546.0, "what can be used is scored and reported");
    let run = folder.verify(&[&mixed], &["--no-diagnosis", "--skip-bad-lines"]);
    assert_eq!(run.code, Some(0), "{}{}", run.stdout, run.stderr);
    assert_eq!(run.report["inputs"][0]["rejected"], json!({"bad record": 1, "token_out_of_vocabulary": 1}));
}

#[test]
fn limits_fail_a_run() {
    let folder = Folder::new("limits");
    let healthy = recorded("tiny-bf16-raw");
    let code = |arguments: &[&str]| {
        let run = folder.verify(&[&healthy], &[&["--no-diagnosis"], arguments].concat());
        (run.code, run.stdout + &run.stderr)
    };
    assert_eq!(code(&["--fail-on", "kl_k3=1e-2", "--fail-on", "pearson_logprob=0.99"]).0, Some(0));
    let (broken, said) = code(&["--fail-on", "mae_logprob=1e-3"]);
    assert_eq!(broken, Some(1), "{said}");
    assert!(said.contains("limit broken: mae_logprob of engine is 0.0097, above 0.001"), "{said}");
    let (misspelt, said) = code(&["--fail-on", "kl_k4=1"]);
    assert_eq!(misspelt, Some(2), "{said}");
    assert!(said.contains("kl_k4"), "{said}");
}

#[test]
fn a_named_version_scores_only_its_own_sequences() {
    let folder = Folder::new("versions");
    let dumps = dump("prime_rl/token_exports");
    let run = folder.verify(&[&dumps], &["--no-diagnosis", "--policy-version", "10", "--skip-bad-lines"]);
    assert_eq!(run.code, Some(0), "{}{}", run.stdout, run.stderr);
    assert_eq!(run.metric("vllm", "sequences"), 5.0);
    assert_eq!(run.report["inputs"][0]["rejected"], json!({"other_policy_version": 3}));
    let run = folder.verify(&[&dumps], &["--no-diagnosis", "--policy-version", "10"]);
    assert_eq!(run.code, Some(2), "{}", run.stdout);
}

#[test]
fn causes_are_named() {
    let folder = Folder::new("causes");
    let mut lines = recording("tiny-f32-processed");
    for line in &mut lines {
        line["logprobs_mode"] = "raw".into();
    }
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let unstated = folder.write("unstated.jsonl", text.as_bytes());
    let run = folder.verify(&[&unstated], &["--engine", "vllm"]);
    assert_eq!(run.code, Some(1), "{}", run.stdout);
    assert!(
        ["temperature_applied", "penalties_applied", "top_p_renormalised"]
            .iter()
            .any(|cause| run.stdout.contains(cause)),
        "{}",
        run.stdout
    );
}

/// Ctrl-C: what was read is finished and reported.
#[cfg(unix)]
#[test]
fn an_interrupted_run_reports_what_it_has() {
    let folder = Folder::new("interrupted");
    let pipe = folder.0.join("pipe.jsonl");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let child = plumbline()
        .arg("verify")
        .arg(&pipe)
        .arg("--out")
        .arg(folder.0.join("out"))
        .args(["--no-diagnosis"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut writer = fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    // Far more than pipe and buffers hold: once it is written, most of it has been taken.
    let bytes = fs::read(recorded("tiny-bf16-raw")).unwrap();
    for _ in 0..8 {
        writer.write_all(&bytes).unwrap();
    }
    let interrupt = || Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupt().success());
    let output = child.wait_with_output().unwrap();
    drop(writer);
    let run = Verified::new(output, &folder.0.join("out"));
    assert_eq!(run.code, Some(130), "{}{}", run.stdout, run.stderr);
    let sequences = run.metric("engine", "sequences");
    assert!((50.0..=8.0 * 47.0).contains(&sequences), "{sequences}");
    assert!(run.report["notes"].to_string().contains("interrupted"), "{}", run.report["notes"]);
    assert_eq!(run.engine("engine")["verdict"], "consistent");
}
