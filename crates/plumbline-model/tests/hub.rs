//! Models of the Hugging Face hub: from a cache, from a hub on a local port, and what is said when neither helps.

#![cfg(feature = "hub")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap in a test is a failed test")]

#[path = "support/hub_server.rs"]
mod hub_server;
mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hub_server::HubServer;
use plumbline_core::ReferenceModel;
use plumbline_model::{CandleReference, HubError, HubModel, HubSettings, HubToken, LoadOptions, ModelSource};
use support::{bits, recording, repository, score, scoring_sequence, tiny};

const TINY: &str = "crates/plumbline/assets/tiny/policy-2";
const SHARDED: &str = "tests/fixtures/models/llama-sharded";
const ID: &str = "plumbline/tiny";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const NEXT_COMMIT: &str = "89abcdef0123456789abcdef0123456789abcdef";

/// A cache folder of a test's own, empty.
fn empty_cache(name: &str) -> PathBuf {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hub-{name}"));
    if cache.exists() {
        std::fs::remove_dir_all(&cache).unwrap();
    }
    cache
}

fn snapshot(cache: &Path, commit: &str) -> PathBuf {
    cache.join("models--plumbline--tiny/snapshots").join(commit)
}

/// A cache as Hugging Face's libraries leave it: contents in `blobs`, links in `snapshots`, the branch in `refs`.
fn filled_cache(name: &str, fixture: &str) -> PathBuf {
    let cache = empty_cache(name);
    let model = cache.join("models--plumbline--tiny");
    for folder in ["blobs", "refs", &format!("snapshots/{COMMIT}")] {
        std::fs::create_dir_all(model.join(folder)).unwrap();
    }
    std::fs::write(model.join("refs/main"), COMMIT).unwrap();
    for (number, entry) in std::fs::read_dir(repository(fixture)).unwrap().enumerate() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), model.join(format!("blobs/{number}"))).unwrap();
        let link = snapshot(&cache, COMMIT).join(entry.file_name());
        std::os::unix::fs::symlink(format!("../../blobs/{number}"), link).unwrap();
    }
    cache
}

/// A model in a cache, at a hub that nobody runs.
fn model(cache: &Path) -> HubModel {
    let settings = HubSettings { endpoint: "http://127.0.0.1:1".into(), ..HubSettings::with_cache(cache.to_owned()) };
    HubModel { id: ID.into(), revision: "main".into(), settings }
}

fn model_at(server: &HubServer, cache: &Path) -> HubModel {
    let mut model = model(cache);
    model.settings.endpoint = server.endpoint();
    model
}

fn offline(mut model: HubModel) -> HubModel {
    model.settings.offline = true;
    model
}

fn at(mut model: HubModel, revision: &str) -> HubModel {
    model.revision = revision.into();
    model
}

fn load(model: HubModel) -> CandleReference {
    ModelSource::Hub(model).load(&LoadOptions::default()).unwrap()
}

/// The error's text, which must name what was asked for.
fn error(model: &HubModel) -> String {
    let error = model.snapshot().unwrap_err().to_string();
    for part in [&model.id, &model.settings.endpoint] {
        assert!(error.contains(part.as_str()), "{part} is not named: {error}");
    }
    error
}

fn assert_contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?}: {text}");
    }
}

fn assert_scores_like_the_folder(mut loaded: CandleReference) {
    assert_eq!(loaded.info().model, ID);
    let sequences: Vec<_> = recording("tiny-f32-raw").iter().take(4).map(scoring_sequence).collect();
    for (ours, theirs) in score(&mut loaded, &sequences).iter().zip(score(&mut tiny(), &sequences)) {
        assert_eq!(bits(ours), bits(&theirs));
    }
}

fn file_names(folder: &Path) -> BTreeSet<String> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_complete_cache_needs_no_network() {
    let cache = filled_cache("complete", TINY);
    assert_scores_like_the_folder(load(offline(model(&cache))));
    // A commit stays what it is: the hub, which would not answer, is not even asked.
    assert_scores_like_the_folder(load(at(model(&cache), COMMIT)));
}

