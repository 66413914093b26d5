//! What makes two requests the same, and two sequences.

use std::collections::HashMap;

use plumbline_core::{LogprobsMode, ProcessingOrder, Rollout, Sampling};
use plumbline_store::Digest;

use crate::body::Verification;

/// Versions of what is hashed: another one makes all known content new.
const REQUEST: &[u8] = b"request 1";
const SEQUENCE: &[u8] = b"sequence 1";

/// What a request is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Of its content: run, engine, worker, sequences, and the parts of the answer that it asks for.
    pub(crate) digest: Digest,
    /// Of each sequence: run, engine, its id and its content. A sequence without an id of the sender's is known by its number
    /// among the equal ones of its request, so that the order of a request does not matter.
    pub(crate) sequences: Vec<Digest>,
    /// The `Idempotency-Key`.
    pub(crate) key: Option<String>,
}

impl Identity {
    /// Hashes a request. CPU-bound.
    pub(crate) fn of(verification: &Verification, key: Option<String>) -> Self {
        let (run, engine) = (verification.run.as_bytes(), verification.engine.as_bytes());
        let mut unnamed: HashMap<Digest, u64> = HashMap::new();
        let mut content = Vec::new();
        let sequences: Vec<Digest> = verification
            .rollouts
            .iter()
            .zip(&verification.cached_tokens)
            .zip(&verification.named)
            .map(|((rollout, cached_tokens), named)| {
                content.clear();
                write_content(&mut content, rollout, *cached_tokens);
                if *named {
                    return Digest::of([SEQUENCE, run, engine, b"id", rollout.id.as_bytes(), &content]);
                }
                let equal = Digest::of([SEQUENCE, run, engine, b"equal", &content]);
                let number = unnamed.entry(equal).or_default();
                let digest = Digest::of([SEQUENCE, run, engine, b"number", &number.to_le_bytes(), &content]);
                *number += 1;
                digest
            })
            .collect();
        let include =
            [verification.include_tokens, verification.include_importance_weights, verification.include_diagnosis]
                .map(u8::from);
        let worker = verification.worker.as_deref();
        let head =
            [REQUEST, run, engine, &[u8::from(worker.is_some())], worker.unwrap_or_default().as_bytes(), &include];
        let digest = Digest::of(head.into_iter().chain(sequences.iter().map(|digest| digest.as_bytes().as_slice())));
        Self { digest, sequences, key }
    }
}

/// Everything that decides what a sequence is compared with and how, unambiguously.
fn write_content(to: &mut Vec<u8>, rollout: &Rollout, cached_tokens: Option<usize>) {
    // Without `..`: a field that is added has to be looked at here.
    let Rollout {
        id: _,
        prompt_token_ids,
        completion_token_ids,
        logprobs,
        loss_mask,
        sampling,
        logprobs_mode,
        finish_reason,
        policy_version,
        weight_versions,
    } = rollout;
    write_count(to, prompt_token_ids.len());
    prompt_token_ids.iter().for_each(|id| to.extend(id.to_le_bytes()));
    write_count(to, completion_token_ids.len());
    completion_token_ids.iter().for_each(|id| to.extend(id.to_le_bytes()));
    for logprob in logprobs {
        to.push(u8::from(logprob.is_some()));
        // All NaNs are one: JSON does not tell them apart.
        let bits = logprob.map_or(0, |value| if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() });
        to.extend(bits.to_le_bytes());
    }
    to.push(u8::from(loss_mask.is_some()));
    to.extend(loss_mask.iter().flatten().map(|kept| u8::from(*kept)));
    write_sampling(to, sampling);
    to.push(match logprobs_mode {
        LogprobsMode::Raw => 0,
        LogprobsMode::Temperature => 1,
        LogprobsMode::Processed => 2,
    });
    write_text(to, finish_reason.as_deref());
    write_text(to, policy_version.as_deref());
    write_count(to, weight_versions.len());
    for span in weight_versions {
        write_text(to, Some(&span.version));
        write_count(to, span.start);
        write_count(to, span.end);
    }
    to.push(u8::from(cached_tokens.is_some()));
    write_count(to, cached_tokens.unwrap_or_default());
}

fn write_sampling(to: &mut Vec<u8>, sampling: &Sampling) {
    let Sampling { temperature, top_p, top_k, min_p, repetition_penalty, presence_penalty, frequency_penalty, order } =
        sampling;
    for number in [temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty] {
        to.extend(number.to_bits().to_le_bytes());
    }
    to.extend(top_k.to_le_bytes());
    to.push(match order {
        None => 0,
        Some(ProcessingOrder::Vllm) => 1,
        Some(ProcessingOrder::Sglang) => 2,
        Some(ProcessingOrder::Tgi) => 3,
    });
}

