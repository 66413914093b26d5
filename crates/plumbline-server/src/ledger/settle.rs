//! An answer becomes a fact: it is stored, and what is new of it is counted.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use plumbline_store::{
    Class, Completion, Finished, JobState, NewSequence, NewVerification, Packed, Store, StoreError,
    Target as StoreTarget,
};

use super::{Claim, Identity, Ledger, key_reused, read, rows, sealed, unreadable, unwritable};
use crate::body::Verification;
use crate::metrics::Observation;
use crate::problem::Problem;
use crate::state::{AppState, loading};
use crate::trace;
use crate::verify::{Answer, AnsweredSequence, INLINE_TOKENS, compute, defect};

/// Between two tries to store what must be stored.
const STORE_INTERVAL: Duration = Duration::from_secs(1);

/// Whose answer it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Of a request that waits for it and was not accepted before. If it cannot be stored it is answered all the same, and says so.
    Direct,
    /// The same, of a request whose verification was accepted before.
    Waited,
    /// Of an accepted verification that nobody waits for. Stored, however long that takes, or not answered at all.
    Job,
}

/// What became of an answer.
#[derive(Debug)]
pub(crate) enum Settled {
    /// The bytes to send.
    Answer(Vec<u8>),
    /// Meanwhile another verification was accepted with this content, and is not answered. With what was to be verified.
    Taken(Box<Verification>),
    /// The server ends before a job's answer could be stored.
    Ended,
}

/// Stores an answer, counts what is new of it, and says what to send. Runs to its end even if nobody waits any more: what is stored
/// is counted. `claim` is held until then.
///
/// # Errors
/// 422 for a key that came with other content, 500 for a defect.
pub(crate) async fn settle(
    state: &Arc<AppState>,
    answer: Answer,
    identity: Identity,
    target: Target,
    claim: Claim,
) -> Result<Settled, Problem> {
    let state = Arc::clone(state);
    let settling = tokio::spawn(trace::carried(async move {
        let _claim = claim;
        settled(&state, answer, identity, target).await
    }));
    settling.await.map_err(|error| defect(&error))?
}

async fn settled(state: &AppState, answer: Answer, identity: Identity, target: Target) -> Result<Settled, Problem> {
    let ledger = &state.ledger;
    let Some(store) = ledger.store() else { return unstored(state, answer, &identity, Vec::new()) };
    let heavy = answer.scored_tokens > INLINE_TOKENS;
    let digests = identity.sequences.clone();
    let (answer, packed) = compute(heavy, move || {
        let packed = packed(&answer, &digests);
        (answer, packed)
    })
    .await?;
    let (response, sequences) = packed.map_err(|error| unwritable(&error))?;
    loop {
        let at = SystemTime::now();
        let store_target = match target {
            Target::Direct => StoreTarget::Direct(NewVerification {
                id: answer.id.clone(),
                run: answer.verification.run.clone(),
                engine: answer.verification.engine.clone(),
                class: Class::Interactive,
                at,
                digest: identity.digest,
                idempotency_key: identity.key.clone(),
            }),
            Target::Waited | Target::Job => StoreTarget::Job(answer.id.clone()),
        };
        let completion = Completion {
            target: store_target,
            response: response.clone(),
            at,
            sequences: sequences.clone(),
            assumed_new: None,
        };
        match (trace::stage("store", store.finish(completion)).await, &target) {
            (Ok(Finished::Done { new }), _) => {
                let json = count(state, answer, &identity, &new, true)?;
                return Ok(Settled::Answer(json));
            }
            (Ok(Finished::Known(existing)), _) if existing.state == JobState::Done => {
                return match ledger.answer_of(&existing).await {
                    Ok(Some(json)) => Ok(Settled::Answer(json)),
                    // Retention was faster, or it cannot be read: what was scored here says the same, and nothing of it is new.
                    Ok(None) => Ok(Settled::Answer(sealed(answer.json, &vec![false; identity.sequences.len()], true))),
                    Err(error) => {
                        unreadable(&error);
                        Ok(Settled::Answer(sealed(answer.json, &vec![false; identity.sequences.len()], true)))
                    }
                };
            }
            (Ok(Finished::Known(_)), _) => return Ok(Settled::Taken(Box::new(answer.verification))),
            (Ok(Finished::KeyReused { .. }), _) => return Err(key_reused()),
            (Ok(other @ (Finished::Differs { .. } | Finished::Missing)), _) => {
                return Err(defect(&format!("the store says {other:?} of an answer")));
            }
            (Err(error), Target::Job) => {
                tracing::warn!(id = answer.id, %error, "the answer of an accepted verification cannot be stored yet");
                let mut drain = state.drain.clone();
                tokio::select! {
                    () = tokio::time::sleep(STORE_INTERVAL) => {}
                    _ = drain.wait_for(|draining| *draining) => return Ok(Settled::Ended),
                }
            }
            (Err(error), Target::Direct | Target::Waited) => {
                tracing::warn!(id = answer.id, %error, "an answer is not stored");
                let new = readable_news(store, &identity).await;
                return unstored(state, answer, &identity, new);
            }
        }
    }
}

