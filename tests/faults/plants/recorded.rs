//! What a real engine answered: vLLM's recordings of the same model.

use std::collections::BTreeMap;

use plumbline_core::{LogprobsMode, Rollout, Sampling, TokenId};
use serde::Deserialize;

use super::{Plant, Posted};
use crate::rng::Rng;
use crate::world::{CURRENT, recording};

/// Recordings of an engine that does what is posted.
pub(super) fn healthy() -> Vec<Plant> {
    let of = |name: &'static str| Plant::new(&[], format!("recording {name}"), move |_, seed| some_groups(name, seed));
    ["tiny-bf16-raw", "tiny-f32-raw", "tiny-bf16-processed", "tiny-f32-processed"].map(of).into()
}

/// Recordings of an engine with a fault.
pub(super) fn plants() -> Vec<Plant> {
    let stale =
        Plant::new(&["stale_weights"], "recording tiny-bf16-stale", |_, seed| some_groups("tiny-bf16-stale", seed));
    // Groups of the processed recordings by what their requests asked for; of the fifth each part is a right answer.
    const PROCESSED: [(&str, &[&str]); 7] = [
        ("00", &["temperature_applied"]),
        ("01", &["top_p_renormalised"]),
        ("02", &["top_k_renormalised"]),
        ("03", &["penalties_applied"]),
        ("04", &["temperature_applied", "top_p_renormalised", "top_k_renormalised"]),
        ("05", &["min_p_renormalised"]),
        ("06", &["penalties_applied"]),
    ];
    let as_raw = ["tiny-bf16-processed", "tiny-f32-processed"].into_iter().flat_map(|name| {
        PROCESSED.map(|(group, expected)| {
            Plant::new(expected, format!("recording {name}-{group}, stated as raw"), move |_, _| {
                let mut posted = recorded(name);
                posted.retain(|posted| posted.rollout.id.starts_with(&format!("{name}-{group}-")));
                posted.iter_mut().for_each(|posted| posted.rollout.logprobs_mode = LogprobsMode::Raw);
                posted
            })
        })
    });
    std::iter::once(stale).chain(as_raw).collect()
}

/// All sequences of a recording.
fn recorded(name: &str) -> Vec<Posted> {
    let text = std::fs::read_to_string(recording(&format!("{name}.jsonl"))).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Line>(line).unwrap());
    lines.map(|line| Posted { rollout: rollout(&line), group: 0, worker: 0, cached_tokens: None }).collect()
}

/// A line of a recording.
#[derive(Deserialize)]
struct Line {
    id: String,
    group: String,
    prompt_token_ids: Vec<TokenId>,
    completion_token_ids: Vec<TokenId>,
    logprobs: Vec<Option<f64>>,
    finish_reason: Option<String>,
    sampling: Sampling,
    logprobs_mode: LogprobsMode,
}

fn lines(name: &str) -> Vec<Line> {
    let text = std::fs::read_to_string(recording(&format!("{name}.jsonl"))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The ids that a recording's completions have most often.
pub(super) fn frequent_ids(name: &str, count: usize) -> Vec<TokenId> {
    let mut of_id: BTreeMap<TokenId, usize> = BTreeMap::new();
    lines(name).iter().flat_map(|line| &line.completion_token_ids).for_each(|id| *of_id.entry(*id).or_default() += 1);
    let mut ids: Vec<(usize, TokenId)> = of_id.into_iter().map(|(id, count)| (count, id)).collect();
    ids.sort_unstable_by(|a, b| b.cmp(a));
    ids.into_iter().take(count).map(|(_, id)| id).collect()
}

/// About half of a recording's groups, at least one.
fn some_groups(name: &str, seed: u64) -> Vec<Posted> {
    let lines = lines(name);
    let mut rng = Rng::new(seed);
    let groups: Vec<&[Line]> = lines.chunk_by(|a, b| a.group == b.group).collect();
    let always = rng.below(groups.len());
    let mut posted = Vec::new();
    for (group, lines) in groups.into_iter().enumerate() {
        if group == always || rng.below(2) == 0 {
            posted.extend(lines.iter().map(|line| Posted {
                rollout: rollout(line),
                group,
                worker: 0,
                cached_tokens: None,
            }));
        }
    }
    posted
}

fn rollout(line: &Line) -> Rollout {
    Rollout {
        id: line.id.clone(),
        prompt_token_ids: line.prompt_token_ids.clone(),
        completion_token_ids: line.completion_token_ids.clone(),
        logprobs: line.logprobs.clone(),
        loss_mask: None,
        sampling: line.sampling,
        logprobs_mode: line.logprobs_mode,
        finish_reason: line.finish_reason.clone(),
        policy_version: Some(CURRENT.into()),
        weight_versions: Vec::new(),
    }
}
