//! What happens to a request once it is read: it is answered at once, or accepted and answered later. Either way once.

mod lines;
mod wishes;

use std::sync::Arc;

use plumbline_store::{Existing, Packed};

pub(crate) use self::lines::{LinesResponse, lines};
pub(crate) use self::wishes::{PREFERENCE_APPLIED, RESPOND_ASYNC, Wishes};
use crate::body::Verification;
use crate::ledger::{Accepted, Found, Identity, Settled, Target, settle};
use crate::problem::{Code, Problem};
use crate::state::{AppState, Resident};
use crate::verify::{Terms, defect, new_id, tokens_of, verify};

/// How often a verification is begun again because another request accepted it meanwhile. Once is rare.
const MAX_TURNS: usize = 5;

/// An answer to somebody who waits for it.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) json: Vec<u8>,
    /// Whether it was answered before.
    pub(crate) replayed: bool,
    pub(crate) scored_tokens: usize,
}

/// A request that was read, and what it is known by.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) verification: Verification,
    pub(crate) identity: Identity,
}

impl Request {
    /// CPU-bound.
    pub(crate) fn new(verification: Verification, key: Option<String>) -> Self {
        let identity = Identity::of(&verification, key);
        Self { verification, identity }
    }
}

/// Answers a request at once: with the stored answer if there is one, else it is scored, stored and counted.
///
/// # Errors
/// As [`verify`]; 422 for an `Idempotency-Key` that came with other content.
pub(crate) async fn answer(
    state: &Arc<AppState>,
    resident: &Resident,
    request: Request,
    terms: &Terms,
) -> Result<Reply, Problem> {
    let Request { mut verification, identity } = request;
    for _ in 0..MAX_TURNS {
        // The same content at the same time: whoever comes second gets what the first one stores.
        let claim = state.ledger.claim(&identity).await;
        let (target, id) = match state.ledger.look_up(&identity).await? {
            Found::Answer(json) => return Ok(Reply { json, replayed: true, scored_tokens: 0 }),
            // Somebody waits for it now: it need not wait for its turn any longer.
            Found::Accepted(Existing { id, .. }) => (Target::Waited, id),
            Found::New => (Target::Direct, new_id()),
        };
        let answer = verify(state, resident, verification, id, terms).await?;
        let scored_tokens = answer.scored_tokens;
        match settle(state, answer, identity.clone(), target, claim).await? {
            Settled::Answer(json) => return Ok(Reply { json, replayed: false, scored_tokens }),
            Settled::Taken(again) => verification = *again,
            Settled::Ended => return Err(crate::state::draining()),
        }
    }
    Err(defect(&"other requests kept accepting the same content"))
}

/// Accepts a request to be answered later; `body` is a native body of the same content.
///
/// # Errors
/// As [`crate::ledger::Ledger::accept`], and 413 for one that could never be queued.
pub(crate) async fn accept(state: &AppState, request: &Request, body: Packed) -> Result<Accepted, Problem> {
    let tokens = tokens_of(&request.verification);
    let limit = state.config.max_queue_tokens;
    if tokens > limit {
        let detail = format!("the sequences have {tokens} tokens together, the queue takes at most {limit}");
        return Err(Problem::new(Code::RequestTooLarge, format!("{detail}; send fewer sequences at a time")));
    }
    // Without the claim: a job that is under way has it.
    match state.ledger.look_up(&request.identity).await? {
        Found::Answer(json) => return Ok(Accepted::Answer(json)),
        Found::Accepted(existing) => return Ok(Accepted::Queued(existing)),
        Found::New => {}
    }
    let claim = state.ledger.claim(&request.identity).await;
    let labels = (request.verification.run.clone(), request.verification.engine.clone());
    let accepted = state.ledger.accept(&request.identity, labels, new_id(), body).await?;
    drop(claim);
    state.jobs.wake();
    Ok(accepted)
}