#[test]
fn a_branch_falls_back_to_the_cache_when_the_hub_cannot_be_reached() {
    let cache = filled_cache("unreachable", TINY);
    assert_eq!(model(&cache).snapshot().unwrap().commit, COMMIT);
    let server = HubServer::start(ID, NEXT_COMMIT, &repository(TINY));
    for status in [429, 500, 503] {
        server.change(|hub| hub.status = Some(status));
        assert_eq!(model_at(&server, &cache).snapshot().unwrap().commit, COMMIT, "{status}");
    }
    for status in [401, 403, 404, 451] {
        server.change(|hub| hub.status = Some(status));
        assert_contains(&error(&model_at(&server, &cache)), &["the cache has commit", COMMIT, "HF_HUB_OFFLINE=1"]);
    }
    server.change(|hub| (hub.status, hub.silent) = (None, true));
    let mut silent = model_at(&server, &cache);
    silent.settings.answer_within = Duration::from_millis(200);
    assert_eq!(silent.snapshot().unwrap().commit, COMMIT);
    let text = error(&at(silent, "v1"));
    assert_contains(&text, &["nothing came for 0.2 s", "it has nothing of revision v1", "hf download plumbline/tiny"]);
}

#[test]
fn an_incomplete_cache_names_what_is_missing() {
    let cache = filled_cache("incomplete", SHARDED);
    let folder = snapshot(&cache, COMMIT);
    std::fs::remove_file(folder.join("model-00002-of-00003.safetensors")).unwrap();
    // A link to content that was removed counts as missing too.
    std::fs::remove_file(std::fs::canonicalize(folder.join("config.json")).unwrap()).unwrap();
    let missing = format!("of commit {COMMIT} it lacks config.json, model-00002-of-00003.safetensors");
    let text = error(&offline(model(&cache)));
    assert_contains(&text, &[&missing, "HF_HUB_OFFLINE", "hf download plumbline/tiny --revision main", "folder"]);
    assert_contains(&error(&model(&cache)), &[&missing, "gave no usable answer", "HF_ENDPOINT"]);
    assert_contains(&error(&at(offline(model(&cache)), COMMIT)), &[&missing]);
    let nothing = empty_cache("nothing");
    assert_contains(&error(&offline(model(&nothing))), &["it has nothing of revision main", nothing.to_str().unwrap()]);
}

#[test]
fn what_is_needed_is_downloaded_once_and_then_serves_offline() {
    let (cache, server) = (empty_cache("download"), HubServer::start(ID, COMMIT, &repository(TINY)));
    let needed = file_names(&repository(TINY));
    server.change(|hub| {
        for surplus in ["README.md", "pytorch_model.bin", "tokenizer.model", "original/consolidated.safetensors"] {
            hub.files.insert(surplus.into(), b"not wanted".to_vec());
        }
        hub.files.insert("additional_chat_templates/short.jinja".into(), b"{{ messages }}".to_vec());
    });
    assert_scores_like_the_folder(load(model_at(&server, &cache)));
    let folder = snapshot(&cache, COMMIT);
    let mut expected = needed;
    expected.insert("additional_chat_templates".into());
    assert_eq!(file_names(&folder), expected);
    assert_eq!(std::fs::read(folder.join("additional_chat_templates/short.jinja")).unwrap(), b"{{ messages }}");

    server.requests();
    assert_scores_like_the_folder(load(model_at(&server, &cache)));
    assert_eq!(server.requests(), ["/api/models/plumbline/tiny/revision/main"]);
    assert_scores_like_the_folder(load(offline(model(&cache))));
    assert_scores_like_the_folder(load(at(offline(model(&cache)), COMMIT)));
    assert_eq!(server.requests(), [""; 0]);
}