/// What the store keeps of an answer. CPU-bound.
fn packed(answer: &Answer, digests: &[plumbline_store::Digest]) -> serde_json::Result<(Packed, Vec<NewSequence>)> {
    let pairs = digests.iter().zip(&answer.sequences);
    let sequences = pairs.map(|(digest, answered)| rows::new_sequence(*digest, answered)).collect::<Result<_, _>>()?;
    Ok((Packed::new(&answer.json), sequences))
}

/// Which sequences the store does not have, if it can still be read: a full disk can.
async fn readable_news(store: &Arc<Store>, identity: &Identity) -> Vec<bool> {
    let digests = identity.sequences.clone();
    read(store, move |reader| reader.new_digests(&digests)).await.unwrap_or_else(|error: StoreError| {
        unreadable(&error);
        Vec::new()
    })
}

/// Counts an answer that is only remembered. `new` = what the store says, as far as it says something.
fn unstored(state: &AppState, answer: Answer, identity: &Identity, mut new: Vec<bool>) -> Result<Settled, Problem> {
    new.resize(identity.sequences.len(), true);
    if state.ledger.store().is_some() {
        state.ledger.metrics.unstored.inc();
    }
    let json = count(state, answer, identity, &new, false)?;
    state.ledger.recent().remember(identity, &json);
    Ok(Settled::Answer(json))
}

/// Moves counters and monitor by the sequences that are new, and makes the answer say which are not.
fn count(
    state: &AppState,
    answer: Answer,
    identity: &Identity,
    new: &[bool],
    stored: bool,
) -> Result<Vec<u8>, Problem> {
    let resident = state.loaded().ok_or_else(loading)?;
    let Answer { json, verification, sequences, .. } = answer;
    let counts = state.ledger.count(identity, new, stored);
    // What is stored says what the store says, so that a retry gets the same bytes.
    let json = sealed(json, if stored { new } else { &counts }, stored);
    let mut observation = Observation::default();
    let mut kept = Vec::with_capacity(sequences.len());
    for (AnsweredSequence { summary, stored: sequence }, counts) in sequences.into_iter().zip(&counts) {
        if *counts {
            observation.add(&sequence.comparison, summary);
            kept.push(sequence);
        }
    }
    if !kept.is_empty() {
        let group = resident.divergence.observe(&verification.run, &verification.engine, &observation);
        state.sequences.add(kept, &group.run);
        state.live.touch(&group.run);
        resident.recent.add(&verification.rollouts);
    }
    Ok(json)
}

impl Ledger {
    /// Which of the sequences that the store calls new really are: those that were counted while they could not be stored are not.
    fn count(&self, identity: &Identity, new: &[bool], stored: bool) -> Vec<bool> {
        let mut recent = self.recent();
        let counted: Vec<bool> = identity
            .sequences
            .iter()
            .zip(new)
            .map(|(digest, new)| {
                let counts = *new && !recent.has_counted(digest);
                if counts && !stored {
                    recent.count(*digest);
                }
                counts
            })
            .collect();
        let repeated = counted.iter().filter(|counts| !**counts).count();
        self.metrics.sequences_repeated.inc_by(repeated as u64);
        counted
    }
}
