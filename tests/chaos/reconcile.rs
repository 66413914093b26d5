//! What was acknowledged against what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use reqwest::{Client, StatusCode};
use serde_json::Value;

use crate::load::Acknowledged;
use crate::process::binary;
use crate::support::PATIENCE;
use crate::work::Item;

/// Waits until a verification is done and gives its result.
pub(crate) async fn result_of(client: &Client, url: &str, id: &str) -> Value {
    let done = async {
        loop {
            let response = client.get(format!("{url}/v1/verifications/{id}")).send().await.unwrap();
            let status = response.status();
            let mut state: Value = response.json().await.unwrap();
            assert_eq!(status, StatusCode::OK, "an acknowledged verification is lost: {id}: {state}");
            match state["state"].as_str() {
                Some("done") => return state["result"].take(),
                Some("queued" | "running") => tokio::time::sleep(Duration::from_millis(50)).await,
                _ => panic!("an accepted verification failed: {state}"),
            }
        }
    };
    tokio::time::timeout(10 * PATIENCE, done).await.expect("an accepted verification is never done")
}

/// Every acknowledged verification is there, done, with the sequences that were sent and the result that was told.
pub(crate) async fn check_results(client: &Client, url: &str, items: &[Item], acknowledged: &[Acknowledged]) {
    let mut owners: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, (item, acknowledged)) in items.iter().zip(acknowledged).enumerate() {
        assert_eq!(acknowledged.ids.len(), item.sequences.len());
        let mut stored: Vec<Value> = Vec::new();
        let mut results: Vec<Value> = Vec::new();
        for id in acknowledged.ids.iter().collect::<BTreeSet<_>>() {
            assert!(owners.insert(id, index).is_none(), "{id} is two verifications");
            let result = result_of(client, url, id).await;
            assert_eq!(result["id"], id.as_str());
            stored.extend(result["sequences"].as_array().unwrap().iter().map(|sequence| sequence["id"].clone()));
            results.push(result);
        }
        let sent: BTreeSet<&str> = item.ids().collect();
        let kept: BTreeSet<&str> = stored.iter().map(|id| id.as_str().unwrap()).collect();
        assert_eq!((sent, stored.len()), (kept, item.sequences.len()), "{acknowledged:?}");
        for told in &acknowledged.results {
            assert!(results.contains(told), "the stored result is not the one that was sent: {told}");
        }
    }
}

/// The run views count every sequence once.
pub(crate) async fn check_counts(client: &Client, url: &str, items: &[Item]) {
    let mut expected: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for item in items {
        let (sequences, tokens) = expected.entry(&item.run).or_default();
        *sequences += item.sequences.len() as u64;
        *tokens += item.tokens() as u64;
    }
    for (run, expected) in expected {
        let view: Value = client.get(format!("{url}/v1/runs/{run}")).send().await.unwrap().json().await.unwrap();
        let totals = &view["engines"][0]["totals"];
        let counted = (totals["metrics"]["sequences"].as_u64().unwrap(), totals["metrics"]["tokens"].as_u64().unwrap());
        assert_eq!(counted, expected, "sequences and tokens of {run}: counted, sent");
        let verdicts: u64 = totals["verdicts"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
        assert_eq!(verdicts, expected.0, "verdicts of {run}");
    }
}

/// The file holds every sequence once and nothing else, and is whole. The server must not run.
pub(crate) fn check_file(folder: &Path, items: &[Item]) {
    check_integrity(folder);
    let kept = exported(folder);
    let sent: BTreeMap<(String, String), usize> =
        items.iter().flat_map(|item| item.ids().map(|id| ((item.run.clone(), id.to_owned()), 1))).collect();
    let missing: Vec<_> = sent.keys().filter(|key| !kept.contains_key(*key)).take(5).collect();
    let more: Vec<_> = kept.iter().filter(|(key, count)| sent.get(*key) != Some(count)).take(5).collect();
    assert!(missing.is_empty() && more.is_empty(), "missing: {missing:?}; too often or never sent: {more:?}");
}

/// `plumbline db check`, which includes SQLite's own.
pub(crate) fn check_integrity(folder: &Path) {
    let output = binary().args(["db", "check"]).arg(folder).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{stdout}{stderr}");
}

/// How often each run and sequence id is in the file.
fn exported(folder: &Path) -> BTreeMap<(String, String), usize> {
    let file = folder.join("export.ndjson");
    let output = binary().args(["db", "export"]).arg(folder).arg("--ndjson").arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut kept = BTreeMap::new();
    for line in std::fs::read_to_string(&file).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let text = |key: &str| line[key].as_str().unwrap_or_else(|| panic!("no {key}: {line}")).to_owned();
        *kept.entry((text("run"), text("sequence_id"))).or_default() += 1;
    }
    std::fs::remove_file(&file).unwrap();
    kept
}