#[test]
fn a_new_commit_costs_only_what_changed() {
    let (cache, server) = (empty_cache("moved"), HubServer::start(ID, COMMIT, &repository(TINY)));
    model_at(&server, &cache).snapshot().unwrap();
    server.change(|hub| {
        hub.commit = NEXT_COMMIT.into();
        hub.files.insert("chat_template.jinja".into(), b"new".to_vec());
        hub.requests.clear();
    });
    let snapshot = model_at(&server, &cache).snapshot().unwrap();
    assert_eq!(snapshot.commit, NEXT_COMMIT);
    assert_eq!(std::fs::read(snapshot.folder.join("chat_template.jinja")).unwrap(), b"new");
    let transfers: Vec<_> = server.requests().into_iter().filter(|request| request.ends_with("bytes=0-")).collect();
    assert_eq!(transfers, [format!("/plumbline/tiny/resolve/{NEXT_COMMIT}/chat_template.jinja bytes=0-")]);
    assert_scores_like_the_folder(load(offline(model(&cache))));
    // The older commit is still what it was.
    assert_scores_like_the_folder(load(at(offline(model(&cache)), COMMIT)));
}

#[test]
fn a_failed_update_leaves_the_branch_at_the_commit_that_is_complete() {
    let (cache, server) = (empty_cache("failed-update"), HubServer::start(ID, COMMIT, &repository(TINY)));
    model_at(&server, &cache).snapshot().unwrap();
    server.change(|hub| {
        hub.commit = NEXT_COMMIT.into();
        hub.files.insert("model.safetensors".into(), b"new".to_vec());
        // The model is public, its new files are not.
        hub.token = Some("hf_other".into());
    });
    let text = error(&model_at(&server, &cache));
    assert_contains(&text, &["HTTP status 401", "HF_TOKEN", &format!("the cache has commit {COMMIT}")]);
    assert_eq!(offline(model(&cache)).snapshot().unwrap().commit, COMMIT);
}

#[test]
fn an_interrupted_download_goes_on_where_it_ended() {
    let (cache, server) = (empty_cache("interrupted"), HubServer::start(ID, COMMIT, &repository(TINY)));
    server.change(|hub| hub.cut = Some("model.safetensors".into()));
    assert_scores_like_the_folder(load(model_at(&server, &cache)));
    let of_weights = |request: &String| request.starts_with("/cdn/model.safetensors") && !request.ends_with("=0-0");
    let starts: Vec<_> = server.requests().into_iter().filter(of_weights).collect();
    assert_eq!(starts.len(), 2, "{starts:?}");
    assert!(starts[0].ends_with("bytes=0-") && !starts[1].ends_with("bytes=0-"), "{starts:?}");
}

#[test]
fn remains_that_do_not_fit_are_downloaded_again() {
    let (cache, server) = (empty_cache("remains"), HubServer::start(ID, COMMIT, &repository(TINY)));
    let folder = model_at(&server, &cache).snapshot().unwrap().folder;
    for surplus in [0, 1] {
        // As if the process had been killed just before it gave the file its name, or another one had added to it.
        let weights = folder.join("model.safetensors");
        let blob = std::fs::canonicalize(&weights).unwrap();
        let mut bytes = vec![0; blob.metadata().unwrap().len() as usize + surplus];
        bytes[0] = 1;
        std::fs::write(blob.with_extension("part"), bytes).unwrap();
        std::fs::remove_file(&blob).unwrap();
        assert_scores_like_the_folder(load(model_at(&server, &cache)));
    }
}

#[test]
fn a_file_that_another_process_downloads_is_waited_for() {
    let (cache, server) = (empty_cache("locked"), HubServer::start(ID, COMMIT, &repository(TINY)));
    let folder = model_at(&server, &cache).snapshot().unwrap().folder;
    let blob = std::fs::canonicalize(folder.join("model.safetensors")).unwrap();
    let (hidden, lock) = (cache.join("hidden"), std::fs::File::create(blob.with_extension("lock")).unwrap());
    std::fs::rename(&blob, &hidden).unwrap();
    lock.lock().unwrap();
    server.requests();
    let waiting = model_at(&server, &cache);
    let started = Instant::now();
    let waiting = std::thread::spawn(move || waiting.snapshot());
    // Longer than the client itself waits for a lock.
    std::thread::sleep(Duration::from_secs(6));
    assert!(!waiting.is_finished(), "the lock was not respected");
    std::fs::rename(&hidden, &blob).unwrap();
    lock.unlock().unwrap();
    assert_eq!(waiting.join().unwrap().unwrap().commit, COMMIT);
    assert!(started.elapsed() >= Duration::from_secs(6));
}