fn write_count(to: &mut Vec<u8>, count: usize) {
    to.extend((count as u64).to_le_bytes());
}

fn write_text(to: &mut Vec<u8>, text: Option<&str>) {
    to.push(u8::from(text.is_some()));
    let text = text.unwrap_or_default();
    write_count(to, text.len());
    to.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use plumbline_core::ModelLimits;
    use serde_json::{Value, json};

    use super::*;
    use crate::body::{RequestLimits, parse, resolve};

    fn identity(body: &Value) -> Identity {
        let limits = RequestLimits { model: ModelLimits { vocab_size: 100, max_positions: 100 }, max_sequences: 10 };
        Identity::of(&resolve(parse(body.to_string().as_bytes()).unwrap(), &limits).unwrap(), None)
    }

    fn body() -> Value {
        json!({"run": "r", "engine": "vllm", "sequences": [
            {"id": "a", "prompt_token_ids": [1], "completion_token_ids": [2, 3], "logprobs": [-1.0, null]}]})
    }

    fn with(pointer: &str, value: Value) -> Identity {
        let mut body = body();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        body.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(key.into(), value);
        identity(&body)
    }

    #[test]
    fn what_says_the_same_is_the_same() {
        let one = identity(&body());
        assert_eq!(one, identity(&body()));
        let neutral = json!({"temperature": 1.0, "top_p": 1, "top_k": 0});
        assert_eq!(one, with("/sampling", neutral), "defaults, stated or not");
        assert_eq!(one, with("/sequences/0/logprobs_mode", json!("raw")));
    }

    #[test]
    fn whatever_is_measured_differently_is_another_request() {
        let mut seen = HashSet::from([identity(&body()).digest]);
        for (pointer, value) in [
            ("/run", json!("s")),
            ("/engine", json!("llama.cpp")),
            ("/worker", json!("w")),
            ("/policy_version", json!("2")),
            ("/include", json!(["tokens"])),
            ("/include", json!(["diagnosis"])),
            ("/sampling", json!({"temperature": 0.5})),
            ("/sampling", json!({"top_k": 5})),
            ("/sampling", json!({"order": "sglang"})),
            ("/logprobs_mode", json!("temperature")),
            ("/sequences/0/id", json!("b")),
            ("/sequences/0/prompt_token_ids", json!([1, 2])),
            ("/sequences/0/prompt_token_ids", json!([])),
            ("/sequences/0/completion_token_ids", json!([2, 4])),
            ("/sequences/0/logprobs", json!([-1.0, "NaN"])),
            ("/sequences/0/logprobs", json!([-1.0, 0.0])),
            ("/sequences/0/logprobs", json!([-1.5, null])),
            ("/sequences/0/loss_mask", json!([1, 1])),
            ("/sequences/0/loss_mask", json!([1, 0])),
            ("/sequences/0/finish_reason", json!("stop")),
            ("/sequences/0/cached_tokens", json!(0)),
            ("/sequences/0/cached_tokens", json!(1)),
            ("/sequences/0/weight_versions", json!([{"version": "2", "start": 0, "end": 2}])),
        ] {
            assert!(seen.insert(with(pointer, value).digest), "{pointer}");
        }
    }

    #[test]
    fn a_sequence_is_its_own_whatever_is_around_it() {
        let alone = identity(&body()).sequences[0];
        assert_eq!(with("/worker", json!("w")).sequences, [alone]);
        assert_eq!(with("/include", json!(["tokens"])).sequences, [alone]);
        assert_ne!(with("/run", json!("s")).sequences, [alone]);
        let mut two = body();
        let other = json!({"id": "b", "prompt_token_ids": [1], "completion_token_ids": [2], "logprobs": [-1.0]});
        two["sequences"].as_array_mut().unwrap().insert(0, other);
        assert_eq!(identity(&two).sequences[1], alone);
    }

    #[test]
    fn equal_sequences_without_names_are_told_apart_by_number() {
        let of = |completions: [u32; 3]| {
            let mut body = body();
            body["sequences"] = completions
                .map(|token| json!({"prompt_token_ids": [1], "completion_token_ids": [token], "logprobs": [-1.0]}))
                .as_slice()
                .into();
            identity(&body).sequences
        };
        let (one, other) = (of([5, 6, 5]), of([6, 5, 5]));
        assert_eq!(one.iter().collect::<HashSet<_>>().len(), 3);
        assert_eq!(one.iter().collect::<HashSet<_>>(), other.iter().collect::<HashSet<_>>());
    }
}
