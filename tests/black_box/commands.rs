//! The other commands.

use serde_json::Value;

use crate::support::{floats, plumbline, recording, reference, repository};

#[test]
fn demo_once_shows_both_phases_and_exits_0() {
    let output = plumbline().args(["demo", "--once"]).output().unwrap();
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(0), "{stdout}{stderr}");
    let row = |phase: &str| {
        let line =
            stdout.lines().find(|line| line.starts_with(phase)).unwrap_or_else(|| panic!("no {phase}: {stdout}"));
        line[phase.len()..].split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let (healthy, stale) = (row("healthy"), row("stale weights"));
    assert_eq!((healthy[0].as_str(), stale[0].as_str()), ("2546", "3240"));
    let mae = |row: &[String]| row[1].parse::<f64>().unwrap();
    // What Hugging Face in f64 says of the same recordings.
    assert!((mae(&healthy) - 9.7e-3).abs() < 2e-4, "{healthy:?}");
    assert!((mae(&stale) - 0.19).abs() < 5e-3, "{stale:?}");
    assert_eq!((healthy[6].as_str(), stale[6].as_str()), ("consistent", "divergent"));
    assert!(stdout.contains("/metrics"), "{stdout}");
}

#[test]
fn demo_tells_its_story_in_one_run() {
    let output = plumbline().args(["demo", "--once", "--phase-seconds", "1"]).output().unwrap();
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(0), "{stdout}{stderr}");
    let verdicts: Vec<_> = stdout.lines().filter(|line| line.ends_with("sequences)")).collect();
    let expected = [("healthy", "consistent"), ("stale weights", "divergent"), ("healthy", "consistent")];
    assert_eq!(verdicts.len(), expected.len(), "{stdout}");
    for (line, (phase, verdict)) in verdicts.iter().zip(expected) {
        assert!(line.starts_with(phase) && line.contains(verdict), "{stdout}");
    }
}

#[test]
fn bench_score_prints_one_line_and_writes_the_logprobs() {
    let directory = std::env::temp_dir().join(format!("plumbline-bench-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let (input, scores) = (directory.join("in.jsonl"), directory.join("out.jsonl"));
    let lines = recording("tiny-f32-raw");
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(&input, text).unwrap();
    let output = plumbline()
        .args(["bench", "score", "--threads", "1", "--model"])
        .arg(repository("crates/plumbline/assets/tiny/policy-2"))
        .arg("--sequences")
        .arg(&input)
        .arg("--output")
        .arg(&scores)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(stdout.lines().count(), 1, "{stdout}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    let number = |key: &str| report[key].as_f64().unwrap_or_else(|| panic!("no {key}: {report}"));
    assert_eq!(number("scored_tokens"), 2656.0);
    assert!(number("tokens") > number("scored_tokens"));
    assert!((number("tokens_per_second") * number("seconds") / number("tokens") - 1.0).abs() < 1e-9);
    assert!(number("peak_rss_bytes") > 4e6);
    assert_eq!(number("threads"), 1.0);

    let written = std::fs::read_to_string(&scores).unwrap();
    let written: Vec<Value> = written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for ((id, expected), line) in reference("tiny-f32-raw").iter().zip(&written) {
        assert_eq!(line["id"].as_str(), Some(id.as_str()));
        for (ours, theirs) in floats(&line["logprobs"]).iter().zip(expected) {
            assert!((ours - theirs).abs() <= 2e-5, "{id}: {ours} is not {theirs}");
        }
    }
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn bad_configuration_names_every_key_and_exits_2() {
    let output = plumbline()
        .args(["config", "check", "--dtype", "int3"])
        .env("PLUMBLINE_THREDS", "4")
        .env("PLUMBLINE_WINDOW_SECONDS", "soon")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    for part in ["dtype", "int3", "PLUMBLINE_THREDS", "PLUMBLINE_WINDOW_SECONDS", "soon"] {
        assert!(stderr.contains(part), "{part} is not named: {stderr}");
    }
}

#[test]
fn an_open_address_without_keys_is_refused() {
    let output = plumbline().args(["serve", "--listen", "0.0.0.0:0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("no_auth") && stderr.contains("0.0.0.0"), "{stderr}");
}

#[test]
fn config_show_prints_what_config_check_accepts() {
    let output = plumbline().args(["config", "show", "--threads", "3"]).output().unwrap();
    assert!(output.status.success());
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("threads = 3"), "{shown}");
    let path = std::env::temp_dir().join(format!("plumbline-shown-{}.toml", std::process::id()));
    std::fs::write(&path, shown).unwrap();
    let checked = plumbline().args(["config", "check", "--config"]).arg(&path).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    std::fs::remove_file(&path).unwrap();
}

/// Never on another device instead.
#[cfg(not(feature = "cuda"))]
#[test]
fn devices_that_are_not_there_end_the_start() {
    let output = plumbline().args(["serve", "--listen", "127.0.0.1:0", "--device", "cuda:0,1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("cannot be used") && stderr.contains("cuda"), "{stderr}");
    let output = plumbline().args(["config", "check", "--device", "cuda:0,1,0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("cuda:0 is named twice"), "{stderr}");
}
