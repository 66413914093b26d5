//! Models by their Hugging Face hub id: from a cache, without any network.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::{plumbline, recording, repository};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Nobody listens there.
const NO_HUB: &str = "http://127.0.0.1:1";

/// A folder of a test's own with a hub cache that has the tiny model, removed when dropped.
struct Scene(PathBuf);

impl Scene {
    fn new(name: &str) -> Self {
        let scene = Self(std::env::temp_dir().join(format!("plumbline-hub-{}-{name}", std::process::id())));
        let model = scene.cache().join("models--plumbline--tiny");
        let (snapshot, refs) = (model.join("snapshots").join(COMMIT), model.join("refs"));
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir_all(&refs).unwrap();
        std::fs::write(refs.join("main"), COMMIT).unwrap();
        for entry in std::fs::read_dir(repository("crates/plumbline/assets/tiny/policy-2")).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), snapshot.join(entry.file_name())).unwrap();
        }
        let lines: String = recording("tiny-f32-raw").iter().take(3).map(|line| format!("{line}\n")).collect();
        std::fs::write(scene.0.join("in.jsonl"), lines).unwrap();
        scene
    }

    fn cache(&self) -> PathBuf {
        self.0.join("cache")
    }

    /// The binary with this cache and no other word about the hub.
    fn plumbline(&self) -> Command {
        let mut command = plumbline();
        for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"] {
            command.env_remove(name);
        }
        command
            .env("HF_HOME", &self.0)
            .env("HF_HUB_CACHE", self.cache())
            .env("HF_ENDPOINT", NO_HUB)
            .current_dir(&self.0);
        command
    }

    fn bench(&self, model: &Path, more: &[&str]) -> Command {
        let mut command = self.plumbline();
        command.args(["bench", "score", "--sequences", "in.jsonl", "--output", "out.jsonl", "--model"]).arg(model);
        command.args(more);
        command
    }

    fn scores(&self) -> String {
        std::fs::read_to_string(self.0.join("out.jsonl")).unwrap()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn assert_contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?}: {text}");
    }
}

#[test]
fn a_hub_id_scores_like_the_folder_and_keeps_its_name() {
    let scene = Scene::new("bench");
    let folder = repository("crates/plumbline/assets/tiny/policy-2");
    assert!(scene.bench(&folder, &[]).output().unwrap().status.success());
    let expected = scene.scores();
    let id = Path::new("plumbline/tiny");
    for (environment, revision) in [("1", "main"), ("0", COMMIT)] {
        std::fs::remove_file(scene.0.join("out.jsonl")).unwrap();
        let output = scene.bench(id, &["--revision", revision]).env("HF_HUB_OFFLINE", environment).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["model"], "plumbline/tiny");
        assert_eq!(scene.scores(), expected);
        assert!(!stderr(&output).contains("WARN"), "{}", stderr(&output));
    }
    // The hub should have been asked and could not be: said, with the commit that is used instead.
    let output = scene.bench(id, &[]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_contains(&stderr(&output), &["WARN", COMMIT, NO_HUB, "which may be an old one"]);
    assert_eq!(scene.scores(), expected);
}

#[test]
fn a_model_that_cannot_be_had_says_what_was_tried() {
    let scene = Scene::new("errors");
    let fails = |model: &str, more: &[&str], parts: &[&str]| {
        let bench = scene.bench(Path::new(model), more).env("HF_TOKEN", "hf_secret").output().unwrap();
        let mut serve = scene.plumbline();
        serve.args(["serve", "--listen", "127.0.0.1:0", "--model", model]).args(more).env("HF_TOKEN", "hf_secret");
        for output in [bench, serve.output().unwrap()] {
            assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
            assert_contains(&stderr(&output), parts);
            assert!(!stderr(&output).contains("hf_secret"), "{}", stderr(&output));
        }
    };
    fails("./policy-7", &[], &["there is no folder or file ./policy-7", "hub id"]);
    fails("/no/such/folder", &[], &["there is no folder or file /no/such/folder"]);
    let missing = ["plumbline/other at revision main", NO_HUB, "hf download plumbline/other", "existing folder"];
    fails("plumbline/other", &[], &missing);
    fails("plumbline/tiny", &["--revision", "v9"], &["it has nothing of revision v9"]);
    let cache = scene.cache();
    fails(cache.to_str().unwrap(), &["--revision", "v9"], &["only models of the hub have revisions"]);
}

#[test]
fn a_revision_without_a_model_is_a_bad_key() {
    let output = plumbline().args(["config", "check", "--revision", "v1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_contains(&stderr(&output), &["revision = \"v1\" (flag --revision): needs model"]);
}