#[test]
fn shards_are_found_through_their_index() {
    let (cache, server) = (empty_cache("shards"), HubServer::start(ID, COMMIT, &repository(SHARDED)));
    let snapshot = model_at(&server, &cache).snapshot().unwrap();
    let mut expected = file_names(&repository(SHARDED));
    expected.remove("expected.json");
    assert_eq!(file_names(&snapshot.folder), expected);
    load(offline(model(&cache)));
}

#[test]
fn a_token_opens_what_is_gated() {
    let (cache, server) = (empty_cache("gated"), HubServer::start(ID, COMMIT, &repository(TINY)));
    server.change(|hub| hub.token = Some("hf_right".into()));
    assert_contains(&error(&model_at(&server, &cache)), &["HTTP status 401", "no access token was sent: set HF_TOKEN"]);
    let mut wrong = model_at(&server, &cache);
    wrong.settings.token = Some(HubToken::new("hf_wrong".into()));
    let text = error(&wrong);
    assert_contains(&text, &["HTTP status 401", "accept the model's terms"]);
    assert!(!text.contains("hf_wrong"), "{text}");
    wrong.settings.token = Some(HubToken::new("hf_right".into()));
    assert_scores_like_the_folder(load(wrong));
}

#[test]
fn what_the_hub_does_not_have_is_named() {
    let (cache, server) = (empty_cache("not-found"), HubServer::start(ID, COMMIT, &repository(TINY)));
    let text = error(&at(model_at(&server, &cache), "v9"));
    assert_contains(&text, &["has no revision v9 of the model plumbline/tiny"]);
    let other = HubModel { id: "plumbline/huge".into(), ..model_at(&server, &cache) };
    assert_contains(&error(&other), &["has no model plumbline/huge", "folder"]);
    assert!(!cache.exists(), "a refusal leaves nothing behind");
    let text = at(model_at(&server, &cache), "../../main").snapshot().unwrap_err().to_string();
    assert_eq!(text, "\"../../main\" cannot be the name of a branch, a tag or a commit");
}

#[test]
fn models_without_safetensors_are_refused() {
    let (cache, server) = (empty_cache("no-safetensors"), HubServer::start(ID, COMMIT, &repository(TINY)));
    server.change(|hub| {
        hub.files.remove("model.safetensors");
        hub.files.insert("pytorch_model.bin".into(), Vec::new());
        hub.files.insert("tiny-Q4_0.gguf".into(), Vec::new());
    });
    let found = model_at(&server, &cache).snapshot().unwrap_err();
    assert!(matches!(&found, HubError::NoSafetensors { found, .. } if found == "pytorch_model.bin, tiny-Q4_0.gguf"));
    server.change(|hub| hub.files.retain(|name, _| name == "README.md"));
    assert!(matches!(model_at(&server, &cache).snapshot(), Err(HubError::NoConfig { .. })));
}

#[test]
fn answers_that_make_no_sense_are_refused() {
    let (cache, server) = (empty_cache("nonsense"), HubServer::start(ID, "../../../tmp", &repository(TINY)));
    assert_contains(&error(&model_at(&server, &cache)), &["it says that main is at commit \"../../../tmp\""]);
    server.change(|hub| hub.commit = COMMIT.into());
    server.change(|hub| {
        let outside = r#"{"weight_map": {"a": "../../outside.safetensors"}}"#;
        hub.files.insert("model.safetensors.index.json".into(), outside.as_bytes().to_vec());
    });
    let text = model_at(&server, &cache).snapshot().unwrap_err().to_string();
    assert_contains(&text, &["\"../../outside.safetensors\" is not the name of a file beside it"]);
}
