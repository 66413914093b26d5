//! Every format, through files.

use std::fs;
use std::io::Write;
use std::sync::atomic::Ordering::Relaxed;

use plumbline_core::{LogprobsMode, Sampling};

use super::*;

/// A folder with one file, gone at the end.
struct Written(PathBuf);

impl Written {
    fn new(name: &str, text: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Relaxed);
        let folder = std::env::temp_dir().join(format!("plumbline-dumps-{}-{number}", std::process::id()));
        let written = Self(folder);
        written.add(name, text.as_bytes());
        written
    }

    fn add(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn read_with(name: &str, text: &str, options: &DumpOptions) -> Vec<Result<DumpRollout, String>> {
    let written = Written::new(name, text);
    let dump = open_dump(&written.0.join(name), options).unwrap();
    dump.map(|next| next.map_err(|error| error.to_string().rsplit_once(name).unwrap().1.to_owned())).collect()
}

fn read(name: &str, text: &str) -> Vec<DumpRollout> {
    read_with(name, text, &DumpOptions::default()).into_iter().map(Result::unwrap).collect()
}

fn some(values: &[f64]) -> Vec<Option<f64>> {
    values.iter().map(|value| Some(*value)).collect()
}

#[test]
fn plumbline_sequences() {
    let line = r#"{"id":"s","group":"g","run":"r","engine":"sglang","worker":3,"prompt_token_ids":[1],"completion_token_ids":[2,3],"logprobs":[-0.5,null],"loss_mask":[1,0],"finish_reason":"stop","sampling":{"temperature":0.7},"policy_version":7,"cached_tokens":1,"trainer_logprobs":[-0.4,-0.6],"reward":1.0}"#;
    let own = &read("a.jsonl", line)[0];
    let labels = (own.run.as_deref(), own.engine.as_str(), own.worker.as_deref(), own.group.as_deref());
    assert_eq!(labels, (Some("r"), "sglang", Some("3"), Some("g")));
    let rollout = &own.rollout;
    assert_eq!((rollout.id.as_str(), rollout.prompt_token_ids.as_slice()), ("s", &[1][..]));
    assert_eq!((&rollout.logprobs, &rollout.loss_mask), (&vec![Some(-0.5), None], &Some(vec![true, false])));
    assert_eq!((rollout.sampling.temperature, rollout.logprobs_mode), (0.7, LogprobsMode::Temperature));
    assert_eq!((rollout.policy_version.as_deref(), own.cached_tokens), (Some("7"), Some(1)));
    assert_eq!(own.trainer.as_ref().unwrap().logprobs, some(&[-0.4, -0.6]));
    let bare = r#"{"prompt_token_ids":[1],"completion_token_ids":[2],"logprobs":[NaN]}"#;
    let own = &read("a.jsonl", &format!("\n{bare}\n"))[0];
    assert_eq!((own.rollout.id.as_str(), own.engine.as_str()), ("a:2", "engine"));
    assert!(own.rollout.logprobs[0].unwrap().is_nan());
}

#[test]
fn canonical_records() {
    let all = r#"{"token_ids":[1,2,3,4],"prompt_len":2,"logprobs":[null,null,-0.5,-0.6],"loss_mask":[0,0,1,1],"temperature":0.5,"weight_version":"42","engine":"vllm","logprobs_mode":"processed","worker":"w","run":"r","sequence_id":"s"}"#;
    let own = &read("a.jsonl", all)[0];
    assert_eq!(own.rollout.prompt_token_ids, [1, 2]);
    assert_eq!(own.rollout.completion_token_ids, [3, 4]);
    assert_eq!(own.rollout.logprobs, some(&[-0.5, -0.6]));
    assert_eq!(own.rollout.loss_mask, Some(vec![true, true]));
    assert_eq!((own.rollout.policy_version.as_deref(), own.rollout.sampling.temperature), (Some("42"), 0.5));
    let spans = r#"{"token_ids":[1,2,3],"prompt_len":1,"logprobs":[-0.5,-0.6],"weight_version":[{"version":"1","start":0,"end":1},{"version":2,"start":1,"end":2}]}"#;
    let own = &read("a.jsonl", spans)[0];
    assert_eq!(own.rollout.logprobs, some(&[-0.5, -0.6]));
    assert_eq!(own.rollout.weight_versions[1].version, "2");
}

#[test]
fn request_bodies() {
    let body = r#"{"run":"r","engine":"vllm","worker":"w","policy_version":"7","sampling":{"temperature":0.7},"logprobs_mode":"temperature","sequences":[{"prompt_token_ids":[1],"completion_token_ids":[2],"logprobs":[-1]},{"id":"b","prompt_token_ids":[1],"completion_token_ids":[2],"logprobs":[-1,-2]}],"include":["tokens"]}"#;
    let mut found = read_with("a.jsonl", body, &DumpOptions::default());
    let error = found.pop().unwrap().unwrap_err();
    assert_eq!(error, ", line 1, field sequences[1].logprobs: has 2 values for 1 tokens");
    let own = found.pop().unwrap().unwrap();
    assert_eq!((own.rollout.id.as_str(), own.rollout.logprobs_mode), ("a:1.0", LogprobsMode::Temperature));
    assert_eq!((own.run.as_deref(), own.worker.as_deref()), (Some("r"), Some("w")));
}

#[test]
fn nemo_rl_steps() {
    let line = r#"{"content":["text"],"token_ids":[[1,2,3,4,0,0]],"token_loss_mask":[[0,0,1,1,0,0]],"sample_loss_mask":[1.0],"generation_logprobs":[[0.0,0.0,-0.5,-0.6,0.0,0.0]],"prev_logprobs":[[0.0,-9.0,-0.4,-0.7,0.0,0.0]],"input_lengths":[4],"rewards":[1.0],"idx":3}"#;
    let own = &read("train_data_step12.jsonl", line)[0];
    assert_eq!((own.rollout.id.as_str(), own.engine.as_str()), ("train_data_step12:3", "vllm"));
    assert_eq!(own.rollout.prompt_token_ids, [1, 2]);
    assert_eq!(own.rollout.completion_token_ids, [3, 4], "without the padding");
    assert_eq!(own.rollout.logprobs, some(&[-0.5, -0.6]));
    assert_eq!(own.rollout.policy_version.as_deref(), Some("12"));
    let trainer = own.trainer.as_ref().unwrap();
    assert_eq!((&trainer.logprobs, trainer.mode), (&some(&[-0.4, -0.7]), LogprobsMode::Temperature));
    assert_eq!(own.rollout.logprobs_mode, LogprobsMode::Processed);
    let flat = r#"{"token_ids":[1,2],"token_loss_mask":[0,1],"generation_logprobs":[0.0,-0.5],"input_lengths":2}"#;
    assert_eq!(read("b.jsonl", flat)[0].rollout.logprobs, some(&[-0.5]));
    let out = line.replace("\"sample_loss_mask\":[1.0]", "\"sample_loss_mask\":[0.0]");
    let written = Written::new("a.jsonl", &out);
    let mut dump = open_dump(&written.0, &DumpOptions::default()).unwrap();
    assert!(dump.next().is_none());
    assert_eq!((dump.records(), dump.without_tokens()), (1, 1), "a sample that has no part in the loss is counted");
}

#[test]
fn prime_rl_exports() {
    let line = |extra: &str| {
        format!(
            r#"{{"schema_version":1,"step":7,"export_step":7,"rank":0,"export_sequence_idx":2,"run_id":"r","env_name":"math","token_ids":[1,2,3,4],"loss_mask":[false,true,false,true],"inference_logprobs":[-11.0,-0.5,0.0,-0.6],"trainer_logprobs":[-11.0,-0.4,-3.0,null]{extra}}}"#
        )
    };
    let found = read("step_7/rank_0.jsonl", &line(""));
    assert_eq!(found.len(), 1);
    let own = &found[0];
    assert_eq!((own.rollout.id.as_str(), own.rollout.policy_version.as_deref()), ("step_7/rank_0:2", Some("7")));
    assert_eq!(own.rollout.completion_token_ids, [2, 3, 4]);
    assert_eq!(own.rollout.loss_mask, Some(vec![true, false, true]), "the turn of a tool is masked");
    assert_eq!(own.trainer.as_ref().unwrap().logprobs, [Some(-0.4), Some(-3.0), None]);
    let split = read("rank_0.jsonl", &line(r#","temperatures":[1.0,0.7,1.0,1.0]"#));
    let parts: Vec<_> = split
        .iter()
        .map(|own| (own.rollout.id.as_str(), own.rollout.sampling.temperature, own.rollout.loss_mask.clone().unwrap()))
        .collect();
    assert_eq!(
        parts,
        [("step_7/rank_0:2@0.7", 0.7, vec![true, false, false]), ("step_7/rank_0:2@1", 1.0, vec![false, false, true])]
    );
    let newer = line("").replace("\"schema_version\":1", "\"schema_version\":2");
    let error = read_with("a.jsonl", &newer, &DumpOptions::default()).pop().unwrap().unwrap_err();
    assert!(error.contains("schema_version: is 2"), "{error}");
}

#[test]
fn slime_samples() {
    let sample = r#"{"group_index":4,"index":9,"prompt":"x","tokens":[1,2,3,4],"response":"y","response_length":2,"reward":1,"loss_mask":[1,0],"weight_versions":["7","7"],"rollout_log_probs":[-0.5,0.0],"status":"truncated"}"#;
    for text in [
        sample.to_owned(),
        format!("[{sample},\n{sample}]"),
        format!("{{\"rollout_id\":1,\n \"samples\":[{sample}]}}"),
        sample.replace(',', ",\n"),
    ] {
        let own = &read("rollout_3.json", &text)[0];
        assert_eq!((own.rollout.id.as_str(), own.engine.as_str()), ("rollout_3:9", "sglang"));
        assert_eq!(own.rollout.completion_token_ids, [3, 4]);
        assert_eq!((own.group.as_deref(), own.rollout.finish_reason.as_deref()), (Some("4"), Some("length")));
        assert_eq!(
            (own.rollout.policy_version.as_deref(), own.rollout.logprobs_mode),
            (Some("7"), LogprobsMode::Temperature)
        );
    }
    let without = sample.replace("\"rollout_log_probs\":[-0.5,0.0],", "");
    let error = read_with("a.json", &without, &DumpOptions::default()).pop().unwrap().unwrap_err();
    assert!(error.contains("field rollout_log_probs: is missing"), "{error}");
}

#[test]
fn engine_outputs() {
    let line = r#"{"idx":5,"prompt_ids":[1,2],"gen_ids":[3,4],"gen_logprobs":[-0.5,-0.6],"text":"x"}"#;
    let options = DumpOptions { engine: Some("vllm".into()), ..DumpOptions::default() };
    let own = read_with("engine_outputs.jsonl", line, &options).pop().unwrap().unwrap();
    assert_eq!((own.rollout.id.as_str(), own.engine.as_str()), ("engine_outputs:5", "vllm"));
    assert_eq!(own.rollout.logprobs, some(&[-0.5, -0.6]));
    let short = line.replace("[-0.5,-0.6]", "[-0.5]");
    let error = read_with("engine_outputs.jsonl", &short, &options).pop().unwrap().unwrap_err();
    assert_eq!(error, ", line 1, field gen_logprobs: has 1 values for 2 tokens");
}

#[test]
fn options_fill_what_records_leave_out() {
    let line = r#"{"prompt_token_ids":[1],"completion_token_ids":[2],"logprobs":[-1]}"#;
    let options = DumpOptions {
        engine: Some("mine".into()),
        logprobs_mode: Some(LogprobsMode::Processed),
        sampling: Some(Sampling { temperature: 0.6, ..Sampling::default() }),
        ..DumpOptions::default()
    };
    let own = read_with("a.jsonl", line, &options).pop().unwrap().unwrap();
    assert_eq!((own.engine.as_str(), own.rollout.sampling.temperature), ("mine", 0.6));
    assert_eq!(own.rollout.logprobs_mode, LogprobsMode::Processed);
}

#[test]
fn bad_records_are_named_and_the_others_are_read() {
    let good = r#"{"prompt_token_ids":[1],"completion_token_ids":[2],"logprobs":[-1]}"#;
    let text = format!(
        "{good}\nnonsense\n{}\n{}\n\n{good}\n{}",
        good.replace("[-1]", "[-1,-2]"),
        good.replace("[2]", "[2.5]"),
        &good[..40]
    );
    let found = read_with("a.jsonl", &text, &DumpOptions::default());
    assert_eq!(found.iter().filter(|next| next.is_ok()).count(), 2);
    let errors: Vec<_> = found.into_iter().filter_map(Result::err).collect();
    assert!(errors[0].starts_with(", line 2: is no JSON"), "{errors:?}");
    assert_eq!(errors[1], ", line 3, field logprobs: has 2 values for 1 tokens");
    assert!(errors[2].starts_with(", line 4, field completion_token_ids[0]: invalid type"), "{errors:?}");
    assert!(errors[3].starts_with(", line 7: the record is cut off"), "{errors:?}");
    assert_eq!(errors.len(), 4);
    let short = DumpOptions { max_record_bytes: 60, ..DumpOptions::default() };
    let errors = read_with("a.jsonl", good, &short);
    assert_eq!(errors, [Err(", line 1: is longer than 60 bytes".into())]);
}

#[test]
fn a_format_that_was_asked_for_is_not_guessed() {
    let line = r#"{"prompt_token_ids":[1],"completion_token_ids":[2],"logprobs":[-1]}"#;
    let options = DumpOptions { format: Some(DumpFormat::Slime), ..DumpOptions::default() };
    let error = read_with("a.jsonl", line, &options).pop().unwrap().unwrap_err();
    assert!(error.contains("missing field `tokens`"), "{error}");
}

#[test]
fn folders_are_read_in_order_and_progress_is_told() {
    let line =
        |id: &str| format!(r#"{{"id":"{id}","prompt_token_ids":[1],"completion_token_ids":[2],"logprobs":[-1]}}"#);
    let written = Written::new("step_10/rank_0.jsonl", &line("c"));
    written.add("step_2/rank_0.jsonl", line("a").as_bytes());
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(line("b").as_bytes()).unwrap();
    written.add("step_2/rank_1.jsonl.gz", &gzip.finish().unwrap());
    let mut dump = open_dump(&written.0, &DumpOptions::default()).unwrap();
    let ids: Vec<_> = dump.by_ref().map(|next| next.unwrap().rollout.id).collect();
    assert_eq!(ids, ["a", "b", "c"]);
    assert_eq!(dump.bytes_read().load(Relaxed), dump.bytes());
    assert_eq!(dump.format(), Some(DumpFormat::Plumbline));
    assert!(open_dump(&written.0.join("none"), &DumpOptions::default()).is_err());
}
